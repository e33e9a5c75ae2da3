"""Rows and sources of units that several tests read."""

from dataclasses import dataclass, field
from typing import Any

import lightning.pytorch as pl
import torch

from lit_posttrain.contracts import ProblemSource
from lit_posttrain.data.formats import PreferenceRow, RankedRow, StepwiseRow, UnpairedRow
from lit_posttrain.data.preparation import Preparation
from lit_posttrain.data.steps import Cut
from lit_posttrain.data.unit_loader import UnitBuilder, UnitLoader
from lit_posttrain.ranks import Ranks
from lit_posttrain.text import TextConfig, load_text

TEXT = load_text(TextConfig(characters="0123456789+=;"))
HERE = Preparation(0)


@dataclass(frozen=True)
class RowsGiven(ProblemSource):
    """Rows as they are given, the same in every split."""

    given: tuple
    read: list = field(default_factory=list, compare=False)

    def problems(self, split: str) -> Any:
        raise NotImplementedError

    def rows(self, split: str) -> tuple:
        self.read.append(split)
        return self.given


def asked(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def said(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


PAIRS = tuple(
    PreferenceRow(asked(f"{i}+{i}="), said(str(2 * i) * (1 + i % 3)), said(f"={9 - i % 9}"), margin=i / 4)
    for i in range(11)
)
VERDICTS = tuple(UnpairedRow(asked(f"{i}+{i}="), said(str(2 * i)), i % 3 > 0) for i in range(11))
GROUPS = tuple(
    RankedRow(
        asked(f"{i}+{i}="),
        [said(str(j) * (1 + i % 2)) for j in range(2 + i % 3)],
        [float(j + i) for j in range(2 + i % 3)],
    )
    for i in range(11)
)
SOLUTIONS = tuple(
    StepwiseRow(
        asked(f"{i}+{i}="),
        [str(j) * (1 + i % 3) for j in range(1 + i % 4)],
        [1.0, None, 0.25, 1.0][: 1 + i % 4],
    )
    for i in range(11)
)


def loaders(
    data: pl.LightningDataModule, count: int = 1, k: int = 1, *, packed: bool = False
) -> list[UnitLoader]:
    """The loaders of every rank of a run that is cut in this way."""
    made = []
    for rank in range(count):
        whole = data.train_dataloader()
        old = whole.builder
        cut = Cut(k, packed, 0, Ranks(rank, count))
        builder = UnitBuilder(old.units, cut, old.assembly, old.shares, old.pad_id, old.reference)
        made.append(UnitLoader(whole.order, builder, whole.before_step))
    return made


def sequences(batch: Any) -> list[dict[str, Any]]:
    """Every sequence of a padded or packed batch: its ids and all that the batch says of it, unit names apart."""
    found = []
    for number in range(1, batch.sequences + 1):
        at = batch.segments == number
        one: dict[str, Any] = {"ids": tuple(batch.input_ids[at].tolist())}
        for name, value in vars(batch).items():
            if not isinstance(value, torch.Tensor) or name in ("input_ids", "segments", "pair", "group"):
                continue
            if value.shape == batch.input_ids.shape:
                one[name] = tuple(round(float(v), 6) for v in value[at])
            else:
                one[name] = round(float(value[number - 1]), 6)
        found.append(one)
    return found


def steps_of(ranks: list[UnitLoader]) -> list[list[tuple]]:
    """What each step of an epoch holds over all ranks and micro-batches, without those that keep step only."""
    batches = [list(loader) for loader in ranks]
    k = ranks[0].cut.micro_batches
    assert len({len(each) for each in batches}) == 1
    steps = []
    for first in range(0, len(batches[0]), k):
        live = [b for each in batches for b in each[first : first + k] if b.weights.sum() > 0]
        steps.append(sorted(tuple(sorted(one.items())) for b in live for one in sequences(b)))
    return steps
