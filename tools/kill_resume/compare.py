"""Differences between a run that was killed and resumed, and the one that nobody disturbed."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from kill_resume.evidence import SECONDS, Segment, Tracked

CLOCK_TOLERANCE_S = 0.5
PATHS = re.compile(r"(dirpath|.*_path|.*_k_models|run_uid|run_name)")
"""Entries of a checkpoint that name a place or a run, which differ between two runs."""


def trees(one: Any, other: Any, path: str = "") -> Iterator[str]:
    """The places where two nested states differ, bit by bit; seconds and names of places are left out."""
    name = path.rsplit(".", 1)[-1]
    if SECONDS.fullmatch(name) or name == "seconds" or PATHS.fullmatch(name):
        return
    if type(one) is not type(other):
        yield f"{path}: {_short(one)} against {_short(other)}"
    elif isinstance(one, Mapping):
        for key in one.keys() | other.keys():
            if key in one and key in other:
                yield from trees(one[key], other[key], f"{path}.{key}")
            else:
                yield f"{path}.{key}: only in the {'undisturbed' if key in other else 'resumed'} run"
    elif isinstance(one, list | tuple):
        if len(one) != len(other):
            yield f"{path}: {len(one)} entries against {len(other)}"
        for index, (left, right) in enumerate(zip(one, other, strict=False)):
            yield from trees(left, right, f"{path}.{index}")
    elif not _same(one, other):
        yield f"{path}: {_short(one)} against {_short(other)}"


def histories(resumed: Sequence[Segment], undisturbed: Segment) -> Iterator[str]:
    """Batches, redone ones included, that are not those of the undisturbed run; and those never learned from."""
    seen: set[tuple[int, int]] = set()
    for number, segment in enumerate(resumed):
        for key, digest in segment.batches.items():
            if undisturbed.batches.get(key) != digest:
                yield f"process {number}, step {key[0]}, micro-batch {key[1]}: another batch"
        seen |= segment.batches.keys()
    for key in sorted(undisturbed.batches.keys() - seen):
        yield f"step {key[0]}, micro-batch {key[1]} was never learned from"


def repeated(undisturbed: Tracked) -> list[str]:
    """Metrics that even the undisturbed run logs more than once at a step."""
    return sorted({key for (key, _), values in undisturbed.points.items() if len(values) > 1})


def metrics(resumed: Tracked, undisturbed: Tracked) -> Iterator[str]:
    """Points that are missing, too many or of another value."""
    if resumed.statuses != undisturbed.statuses:
        yield f"MLflow runs {resumed.statuses} against {undisturbed.statuses}"
    for key in sorted(resumed.points.keys() | undisturbed.points.keys()):
        found, wanted = resumed.points.get(key, []), undisturbed.points.get(key, [])
        if len(found) != len(wanted):
            yield f"metric {key[0]} at step {key[1]}: {len(found)} points against {len(wanted)}"
        elif not SECONDS.fullmatch(key[0]) and sorted(map(repr, found)) != sorted(map(repr, wanted)):
            yield f"metric {key[0]} at step {key[1]}: {found} against {wanted}"
    yield from trees(resumed.texts, undisturbed.texts, "artifacts")


def clocks(resumed: Sequence[Segment], books: Mapping[str, Any]) -> Iterator[str]:
    """Whether carried seconds and those of the last process make the seconds of the final books."""
    errors = clock_errors(resumed[-1], books)
    if errors is None:
        yield "the last process did not come to train"
        return
    wall, device = errors
    if abs(wall) > CLOCK_TOLERANCE_S:
        yield f"the wall seconds of the last process are {wall:+.3f} s off a clock of our own"
    if device > CLOCK_TOLERANCE_S:
        yield f"the device seconds of the last process are {device:.3f} s more than passed"


def clock_errors(last: Segment, books: Mapping[str, Any]) -> tuple[float, float] | None:
    """Seconds counted in the last process minus seconds measured: wall and device; None if it did not train.

    A process that found the last step done and saved had nothing to add to the books.
    """
    if last.train_start_s is None or last.train_end_s is None:
        return None
    carried = last.restored or {"wall_seconds": 0.0, "device_seconds": 0.0}
    if not last.batches and books["wall_seconds"] == carried["wall_seconds"]:
        return 0.0, 0.0
    passed = last.train_end_s - last.train_start_s
    wall, device = (books[name] - carried[name] for name in ("wall_seconds", "device_seconds"))
    return wall - passed, (device - passed if device >= 0 else math.inf)


def books_of(checkpoint: Mapping[str, Any]) -> Mapping[str, Any]:
    """The state of the ComputeMeter."""
    return next(state for name, state in checkpoint["callbacks"].items() if name.startswith("ComputeMeter"))


def leftover(names: Sequence[str], orphans: Sequence[str]) -> Iterator[str]:
    """What should not be there any more."""
    yield from (f"leftover {name}" for name in names)
    yield from (f"process left: {command}" for command in orphans)


def tensors_in(tree: Any) -> int:
    """How many tensors a nested state holds."""
    if isinstance(tree, Mapping):
        return sum(map(tensors_in, tree.values()))
    if isinstance(tree, list | tuple):
        return sum(map(tensors_in, tree))
    return int(isinstance(tree, torch.Tensor))


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        if one.dtype != other.dtype or one.shape != other.shape:
            return False
        left, right = (tensor.detach().cpu().contiguous().flatten() for tensor in (one, other))
        return torch.equal(left.view(torch.uint8), right.view(torch.uint8))
    if isinstance(one, float):
        return repr(one) == repr(other) and math.copysign(1, one) == math.copysign(1, other)
    return one == other


def _short(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return f"a tensor {tuple(value.shape)} of {value.dtype}, sum {value.double().sum():.17g}"
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
