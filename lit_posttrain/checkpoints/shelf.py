"""The checkpoints of one run in their folder: names, links, what is deleted, and whose they are."""

import json
import os
import re
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lit_posttrain.checkpoints import folder, manifest
from lit_posttrain.errors import InputError

LAST, BEST, RUN = "last.ckpt", "best.ckpt", "run.json"
STEP = re.compile(r"step-(\d+)\.ckpt")


class Shelf:
    """The checkpoints of one run in their folder: `saved` names from old to new, `scores` of some (more is better)."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.saved: list[str] = []
        self.scores: dict[str, float] = {}

    def books(self) -> tuple[list[str], dict[str, float]]:
        """Copies of names and scores."""
        return list(self.saved), dict(self.scores)

    def path_of(self, link: str) -> str:
        """The path of a link; empty if it is not there."""
        path = self.folder / link
        return str(path) if self.folder.name and path.is_symlink() else ""

    def put(self, name: str, score: float | None, keep_last: int, best: int) -> None:
        """Notes a checkpoint, and forgets those that need not be kept beside it; of equals the older is better."""
        self.saved = [*(other for other in self.saved if other != name), name]
        if score is not None and best:
            self.scores[name] = score
        ranked = sorted(
            (other for other in self.saved if other in self.scores), key=lambda n: -self.scores[n]
        )
        kept = {*self.saved[-keep_last:], *ranked[:best]}
        self.saved = [other for other in self.saved if other in kept]
        self.scores = {other: self.scores[other] for other in ranked if other in kept}

    def settle(self, name: str) -> OSError | None:
        """Verifies a new checkpoint, moves the links, deletes what is not kept; the error that it met, if any."""
        try:
            folder.verify(self.folder / name)
            self._link(LAST, name)
            if self.scores:
                self._link(BEST, max(self.scores, key=lambda other: self.scores[other]))
            self.delete_others(int(STEP.fullmatch(name)[1]))  # type: ignore[index]
        except OSError as error:
            return error
        except manifest.Damaged as error:
            return OSError(str(error))
        return None

    def drop_missing(self) -> None:
        """Forgets checkpoints that are not in the folder, or not whole by manifest and sizes."""
        self.saved = [name for name in self.saved if is_whole(self.folder / name)]
        self.scores = {name: score for name, score in self.scores.items() if name in self.saved}

    def _link(self, link: str, name: str) -> None:
        temporary = self.folder / f".{link}.tmp-{secrets.token_hex(8)}"
        os.symlink(name, temporary)
        os.replace(temporary, self.folder / link)
        _sync(self.folder)

    def delete_others(self, step: int) -> None:
        """Deletes what is not kept; what lies ahead, of an attempt that came further, stays until it is passed."""
        for name, found in steps_in(self.folder).items():
            if name not in self.saved and found <= step:
                folder.remove(self.folder / name)
        if not self.scores and (self.folder / BEST).is_symlink() and not (self.folder / BEST).exists():
            (self.folder / BEST).unlink()


def name_of(step: int) -> str:
    """What the checkpoint of a step is called."""
    return f"step-{step:08d}.ckpt"


def steps_in(where: Path) -> dict[str, int]:
    """The steps of all checkpoints in a folder, by name."""
    found = {path.name: STEP.fullmatch(path.name) for path in where.glob("step-*.ckpt")}
    return {name: int(match[1]) for name, match in found.items() if match}


def is_whole(path: Path) -> bool:
    """Whether all files of a checkpoint are there with their sizes; their content is not looked at."""
    try:
        files = manifest.manifest_of(path).files
        return all((path / name).stat().st_size == entry.size for name, entry in files.items())
    except (InputError, OSError):
        return False


def not_ours(where: Path) -> str:
    names: Sequence[str] = sorted(path.name for path in where.glob("*.ckpt"))
    return (
        f"{where} holds checkpoints of an earlier run ({names[-1]}), which would be mixed with those of this one. "
        "Go on with that run (--ckpt_path last), or give another checkpoint.dirpath, or remove the folder"
    )


def read_run(where: Path) -> dict[str, Any] | None:
    try:
        return json.loads((where / RUN).read_text())
    except (FileNotFoundError, ValueError):
        return None


def write_run(where: Path, content: Mapping[str, Any]) -> None:
    """Notes whose checkpoints the folder will hold, before there are any."""
    if read_run(where) == content:
        return
    where.mkdir(parents=True, exist_ok=True)
    temporary = where / f".{RUN}.tmp-{secrets.token_hex(8)}"
    with temporary.open("w") as file:
        file.write(json.dumps(content, indent=1))
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(where / RUN)
    _sync(where)


def _sync(where: Path) -> None:
    descriptor = os.open(where, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
