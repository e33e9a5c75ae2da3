"""What a run shows on the terminal: a bar where there is one, else a plain line now and then."""

import sys
import time
from collections.abc import Mapping
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from rich.console import Console as Terminal
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

SHOWN = {
    "loss": "train/loss",
    "reward": "reward/mean",
    "accuracy": "scurve/accuracy",
    "validation loss": "val/loss",
}
"""What is shown beside the step, where it is known."""


class Console(ProgressBar):
    """Shows step, loss, reward and accuracy: a bar on a terminal, plain lines in a file or a pipe.

    Args:
        every_s: Seconds between two plain lines, at least; a bar is redrawn twice a second.
        every_n_steps: Write a plain line every so many optimiser steps instead.
    """

    def __init__(self, every_s: float = 30.0, every_n_steps: int | None = None) -> None:
        super().__init__()
        self.every_s, self.every_n_steps = every_s, every_n_steps
        self._enabled = True
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._began = self._written = 0.0
        self._seen_step = 0

    @property
    def is_enabled(self) -> bool:
        """Whether anything is shown; Lightning asks before it prints."""
        return self._enabled

    def disable(self) -> None:
        """Shows nothing from now on."""
        self._enabled = False

    def enable(self) -> None:
        """Shows again."""
        self._enabled = True

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Prints above the bar."""
        if self._bar is not None:
            self._bar.console.print(*args)
        elif self._enabled:
            print(*args, **kwargs, flush=True)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begins the bar or the lines."""
        self._begin("training", total_steps(trainer), trainer.global_step)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Shows a finished optimiser step."""
        if trainer.global_step != self._seen_step:
            self._seen_step = trainer.global_step
            self._show(trainer.global_step, total_steps(trainer), trainer.callback_metrics)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Shows the final values."""
        self._end(trainer.global_step, total_steps(trainer), trainer.callback_metrics)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begins the bar or the lines."""
        self._begin("test", self._batches(trainer.num_test_batches), 0)

    def on_test_batch_end(self, trainer: Trainer, *_: Any, **__: Any) -> None:
        """Shows a finished batch."""
        self._advance(trainer)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Ends the bar."""
        self._close()

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begins the bar or the lines."""
        self._begin("predict", self._batches(trainer.num_predict_batches), 0)

    def on_predict_batch_end(self, trainer: Trainer, *_: Any, **__: Any) -> None:
        """Shows a finished batch."""
        self._advance(trainer)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Ends the bar."""
        self._close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Gives the terminal back."""
        self._close()

    def _begin(self, what: str, total: int | None, done: int) -> None:
        self._began = time.monotonic()
        self._written = self._began if self.every_n_steps is None else 0.0
        self._seen_step = done
        terminal = Terminal(file=sys.stdout)
        if not (self._enabled and terminal.is_terminal):
            return
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._bar = Progress(
            *columns, TextColumn("{task.fields[values]}"), console=terminal, refresh_per_second=2
        )
        self._bar.start()
        self._task = self._bar.add_task(what, total=total, completed=done, values="")

    def _advance(self, trainer: Trainer) -> None:
        self._seen_step += 1
        self._show(self._seen_step, None, {})

    def _show(self, step: int, total: int | None, metrics: Mapping[str, Any]) -> None:
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=step, values=values_text(metrics))
        elif self._enabled and self._is_due(step):
            self._write(step, total, metrics)

    def _is_due(self, step: int) -> bool:
        if self.every_n_steps is not None:
            return step % self.every_n_steps == 0
        return time.monotonic() - self._written >= self.every_s

    def _write(self, step: int, total: int | None, metrics: Mapping[str, Any]) -> None:
        self._written = time.monotonic()
        counted = f"step {step}" if total is None else f"step {step}/{total}"
        elapsed = clock(self._written - self._began)
        print("  ".join(part for part in (counted, values_text(metrics), elapsed) if part), flush=True)

    def _end(self, step: int, total: int | None, metrics: Mapping[str, Any]) -> None:
        if self._bar is None and self._enabled:
            self._write(step, total, metrics)
        elif self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=step, values=values_text(metrics))
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar, self._task = None, None

    @staticmethod
    def _batches(counts: Any) -> int | None:
        total = sum(counts) if isinstance(counts, list) else counts
        return None if total == float("inf") else int(total)


def values_text(metrics: Mapping[str, Any]) -> str:
    """The shown values that are known, such as `loss 0.312  reward 0.450`."""
    return "  ".join(f"{word} {float(metrics[name]):.3f}" for word, name in SHOWN.items() if name in metrics)


def clock(seconds: float) -> str:
    """Seconds as h:mm:ss."""
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def total_steps(trainer: Trainer) -> int | None:
    """Optimiser steps that the run will make at most, or None if nothing bounds them."""
    bounds = []
    if trainer.max_steps is not None and trainer.max_steps >= 0:
        bounds.append(trainer.max_steps)
    per_epoch = trainer.num_training_batches
    if trainer.max_epochs is not None and trainer.max_epochs >= 0 and per_epoch != float("inf"):
        bounds.append(-(-int(per_epoch) // trainer.accumulate_grad_batches) * trainer.max_epochs)
    return min(bounds) if bounds else None
