"""Stops early and keeps the best network by what the probes find."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from lit_posttrain.batches import Answer
from lit_posttrain.errors import InputError
from lit_posttrain.tracking.probe import Point


class EarlyStopOnProbe(EarlyStopping):
    """Ends the training when the probes no longer find an improvement.

    Args:
        monitor: A metric of the probe.
        patience: Probes in a row without improvement after which training ends.
        min_delta: What counts as an improvement; the standard error of a point is a sensible choice.
        mode: `max` or `min`.
        stopping_threshold: Training also ends as soon as the metric is better than this.
        divergence_threshold: Training also ends as soon as the metric is worse than this.
    """

    def __init__(
        self,
        monitor: str = "scurve/accuracy",
        patience: int = 3,
        min_delta: float = 0.0,
        mode: str = "max",
        stopping_threshold: float | None = None,
        divergence_threshold: float | None = None,
    ) -> None:
        super().__init__(
            monitor=monitor,
            patience=patience,
            min_delta=min_delta,
            mode=mode,
            stopping_threshold=stopping_threshold,
            divergence_threshold=divergence_threshold,
        )

    def on_probe(
        self, trainer: Trainer, pl_module: LightningModule, point: Point, answers: Sequence[Sequence[Answer]]
    ) -> None:
        """Checks the new point; one without the metric is an error that names those there are."""
        if self.monitor not in point:
            raise InputError(
                f"EarlyStopOnProbe watches {self.monitor!r}, which the probe does not give; "
                f"choose one of {', '.join(sorted(point))}."
            )
        self._run_early_stopping_check(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Nothing: only probes are looked at."""

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Nothing: only probes are looked at."""


class BestOnProbe(ModelCheckpoint):
    """Keeps the network of the best probe, and the newest one as `last.ckpt`.

    After a probe both are brought up to date; `last.ckpt` also every so many steps, at the end of training
    and when it is interrupted (Ctrl-C, an error): then with the data position of the last finished step, so
    that resuming repeats what was not finished. The untrained network is not kept.

    Args:
        dirpath: Folder of the checkpoints; that of the run if not given.
        monitor: A metric of the probe.
        mode: `max` or `min`.
        save_top_k: How many of the best to keep; 0 keeps only `last.ckpt`.
        every_n_train_steps: Also write `last.ckpt` every so many optimiser steps.
        filename: Of the best, without ending.
    """

    def __init__(
        self,
        dirpath: str | Path | None = None,
        monitor: str = "scurve/accuracy",
        mode: str = "max",
        save_top_k: int = 1,
        every_n_train_steps: int | None = None,
        filename: str = "best-step{step}",
    ) -> None:
        super().__init__(
            dirpath=dirpath,
            filename=filename,
            monitor=monitor,
            mode=mode,
            save_top_k=save_top_k,
            save_last=True,
            auto_insert_metric_name=False,
            every_n_train_steps=every_n_train_steps,
            save_on_train_epoch_end=False,
            save_on_exception=True,
        )
        self._follows_logger = dirpath is None
        self._set_up: tuple[Trainer, LightningModule] | None = None
        self._probed = False
        self._seen_step = 0
        self._finished: tuple[int, dict[str, Any]] | None = None
        self._interrupted = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Settles the folder."""
        self._set_up = (trainer, pl_module)
        super().setup(trainer, pl_module, stage)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on in the folder of the run that the logger goes on with, whose name it has just got back."""
        if self._follows_logger and self._set_up is not None:
            self.dirpath = None
            super().setup(*self._set_up, stage="resume")
        super().load_state_dict(state_dict)

    def on_probe(
        self, trainer: Trainer, pl_module: LightningModule, point: Point, answers: Sequence[Sequence[Answer]]
    ) -> None:
        """Notes that there is a new point; it is saved once all callbacks are done with the step."""
        self._probed = True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Lets the untrained point pass."""
        super().on_train_start(trainer, pl_module)
        self._probed = False
        self._seen_step = trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Saves after a probe, or when it is time; notes where the data stands after a finished step."""
        if trainer.global_step == self._seen_step:
            return
        self._seen_step = trainer.global_step
        self._finished = (trainer.global_step, trainer.fit_loop.state_dict())
        if self._probed:
            self._save(trainer)
        elif self._every_n_train_steps and trainer.global_step % self._every_n_train_steps == 0:
            self._save_last(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Nothing: only probes and steps are looked at."""

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Nothing: only probes and steps are looked at."""

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves the final network, and counts a final probe."""
        if self._probed:
            self._save(trainer)
        elif self._last_global_step_saved != trainer.global_step:
            self._save_last(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Saves the last finished step, if there is one that is not saved yet."""
        if self._finished is None or not self._should_save_on_exception(trainer):
            return
        self._interrupted = True
        self._save_last(trainer)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """When interrupted, puts the data back to where it stood after the last finished step."""
        if self._interrupted and self._finished is not None and self._finished[0] == trainer.global_step:
            checkpoint["loops"]["fit_loop"] = self._finished[1]

    def _save(self, trainer: Trainer) -> None:
        self._probed = False
        if trainer.fast_dev_run:  # pyright: ignore[reportAttributeAccessIssue]
            return
        found = self._monitor_candidates(trainer)
        if self.monitor in found:
            self._save_topk_checkpoint(trainer, found)
        self._save_last_checkpoint(trainer, found)

    def _save_last(self, trainer: Trainer) -> None:
        if not trainer.fast_dev_run:  # pyright: ignore[reportAttributeAccessIssue]
            self._save_last_checkpoint(trainer, self._monitor_candidates(trainer))
