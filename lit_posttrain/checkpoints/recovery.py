"""What to use where a checkpoint is damaged or its writer was killed, and what to clear away."""

import contextlib
import fcntl
import os
import re
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from lit_posttrain.checkpoints.folder import delete, lock, place_aside, verify
from lit_posttrain.checkpoints.hashed_files import sync
from lit_posttrain.checkpoints.manifest import MANIFEST, Damaged, manifest_of
from lit_posttrain.errors import InputError

T = TypeVar("T")
_LEFTOVER = re.compile(r"\.(?P<name>.+)\.(?P<what>tmp|old)-(?P<token>[0-9a-f]{16})")
_DAY_S = 86400


def usable(path: Path) -> Path:
    """The checkpoint that `path` (or the link there) names if it verifies, else the newest before it that does.

    Looks at what a killed writer left of the same name, then at the checkpoints beside it whose step is not higher,
    as its manifest or name (`step-50`) says; where neither does, at all of them. Warns, naming both. Where nothing
    ever stood at `path`, there is nothing to replace and nothing is searched.

    Raises:
        Damaged: if none verifies.
        InputError: if `path` is no checkpoint, or none that this version reads.
    """
    return first_sound(path, verify)[0]


def first_sound(path: Path, attempt: Callable[[Path], T]) -> tuple[Path, T]:
    """As `usable`, and what `attempt` (`verify`, `read` …) gives, so that a checkpoint is read only once."""
    path = Path(path)
    asked = path.resolve()
    lost = not os.path.lexists(asked) and (path.is_symlink() or any(_leftovers(asked)))
    try:
        if lost:
            raise Damaged(f"{asked} is not there")
        return asked, attempt(asked)
    except Damaged as error:
        problem = error
    for other in _others(asked):
        with contextlib.suppress(InputError):
            found = attempt(other)
            warnings.warn(f"{problem}; {other} is used in its place", UserWarning, stacklevel=3)
            return other, found
    raise Damaged(f"{problem}; no checkpoint beside it, up to its step, can be read either") from problem


def _others(asked: Path) -> Iterator[Path]:
    """What may stand in for a checkpoint, best first."""
    yield from _leftovers(asked)
    if not asked.parent.is_dir():
        return
    beside = {other: _step_of(other) for other in asked.parent.iterdir() if _may_be_checkpoint(other, asked)}
    limit = _step_of(asked)
    steps = {other: step for other, step in beside.items() if step is not None}
    for other in sorted(steps, key=lambda other: (steps[other], other.name), reverse=True):
        if limit is None or steps[other] <= limit:
            yield other


def _may_be_checkpoint(other: Path, asked: Path) -> bool:
    hidden = other.name.startswith(".")
    return other != asked and not hidden and not other.is_symlink() and (other / MANIFEST).is_file()


def _step_of(path: Path) -> int | None:
    with contextlib.suppress(InputError):
        return manifest_of(path).step
    named = re.search(r"step[-_=]?(\d+)", path.name)
    return int(named.group(1)) if named else None


def _leftovers(path: Path) -> list[Path]:
    """What a writer that was killed while it replaced `path` left: the new checkpoint, then the old one."""
    if not path.parent.is_dir():
        return []
    found = [(other, _LEFTOVER.fullmatch(other.name)) for other in path.parent.iterdir()]
    same = [(other, match["what"]) for other, match in found if match and match["name"] == path.name]
    if "old" not in (what for _, what in same):
        return []
    return [other for other, _ in sorted(same, key=lambda pair: pair[1], reverse=True)]


def sweep(folder: Path) -> None:
    """Clears what killed writers left in a folder; a checkpoint that they had moved aside goes back to its place.

    What a writer on this machine still works on is left alone. Where the filesystem has no locks, that is anything
    younger than a day.
    """
    folder = Path(folder)
    found = [_LEFTOVER.fullmatch(child.name) for child in folder.iterdir()] if folder.is_dir() else []
    for name, token in {(match["name"], match["token"]) for match in found if match}:
        temp = folder / f".{name}.tmp-{token}"
        with _claimed(temp if temp.is_dir() else folder / name) as dead:  # the lock moves with the folder
            if dead:
                _clear(temp, folder / name)


def _clear(temp: Path, path: Path) -> None:
    """Ends what the dead writer of `temp` began."""
    aside = place_aside(temp)
    if os.path.lexists(aside) and not os.path.lexists(path):
        whole = False
        with contextlib.suppress(InputError):
            whole = temp.is_dir() and verify(temp) is not None
        os.rename(temp if whole else aside, path)
        sync(path.parent)
    delete(temp)
    delete(aside)


@contextlib.contextmanager
def _claimed(folder: Path) -> Iterator[bool]:
    """Whether no process works on a folder of `begin`; while the context lasts, none can begin to."""
    if not folder.is_dir():
        yield True
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        old = time.time() - os.fstat(descriptor).st_mtime > _DAY_S
        yield lock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, otherwise=old)
    finally:
        os.close(descriptor)
