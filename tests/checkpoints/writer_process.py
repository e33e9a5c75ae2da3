"""What the tests of checkpoints write, how it is compared, and a process that is killed while it writes it."""

import contextlib
import os
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from lit_posttrain.checkpoints import folder

KILLED = 9
CALLS = ("mkdir", "open", "write", "fsync", "close", "rename", "unlink", "rmdir")


def content(step: int) -> dict[str, Any]:
    """A small checkpoint; every step has other values everywhere."""
    generator = torch.Generator().manual_seed(step)
    weights = {name: torch.randn(4, 3, generator=generator) for name in ("policy.a", "policy.b")}
    moments = [
        {"state": {"policy.a": {"step": torch.tensor(float(step)), "m": torch.randn(4, generator=generator)}}}
    ]
    loops = {
        "epoch": step // 2,
        "order": list(range(step)),
        "best": float("inf"),
        3: (None, True, -0.0, b"\x00"),
    }
    return {"global_step": step, "state_dict": weights, "optimizer_states": moments, "loops": loops}


def assert_same(ours: Any, theirs: Any, place: str = "content") -> None:
    """Equal in type, order and every bit."""
    assert type(ours) is type(theirs), place
    if isinstance(ours, dict):
        for index, (key, other) in enumerate(zip(ours, theirs, strict=True)):
            assert_same(key, other, f"{place} key {index}")
        for (key, value), other in zip(ours.items(), theirs.values(), strict=True):
            assert_same(value, other, f"{place}[{key!r}]")
    elif isinstance(ours, list | tuple):
        for index, (value, other) in enumerate(zip(ours, theirs, strict=True)):
            assert_same(value, other, f"{place}[{index}]")
    elif isinstance(ours, torch.Tensor):
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape), place
        assert _bits(ours) == _bits(theirs), place
    elif isinstance(ours, float):
        assert struct.pack(">d", ours) == struct.pack(">d", theirs), place
    else:
        assert ours == theirs, place


def _bits(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


@contextlib.contextmanager
def shimmed(before: Callable[[str, Callable[..., Any], tuple[Any, ...]], None]) -> Iterator[None]:
    """Calls `before(name, function, arguments)` before each system call that changes the disk."""

    def wrapped(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **named: Any) -> Any:
            before(name, function, args)
            return function(*args, **named)

        return call

    real = {name: getattr(os, name) for name in CALLS}
    try:
        for name, function in real.items():
            setattr(os, name, wrapped(name, function))
        yield
    finally:
        for name, function in real.items():
            setattr(os, name, function)


def killed_at(number: int) -> Callable[..., None]:
    """Ends the process without any clearing up before call `number`; a write is half done by then."""
    count = 0

    def before(name: str, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
        nonlocal count
        count += 1
        if count == number:
            if name == "write":
                function(args[0], args[1][: len(args[1]) // 2])
            os._exit(KILLED)

    return before


def main(root: Path, name: str) -> None:
    """In folder after folder, writes step 10 as `name` beside or over step 5, killed one call later each time."""
    for number in range(1, 1000):
        here = root / name / f"{number:03d}"
        folder.write(here / "step-5.ckpt", content(5))
        child = os.fork()
        if child == 0:
            with shimmed(killed_at(number)):
                folder.write(here / name, content(10))
            os._exit(0)
        if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != KILLED:
            return


if __name__ == "__main__":
    for argument in sys.argv[2:]:
        main(Path(sys.argv[1]), argument)
