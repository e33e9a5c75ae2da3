"""From the books of all ranks to logged figures and to the axes of an S-curve."""

from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from lit_posttrain.ledger import Phase, Spent

HOUR_S = 3600.0

TRAINING = tuple(phase for phase in Phase if phase is not Phase.EVALUATION)

AXES = (
    "device_seconds",
    "device_hours",
    "flops",
    "train_flops",
    "generation_flops",
    "tokens_generated",
    "tokens_trained",
    "tokens",
)
"""Ways to measure compute, each logged as `scurve/<axis>` with every point."""

COUNTS = frozenset(name for name, value in vars(Spent()).items() if isinstance(value, int))


def flatten(spent: Mapping[Phase, Spent]) -> dict[str, float]:
    """The books as `phase/quantity`, in a fixed order."""
    return {f"{phase.value}/{name}": value for phase in Phase for name, value in vars(spent[phase]).items()}


def unflatten(totals: Mapping[str, float]) -> dict[Phase, Spent]:
    """The inverse of `flatten`; further entries are ignored."""
    return {phase: _spent(totals, phase.value) for phase in Phase}


def _spent(totals: Mapping[str, float], phase: str) -> Spent:
    values: dict[str, Any] = {f.name: totals[f"{phase}/{f.name}"] for f in fields(Spent)}
    return Spent(**{name: int(value) if name in COUNTS else value for name, value in values.items()})


def total(spent: Mapping[Phase, Spent], phases: Iterable[Phase]) -> Spent:
    """What was spent in several phases together."""
    result = Spent()
    for phase in phases:
        result += spent[phase]
    return result


def curve_axes(spent: Mapping[Phase, Spent], device_seconds: float) -> dict[str, float]:
    """The compute of a point by every axis, as `scurve/<axis>`."""
    training = total(spent, TRAINING)
    values = {
        "device_seconds": device_seconds,
        "device_hours": device_seconds / HOUR_S,
        "flops": training.flops,
        "train_flops": spent[Phase.SCORING].flops + spent[Phase.UPDATE].flops,
        "generation_flops": spent[Phase.ROLLOUT].flops,
        "tokens_generated": training.generated_tokens,
        "tokens_trained": training.trained_tokens,
        "tokens": training.generated_tokens + training.trained_tokens,
    }
    return {f"scurve/{axis}": values[axis] for axis in AXES}


def compute_figures(spent: Mapping[Phase, Spent]) -> dict[str, float]:
    """`compute/*`: FLOPs by phase, and tokens; the phases but evaluation add up to `compute/total_flops`."""
    training = total(spent, TRAINING)
    return {
        "compute/train_flops": spent[Phase.SCORING].flops + spent[Phase.UPDATE].flops,
        "compute/generation_flops": spent[Phase.ROLLOUT].flops,
        "compute/rollout_flops": spent[Phase.ROLLOUT].flops,
        "compute/grading_flops": spent[Phase.GRADING].flops,
        "compute/scoring_flops": spent[Phase.SCORING].flops,
        "compute/update_flops": spent[Phase.UPDATE].flops,
        "compute/evaluation_flops": spent[Phase.EVALUATION].flops,
        "compute/total_flops": training.flops,
        "compute/total_causal_flops": training.causal_flops,
        "compute/tokens_generated": training.generated_tokens,
        "compute/tokens_trained": training.trained_tokens,
        "compute/tokens_processed": training.positions,
    }


def time_figures(
    spent: Mapping[Phase, Spent], *, device_seconds: float, active_seconds: float, wall_seconds: float
) -> dict[str, float]:
    """`time/*`: seconds by phase, and what no phase accounts for.

    Args:
        spent: The books of all ranks.
        device_seconds: The axis, in seconds of the device that the run began on.
        active_seconds: The same in seconds as they passed.
        wall_seconds: Since training began, evaluation included.
    """
    return {
        "time/device_seconds": device_seconds,
        **{f"time/{phase.value}_seconds": spent[phase].seconds for phase in Phase},
        "time/other_seconds": active_seconds - total(spent, TRAINING).seconds,
        "time/wall_seconds": wall_seconds,
    }


def sum_over_ranks(values: Mapping[str, float], device: torch.device) -> dict[str, float]:
    """Each value summed over all ranks, in float64 on the CPU where the backend can; collective."""
    backend = torch.distributed.get_backend()
    place = torch.device("cpu") if "gloo" in str(backend) else device
    tensor: Tensor = torch.tensor(list(values.values()), dtype=torch.float64, device=place)
    torch.distributed.all_reduce(tensor)
    return dict(zip(values, tensor.tolist(), strict=True))
