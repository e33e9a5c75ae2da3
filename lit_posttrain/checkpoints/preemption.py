"""Signals that end a run: the last finished step is saved first, within a bounded time."""

import logging
import os
import queue
import re
import signal
import subprocess
import threading
from types import FrameType
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.distributed.distributed_c10d import _get_default_store

from lit_posttrain import interruption
from lit_posttrain.errors import InputError
from lit_posttrain.ranks import Ranks

log = logging.getLogger(__name__)

EXIT_CODES = {"SIGINT": 130, "SIGTERM": 143, "SIGUSR1": 143}
"""By the signal that asked for the stop; SIGUSR1 is how SLURM warns of the end of a job."""
JOB = re.compile(r"[0-9]+(_[0-9]+)?")
REQUEUE_LIMIT_S = 20.0


class Preemption(Callback):
    """Takes SIGTERM, SIGUSR1 and Ctrl-C: the run stops at the next safe point and saves its last finished step.

    Safe points lie before each batch and within rollouts, grading, scoring and validation; all processes leave
    together, whichever of them got the signal. A second signal ends the process at once, which harms no
    checkpoint. The exit code is 143, for Ctrl-C 130; after SIGUSR1 a SLURM job is put back into the queue.

    Args:
        save_within_s: Seconds from the signal after which the process ends even if nothing could be saved.

    Raises:
        InputError: if there is no time to save.
    """

    def __init__(self, save_within_s: float = 60.0) -> None:
        if save_within_s <= 0:
            raise InputError(f"preemption.save_within_s is {save_within_s}; it must be above 0")
        self.save_within_s = save_within_s
        self.reason: str | None = None
        self._fits = 0
        self._asked: str | None = None
        self._news: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._before: dict[signal.Signals, Any] = {}
        self._trainer: Any = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Puts itself first among the callbacks, and what ends the countdown last."""
        others = [c for c in trainer.callbacks if c is not self and not isinstance(c, _Saved)]  # pyright: ignore[reportAttributeAccessIssue]
        trainer.callbacks = [self, *others, _Saved(self)]  # pyright: ignore[reportAttributeAccessIssue]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listens to signals from here on, in place of Lightning, whose handlers save within themselves."""
        self._trainer, self._asked, self.reason = trainer, None, None
        self._fits += 1
        interruption.clear(_shared_store(self._fits))
        if threading.current_thread() is not threading.main_thread():
            log.warning("training runs in a thread of its own, so signals do not lead to a checkpoint")
            return
        self._before = {number: signal.getsignal(number) for number in _signals()}
        self._listen()
        self._news = queue.SimpleQueue()
        threading.Thread(target=self._count_down, args=(self._news,), daemon=True, name="preemption").start()

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Leaves, if any process was asked to; the steps so far are logged by now."""
        interruption.joint_safe_point(trainer.strategy.root_device)

    def on_validation_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """The same; the validation is done again after a resume."""
        interruption.joint_safe_point(trainer.strategy.root_device)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Before the checkpoint is written: a signal ends the process now, also Ctrl-C, which Lightning ignores."""
        if not isinstance(exception, interruption.Interrupted):
            return
        if self._before:
            self._listen()
        told = Ranks(trainer.global_rank, trainer.world_size).gather(self._asked)
        self.reason = next((reason for reason in told if reason), str(exception))
        if self._asked is None:  # another process was asked
            self._asked = self.reason
            self._news.put(True)

    @property
    def exit_code(self) -> int:
        """Of a run that was stopped."""
        return 130 if self.reason is None else EXIT_CODES.get(self.reason, 143)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """The run came to its end: signals are Lightning's or the caller's again."""
        self.saved()
        for number, handler in self._before.items():
            if signal.getsignal(number) == self._on_signal and handler is not None:
                signal.signal(number, handler)
        self._before = {}

    def saved(self) -> None:
        """No longer counts down."""
        self._news.put(False)
        interruption.clear()

    def _listen(self) -> None:
        for number in _signals():
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        """The handler: notes the wish, and does nothing that could wait."""
        name = signal.Signals(number).name
        if self._asked is not None:
            self._leave_now(EXIT_CODES[name])
        self._asked = name
        interruption.request(name)
        self._news.put(True)
        if self._trainer.is_global_zero:
            _say(
                f"{name}: saving the last finished step, which may take up to {self.save_within_s:g} s; "
                "a second signal ends the run at once."
            )

    def _count_down(self, news: "queue.SimpleQueue[bool]") -> None:
        """Ends the process if the checkpoint is not there in time; runs in a thread of its own."""
        if not news.get():
            return
        try:
            news.get(timeout=self.save_within_s)
        except queue.Empty:
            _say(
                f"nothing could be saved within {self.save_within_s:g} s: the run ends without; older ones are kept."
            )
            self._leave_now(EXIT_CODES.get(self._asked or "", 143))

    def _leave_now(self, code: int) -> None:
        for process in getattr(self._trainer.strategy.launcher, "procs", []):
            process.send_signal(signal.SIGKILL)
        os._exit(code)


class _Saved(Callback):
    """Stands behind the checkpoint callbacks: when its turn comes, they are done."""

    def __init__(self, preemption: Preemption) -> None:
        self.preemption = preemption

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.preemption.saved()


def requeue() -> None:
    """Puts this SLURM job back into the queue; nothing where there is none."""
    job = os.environ.get("SLURM_JOB_ID", "")
    if not JOB.fullmatch(job):
        return
    try:
        done = subprocess.run(
            ["scontrol", "requeue", job], capture_output=True, text=True, timeout=REQUEUE_LIMIT_S, check=False
        )
        problem = done.stderr.strip() if done.returncode else ""
    except (OSError, subprocess.TimeoutExpired) as error:
        problem = str(error)
    if problem:
        log.error("the SLURM job %s could not be requeued: %s", job, problem)
    else:
        log.info("requeued the SLURM job %s", job)


def _signals() -> tuple[signal.Signals, ...]:
    return tuple(signal.Signals[name] for name in EXIT_CODES)


def _say(text: str) -> None:
    """On standard error, past python's buffers, which the interrupted code may hold."""
    os.write(2, f"\n{text}\n".encode())


def _shared_store(fit: int) -> Any:
    """Where the processes tell each other of a signal during the `fit`-th run of this program; None for one alone."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return None
    return torch.distributed.PrefixStore(f"lit_posttrain/{fit}", _get_default_store())
