"""Which checkpoints a run writes, keeps, names best and last, and goes on from."""

import logging
import math
import os
import secrets
import warnings
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any, Literal, cast

from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.strategies import Strategy
from lightning.pytorch.trainer.states import TrainerFn

from lit_posttrain.checkpoints import recovery
from lit_posttrain.checkpoints.io import FolderIO, SaveOutcome
from lit_posttrain.checkpoints.run_state import (
    FitLoop,
    go_on_between_steps,
    logger_states,
    restore_loggers,
)
from lit_posttrain.checkpoints.shelf import (
    BEST,
    LAST,
    Shelf,
    name_of,
    not_ours,
    read_run,
    steps_in,
    write_run,
)
from lit_posttrain.checkpoints.strategy import ShardedStrategy
from lit_posttrain.errors import InputError
from lit_posttrain.interruption import Interrupted
from lit_posttrain.ranks import anywhere

log = logging.getLogger(__name__)


class CheckpointKeeper(Checkpoint):
    """Keeps the newest checkpoints and those of the best probes, as `last.ckpt` and `best.ckpt`.

    One folder each, `step-00000050.ckpt`, written whole or not at all; the two names are links, moved once a
    checkpoint has been read back and verified. Saved is after a probe, every so many steps, at the end, and when
    the run is stopped (a signal, Ctrl-C, an error): then the last finished step, so that resuming repeats what
    was cut off. A full disk costs a checkpoint, not the run. The untrained network is not kept.

    Args:
        dirpath: Folder of the checkpoints of this run alone; by default `checkpoints` in the run's own folder.
        monitor: The metric of the probe that says which checkpoint is best.
        mode: Whether the best is the largest or the smallest.
        save_top_k: How many of the best to keep; 0 keeps no `best.ckpt`.
        keep_last: How many of the newest to keep.
        every_n_train_steps: Also save every so many optimiser steps.
        on_error: What an error of the disk does: `continue` warns, keeps the older checkpoints and tries again at
            the next occasion; `stop` ends the run.

    Raises:
        InputError: if a new run is given a folder that holds another run's checkpoints, or a strategy saves in a
            way of its own.
    """

    def __init__(
        self,
        dirpath: str | Path | None = None,
        monitor: str = "scurve/accuracy",
        mode: Literal["max", "min"] = "max",
        save_top_k: int = 1,
        keep_last: int = 2,
        every_n_train_steps: int | None = None,
        on_error: Literal["continue", "stop"] = "continue",
    ) -> None:
        _check("save_top_k", save_top_k, 0)
        _check("keep_last", keep_last, 1)
        _check("every_n_train_steps", 1 if every_n_train_steps is None else every_n_train_steps, 1)
        self.dirpath = None if dirpath is None else Path(dirpath)
        self.monitor, self.sign = monitor, {"max": 1.0, "min": -1.0}[mode]
        self.save_top_k, self.keep_last = save_top_k, keep_last
        self.every_n_train_steps, self.on_error = every_n_train_steps, on_error
        self.run_uid = secrets.token_hex(16)
        self.shelf = Shelf(Path())
        self._resumed = False
        self._owes_validation = False
        self._probed: float | None = None
        self._warned = False
        self._finished: tuple[int, dict[str, Any]] | None = None
        self._settled_step = self._saved_step = 0
        self._is_settled = self._in_step = self._validating = False

    @property
    def last_model_path(self) -> str:
        """The link to the newest checkpoint; empty if there is none."""
        return self.shelf.path_of(LAST)

    @property
    def best_model_path(self) -> str:
        """The link to the best checkpoint; empty if there is none."""
        return self.shelf.path_of(BEST)

    def find(self, trainer: Trainer, name: str) -> Path | None:
        """The `last` or `best` checkpoint in the folder that the settings name; None if there is none.

        Raises:
            InputError: if the settings name no folder, as with a run name that is new each time.
        """
        where = self._folder_by_name(trainer)
        if where is None:
            raise InputError(
                f"--ckpt_path {name} looks into the folder of the run, which is a new one each time; set the "
                "logger's run_name or checkpoint.dirpath, or give the path of a checkpoint"
            )
        link = where / {"last": LAST, "best": BEST}[name]
        if os.path.lexists(link):
            return link
        steps = steps_in(where) if name == "last" else {}
        return where / max(steps, key=lambda found: steps[found]) if steps else None

    def start_over(self, trainer: Trainer) -> None:
        """Begins at the untrained network, in the tracked run of an attempt that left no checkpoint."""
        where = self._folder_by_name(trainer)
        begun = read_run(where) if where is not None else None
        if begun is not None:
            self.run_uid = begun["run_uid"]
            restore_loggers(trainer.loggers, begun["loggers"])

    def check_new(self, trainer: Trainer) -> None:
        """Before a new run.

        Raises:
            InputError: if the folder that the settings name holds checkpoints.
        """
        where = self._folder_by_name(trainer)
        if where is not None and any(where.glob("*.ckpt")):
            raise InputError(not_ours(where))

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Lets the trainer read and write folders, and leave its loop between steps."""
        use_folders(trainer)
        if stage == "fit":
            go_on_between_steps(trainer)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Settles the folder of a new run before anything is logged."""
        if not self._resumed and not trainer.strategy.restore_checkpoint_after_setup:
            self._settle_folder(trainer)

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Where the loops stood."""
        if trainer.state.fn == TrainerFn.FITTING:
            self._resumed = True
            cast(FitLoop, trainer.fit_loop).resumed = True
            self._finished = (checkpoint["global_step"], deepcopy(checkpoint["loops"]["fit_loop"]))

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Which checkpoints there were."""
        self.run_uid = state_dict["run_uid"]
        self._owes_validation = state_dict["owes_validation"]
        self.shelf.saved, self.shelf.scores = list(state_dict["saved"]), dict(state_dict["scores"])

    def state_dict(self) -> dict[str, Any]:
        """Which checkpoints there are, the one that this is written into included."""
        return {
            "run_uid": self.run_uid,
            "saved": list(self.shelf.saved),
            "scores": dict(self.shelf.scores),
            "owes_validation": self._owes_validation,
        }

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Settles the folder, whose run is known by now; saves what a probe that was owed found."""
        cast(FitLoop, trainer.fit_loop).owes_validation = self._owes_validation
        self._settle_folder(trainer)
        step = self._settled_step = trainer.global_step
        self._saved_step = step if name_of(step) in self.shelf.saved else 0
        if self._probed is not None and step > 0:
            self._save(trainer)
        self._probed = None

    def on_probe(
        self, trainer: Trainer, pl_module: LightningModule, point: Mapping[str, float], answers: Any
    ) -> None:
        """Notes that there is a new point; it is saved once all callbacks are done with the step."""
        self._probed = point.get(self.monitor, math.nan)
        if self.monitor not in point and not self._warned and self.save_top_k:
            self._warned = True
            log.warning(
                "no checkpoint is called best: checkpoint.monitor is %r, which the probe does not give; "
                "choose one of %s, or set checkpoint.save_top_k to 0",
                self.monitor,
                ", ".join(sorted(point)),
            )

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """A step begins, or goes on."""
        self._in_step = True

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Notes where loops and data stand after a finished step."""
        if self._finished is None or self._finished[0] != trainer.global_step:
            self._finished = (trainer.global_step, trainer.fit_loop.state_dict())
            self._in_step = False

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A validation is owed until it is done."""
        self._validating = True

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """It is done."""
        self._validating = self._owes_validation = False

    def on_step_finished(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves after a probe, or when it is time; everything of the step is logged by now."""
        step = trainer.global_step
        if step == self._settled_step:
            return
        self._settled_step = step
        if self._probed is not None or (self.every_n_train_steps and step % self.every_n_train_steps == 0):
            self._save(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves the final network, with a final probe."""
        if self._probed is not None or self._saved_step != trainer.global_step:
            self._save(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Saves the last finished step, if there is one that is not saved yet."""
        step, fitting = trainer.global_step, trainer.state.fn == TrainerFn.FITTING
        if not fitting or not self._is_settled or self._finished is None:
            return
        if self._saved_step == step and self._probed is None:
            return
        if trainer.world_size > 1 and not isinstance(exception, Interrupted):
            log.warning(
                "no checkpoint of step %d: after an error, processes may stand at different places", step
            )
            return
        try:
            self._cut_off(trainer)
            self._save(trainer)
        except Exception as error:  # the exception that ends the run is the one to be told of
            log.error("step %d could not be saved: %s: %s", step, type(error).__name__, error)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Puts loops and data to where they stood after the last finished step."""
        if self._finished is not None and self._finished[0] == trainer.global_step:
            checkpoint["loops"]["fit_loop"] = self._finished[1]

    def _cut_off(self, trainer: Any) -> None:
        """Sees to what a finished step still lacks: its logs, if callbacks were stopped, and its validation."""
        loop = trainer.fit_loop.epoch_loop
        if self._finished is not None and self._finished[0] != trainer.global_step:
            trainer._logger_connector.update_train_step_metrics()
            self._owes_validation = loop._should_check_val_fx(trainer.fit_loop._data_fetcher)
        elif self._validating and not self._in_step:
            self._owes_validation = True

    def _save(self, trainer: Trainer) -> None:
        score, self._probed = self._probed, None
        if trainer.fast_dev_run:  # pyright: ignore[reportAttributeAccessIssue]
            return
        name = name_of(trainer.global_step)
        before, outcome = self.shelf.books(), SaveOutcome()
        kept_score = None if score is None or not math.isfinite(score) else score * self.sign
        self.shelf.put(name, kept_score, self.keep_last, self.save_top_k)
        trainer.save_checkpoint(self.shelf.folder / name, storage_options=outcome)
        if trainer.is_global_zero and outcome.error is None:
            outcome.error = self.shelf.settle(name)
        if anywhere(outcome.error is not None, trainer.strategy.root_device):
            self.shelf.saved, self.shelf.scores = before
            self._not_saved(self.shelf.folder / name, outcome.error)
        else:
            self._saved_step = trainer.global_step

    def _not_saved(self, path: Path, error: OSError | None) -> None:
        told = f"CHECKPOINT NOT WRITTEN: {path}: {error or 'another process could not write its part'}"
        if self.on_error == "stop":
            raise OSError(told) from error
        warnings.warn(
            f"{told}. Training goes on, older checkpoints are kept; it is tried again at the next occasion.",
            stacklevel=3,
        )

    def _settle_folder(self, trainer: Trainer) -> None:
        """Collective; process 0 looks, and all of them fail together.

        Raises:
            InputError: if the folder is another run's.
        """
        mine = self._folder_by_name(trainer) or _folder_of_logger(trainer)
        where, problem = trainer.strategy.broadcast((str(mine.absolute()), self._problem(trainer, mine)))
        if problem:
            raise InputError(problem)
        self.shelf.folder = Path(where)
        if trainer.is_global_zero and not trainer.fast_dev_run:  # pyright: ignore[reportAttributeAccessIssue]
            recovery.sweep(self.shelf.folder)
            write_run(self.shelf.folder, {"run_uid": self.run_uid, "loggers": logger_states(trainer.loggers)})
        if self._resumed:
            self.shelf.drop_missing()
            if trainer.is_global_zero:  # a run that was killed between a save and what follows it
                self.shelf.delete_others(trainer.global_step)
        self.shelf.saved, self.shelf.scores = trainer.strategy.broadcast(self.shelf.books())
        self._is_settled = True

    def _problem(self, trainer: Trainer, where: Path) -> str:
        begun = read_run(where)
        from_here = (
            trainer.ckpt_path is not None and Path(trainer.ckpt_path).parent.resolve() == where.resolve()
        )
        ours = self._resumed and (from_here if begun is None else begun["run_uid"] == self.run_uid)
        return "" if ours or not any(where.glob("*.ckpt")) else not_ours(where)

    def _folder_by_name(self, trainer: Trainer) -> Path | None:
        """The folder that settings alone tell; None where a run is named anew each time."""
        if self.dirpath is not None:
            return self.dirpath
        if not trainer.loggers or getattr(trainer.loggers[0], "has_lasting_name", False):
            return _folder_of_logger(trainer)
        return None


def use_folders(trainer: Trainer) -> None:
    """Lets a trainer read and write checkpoints as folders, where it would pickle them.

    Raises:
        InputError: if its strategy or plugin saves in another way.
    """
    strategy: Any = trainer.strategy
    if isinstance(strategy, ShardedStrategy):
        return
    if type(strategy).save_checkpoint is not Strategy.save_checkpoint:
        raise InputError(
            f"{type(strategy).__name__} writes checkpoints in a way of its own; to divide a network over devices, set "
            "strategy to ShardedStrategy"
        )
    if type(strategy.checkpoint_io) is TorchCheckpointIO:
        strategy.checkpoint_io = FolderIO()
    if not isinstance(strategy.checkpoint_io, FolderIO):
        kind = type(strategy.checkpoint_io).__name__
        raise InputError(f"checkpoints are written by FolderIO; the trainer was given {kind}: leave it out")


def _folder_of_logger(trainer: Trainer) -> Path:
    if not trainer.loggers:
        return Path(trainer.default_root_dir) / "checkpoints"
    logger = trainer.loggers[0]
    version = logger.version if isinstance(logger.version, str) else f"version_{logger.version}"
    return Path(logger.save_dir or trainer.default_root_dir) / str(logger.name) / version / "checkpoints"


def _check(name: str, value: int, least: int) -> None:
    if value < least:
        raise InputError(f"checkpoint.{name} is {value}; it must be {least} or more")
