"""One trial: start a run, kill it once or twice, resume it to its end, and compare it with the undisturbed one."""

import json
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from kill_resume import compare, evidence
from kill_resume.announce import Target
from kill_resume.experiments import FOLDER, config
from kill_resume.plans import Plan, Timing
from kill_resume.processes import (
    PHASES,
    Ended,
    fit_by_console,
    fit_in_fork,
    forked,
    orphans_left,
    wait_for,
)

COMMAND = ["fit", "--config", "config.yaml", "--allow-class-path", "kill_resume"]
RESUME = ["--ckpt_path", "last"]
SIGKILLED = -9


@dataclass(frozen=True)
class Undisturbed:
    """The run that the others are compared with."""

    checkpoint: dict[str, Any]
    saved: list[str]
    segment: evidence.Segment
    tracked: evidence.Tracked
    timing: Timing


@dataclass(frozen=True)
class Result:
    """A trial: how many of its kills met a living process, every difference found, and what was compared.

    `redone` are batches that were learned from more than once; `clock_error_s` is wall seconds counted minus
    measured.
    """

    plan: Plan
    kills: int
    resumed_steps: tuple[int, ...]
    differences: tuple[str, ...]
    redone: int
    clock_error_s: float
    seconds: float
    folder: str


def prepare(folder: Path, method: str, store: Path, *, upload: bool) -> None:
    """A fresh folder with a config and an empty MLflow store."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config(method, upload=upload), sort_keys=False))
    shutil.copy(store, folder / evidence.DATABASE)


def undisturbed(folder: Path, method: str, *, console: bool) -> Undisturbed:
    """Runs a method from beginning to end.

    Raises:
        RuntimeError: if it fails.
    """
    ended = (
        fit_by_console(COMMAND, folder, None, "0.log")
        if console
        else fit_in_fork(COMMAND, folder, None, "0.log")
    )
    if ended.code:
        raise RuntimeError(f"the undisturbed run ended with {ended.code}:\n{(folder / '0.log').read_text()}")
    sync(folder)
    found = json.loads((folder / PHASES).read_text()) if not console else {"counts": {}, "seconds": {}}
    counts = found["counts"]
    return Undisturbed(
        checkpoint=evidence.checkpoint(folder / FOLDER / "last.ckpt"),
        saved=evidence.saved(folder),
        segment=(evidence.segments(folder) or [evidence.Segment()])[0],
        tracked=evidence.tracked(folder),
        timing=Timing(
            counts, {phase: s / counts[phase] for phase, s in found["seconds"].items()}, ended.seconds
        ),
    )


def run(plan: Plan, folder: Path, truth: Undisturbed) -> Result:
    """Kills, resumes and compares; `folder` has been prepared."""
    began = time.monotonic()
    ended: list[Ended] = []
    for number, kill in enumerate([*plan.kills, None]):
        arguments, log = COMMAND + (RESUME if number else []), f"{number}.log"
        if plan.console:
            ended.append(fit_by_console(arguments, folder, kill if isinstance(kill, float) else None, log))
        else:
            ended.append(fit_in_fork(arguments, folder, kill if isinstance(kill, Target) else None, log))
        if ended[-1].code != SIGKILLED:
            break
    orphans = orphans_left(folder)
    sync(folder)
    found = evidence.segments(folder)
    differing, state = failures(folder, ended), {}
    if not differing:
        try:
            state = evidence.checkpoint(folder / FOLDER / "last.ckpt")
            differing = [*differences(folder, state, found, orphans, truth)]
        except (OSError, ValueError) as error:  # a damaged checkpoint is a finding, not the end of all trials
            differing = [f"what is left cannot be read: {error}"]
    errors = compare.clock_errors(found[-1], compare.books_of(state)) if state and found else None
    return Result(
        plan=plan,
        kills=sum(one.code == SIGKILLED for one in ended),
        resumed_steps=tuple(min(s.batches)[0] for s in found[1:] if s.batches),
        differences=tuple(differing),
        redone=sum(len(s.batches) for s in found) - len(truth.segment.batches),
        clock_error_s=errors[0] if errors else 0.0,
        seconds=time.monotonic() - began,
        folder=str(folder),
    )


def failures(folder: Path, ended: Sequence[Ended]) -> list[str]:
    """The processes that ended by themselves, and not well."""
    return [
        f"process {number} ended with {one.code}: {_last_line(folder, number)}"
        for number, one in enumerate(ended)
        if one.code not in (0, SIGKILLED)
    ]


def differences(
    folder: Path,
    state: dict[str, Any],
    found: Sequence[evidence.Segment],
    orphans: Sequence[str],
    truth: Undisturbed,
) -> Iterator[str]:
    """All that a resumed run, whose last checkpoint is `state`, left otherwise than the undisturbed one."""
    yield from compare.leftover(evidence.leftovers(folder), orphans)
    yield from compare.trees(evidence.saved(folder), truth.saved, "checkpoints")
    yield from compare.trees(state, truth.checkpoint, "checkpoint")
    yield from compare.metrics(evidence.tracked(folder), truth.tracked)
    if truth.segment.batches:
        yield from compare.histories(found, truth.segment)
        yield from compare.clocks(found, compare.books_of(state))


def _last_line(folder: Path, number: int) -> str:
    lines = (folder / f"{number}.log").read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else ""


def sync(folder: Path) -> None:
    """`lit-posttrain sync`, in a process of its own.

    Raises:
        RuntimeError: if it fails.
    """

    def work() -> int:
        from lit_posttrain.cli import main

        return main(["sync"])

    code = wait_for(forked(work, folder, "sync.log"))
    if code:
        raise RuntimeError(f"sync ended with {code}:\n{(folder / 'sync.log').read_text()}")
