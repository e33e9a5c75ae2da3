"""Lets a run announce its phases and note its batches, without a change to the run that users start.

Announced are the phases of the ledger, checkpoints as a whole and before every call that touches their folder,
each line of the journal before and after it is written, the start up to the first batch, and the end.
"""

import functools
import hashlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from kill_resume.announce import Announcer
from kill_resume.experiments import FOLDER

CHANGES = {"os.rename", "os.symlink", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.truncate"}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def install(announcer: Announcer) -> None:
    """Hooks the announcer into the classes of this process; before the run is started."""
    _hook_ledger(announcer)
    _hook_batches(announcer)
    _hook_books(announcer)
    _hook_journal(announcer)
    _hook_checkpoints(announcer)


def _hook_ledger(announcer: Announcer) -> None:
    from lit_posttrain.ledger import Ledger, Phase

    original = Ledger.phase

    @contextmanager
    def phase(self: Ledger, phase: Phase) -> Iterator[None]:
        name = Phase.EVALUATION if Phase.EVALUATION in self._open else phase
        with announcer.span(name.value), original(self, phase):
            yield

    Ledger.phase = phase


def _hook_batches(announcer: Announcer) -> None:
    from lit_posttrain.methods.base import PostTrainModule

    def before(module: Any, batch: Any, batch_idx: int) -> None:
        announcer.end("start")
        announcer.note("batch", step=module.global_step, digest=digest(batch))

    _call_before(PostTrainModule, "on_train_batch_start", before)


def _hook_books(announcer: Announcer) -> None:
    """Notes when training begins, is restored and ends, by a clock of our own."""
    from lit_posttrain.tracking.compute import ComputeMeter

    def clock(kind: str) -> Callable[..., None]:
        return lambda meter, *_: announcer.note(kind, monotonic_s=time.perf_counter())

    _call_before(ComputeMeter, "start", clock("train_start"))
    _call_before(ComputeMeter, "on_train_end", clock("train_end"))
    _call_before(ComputeMeter, "on_train_end", lambda meter, *_: announcer.begin("exit"))
    _call_before(
        ComputeMeter, "load_state_dict", lambda meter, state: announcer.note("restored", books=dict(state))
    )


def _hook_journal(announcer: Announcer) -> None:
    from lit_posttrain.tracking.journal import Journal

    original = Journal.append

    @functools.wraps(original)
    def append(self: Journal, record: Any) -> None:
        announcer.point("logging")
        original(self, record)
        announcer.point("logged")

    Journal.append = append


def _hook_checkpoints(announcer: Announcer) -> None:
    from lightning.pytorch import Trainer

    save, sync = Trainer.save_checkpoint, os.fsync

    @functools.wraps(save)
    def save_checkpoint(self: Trainer, *arguments: Any, **options: Any) -> None:
        with announcer.span("checkpoint"):
            save(self, *arguments, **options)
        announcer.point("checkpoint: done")

    def fsync(file: Any) -> None:
        number = file if isinstance(file, int) else file.fileno()
        if _is_checkpoint(os.readlink(f"/proc/self/fd/{number}")):
            announcer.point("checkpoint: fsync")
        sync(file)

    Trainer.save_checkpoint = save_checkpoint
    os.fsync = fsync
    sys.addaudithook(functools.partial(_audit, announcer))


def _audit(announcer: Announcer, event: str, arguments: tuple[Any, ...]) -> None:
    """Sees every call that opens or changes a file, whoever makes it."""
    if event == "open":
        path, _, flags = arguments
        if _is_checkpoint(path):
            writes = isinstance(flags, int) and flags & WRITING
            announcer.point("checkpoint: open" if writes else "checkpoint: read")
    elif event in CHANGES and any(_is_checkpoint(argument) for argument in arguments[:2]):
        announcer.point(f"checkpoint: {event.removeprefix('os.')}")


def _is_checkpoint(path: Any) -> bool:
    if isinstance(path, os.PathLike):
        path = os.fspath(path)
    if isinstance(path, bytes):
        path = os.fsdecode(path)
    return isinstance(path, str) and (f"/{FOLDER}/" in f"/{path}/" or ".ckpt" in path)


def _call_before(owner: type, name: str, first: Callable[..., None]) -> None:
    original = getattr(owner, name)

    @functools.wraps(original)
    def both(self: Any, *arguments: Any, **options: Any) -> Any:
        first(self, *arguments, **options)
        return original(self, *arguments, **options)

    setattr(owner, name, both)


def digest(batch: Any) -> str:
    """16 hex digits of all tensors and numbers of a batch."""
    import torch

    whole = hashlib.sha256()
    for name, value in sorted(vars(batch).items()):
        whole.update(name.encode())
        if isinstance(value, torch.Tensor):
            whole.update(f"{value.dtype}{tuple(value.shape)}".encode())
            whole.update(value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
        else:
            whole.update(repr(value).encode())
    return whole.hexdigest()[:16]
