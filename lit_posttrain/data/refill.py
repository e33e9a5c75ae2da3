"""Dynamic sampling: a rollout of several prompt batches."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from lit_posttrain import collate
from lit_posttrain.batches import Experience
from lit_posttrain.errors import InputError


@dataclass(frozen=True)
class DynamicSampling:
    """Draws prompt batches until `problems_per_rollout` groups with a signal are there.

    Groups beyond that are dropped, those drawn last first. What was drawn in vain is on the compute axis as all
    else that is drawn. Where a method takes advantages from statistics over a batch when it collects, these are of
    each prompt batch by itself; what it makes of a rollout that is complete (`settle`) sees the joined one.

    Source: DAPO, Yu et al. 2025, arXiv:2503.14476, section 3.2.

    Args:
        most_draws: Prompt batches of a rollout at most; then it is as large as it is.

    Raises:
        InputError: if there may not be a single one.
    """

    most_draws: int = 8

    def __post_init__(self) -> None:
        if self.most_draws < 1:
            raise InputError(f"refill.most_draws is {self.most_draws}; draw 1 prompt batch or more")


def groups_of(parts: Sequence[Experience]) -> int:
    """How many groups several prompt batches have."""
    return sum(len(part.group.unique()) for part in parts)


def joined(parts: Sequence[Experience], most_groups: int) -> Experience:
    """Several prompt batches as one rollout: groups numbered on from batch to batch, the first `most_groups` kept.

    One batch that is small enough is given back as it is.
    """
    if len(parts) > 1:
        offset, numbered = 0, []
        for part in _alike(parts):
            numbered.append(replace(part, group=part.group + offset))
            offset = int(numbered[-1].group.max()) + 1
        whole = collate.concatenate(numbered)
    else:
        whole = parts[0]
    kept = whole.group.unique()
    if len(kept) <= most_groups:
        return whole
    return collate.take(whole, torch.isin(whole.group, kept[:most_groups]).nonzero().squeeze(-1).tolist())


def _alike(parts: Sequence[Experience]) -> list[Experience]:
    """With the optional fields that any of them has in all: sequences are counted, tokens have 0."""
    missing: dict[str, Tensor] = {}
    for f in fields(Experience):
        values = [getattr(part, f.name) for part in parts if f.metadata.get("per")]
        present = [value for value in values if value is not None]
        if 0 < len(present) < len(values):
            missing[f.name] = present[0]
    return [replace(part, **_filled(part, missing)) for part in parts]


def _filled(part: Experience, like: dict[str, Tensor]) -> dict[str, Tensor]:
    added = {}
    for name, value in like.items():
        if getattr(part, name) is None:
            shape = part.input_ids.shape if value.ndim == 2 else part.group.shape
            added[name] = torch.full(shape, name == "counted", dtype=value.dtype)
    return added
