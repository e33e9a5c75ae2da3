"""The state of a run between two optimiser steps, beside weights, optimiser and loaders.

Random states of all processes, the loggers' runs, and Lightning's training loop made to be left and gone on with
exactly there: a callback's `on_step_finished(trainer, module)` is called when a step is over, logs and validation
included; a validation or an end that was cut off is made up for after a resume.
"""

import hashlib
import logging
import random
from collections.abc import Mapping, Sequence
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.loops.fit_loop import _FitLoop
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
from lightning.pytorch.trainer.states import TrainerFn

from lit_posttrain.errors import InputError
from lit_posttrain.keys import digest
from lit_posttrain.ranks import Ranks

log = logging.getLogger(__name__)


class RunState(pl.Callback):
    """Keeps the random states of python, numpy and torch of every process, and which run the loggers write to.

    What is saved while a step is cut off are the random states of the last finished one. With more processes
    than the checkpoint is of, the new ones get states derived from that of process 0 and their rank.
    """

    def __init__(self) -> None:
        self._restored: Mapping[str, Any] | None = None
        self._finished: tuple[int, dict[str, Any]] | None = None
        self._in_step = False
        self._interrupted = False

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Plain tensors, numbers and strings only; collective."""
        cut_off = (
            self._interrupted and self._finished is not None and self._finished[0] == trainer.global_step
        )
        mine = self._finished[1] if cut_off and self._finished is not None else random_state()
        everyone = Ranks(trainer.global_rank, trainer.world_size)
        checkpoint["run_state"] = {"random": everyone.gather(mine), "loggers": logger_states(trainer.loggers)}

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Gives the loggers their run back; random states wait until training starts."""
        self._restored = checkpoint.get("run_state")
        if self._restored is not None:
            restore_loggers(trainer.loggers, self._restored["loggers"])

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Opens the loggers' runs, which are known by now, and sets the random states of a resumed run."""
        _begin(trainer)
        if self._restored is not None:
            _restore(self._restored["random"], trainer.global_rank, trainer.world_size)
            self._restored = None
        self._note(trainer)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """From here on, what is drawn belongs to the next step."""
        self._in_step = True

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Notes the state after a finished step."""
        if self._finished is None or self._finished[0] != trainer.global_step:
            self._note(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Notes the state after the validation that belongs to a finished step."""
        if trainer.state.fn == TrainerFn.FITTING and self._finished is not None and not self._in_step:
            self._note(trainer)

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """What is saved from here on is of the last finished step."""
        self._interrupted = True

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Opens the loggers' runs."""
        _begin(trainer)

    def _note(self, trainer: pl.Trainer) -> None:
        self._finished = (trainer.global_step, random_state())
        self._in_step = False


def random_state() -> dict[str, Any]:
    """The random states of this process, those of all its CUDA devices included, as plain tensors and numbers."""
    _, keys, position, has_gauss, gauss = np.random.get_state()
    version, internal, gauss_next = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": [torch.from_numpy(np.asarray(keys, np.int64)), int(position), int(has_gauss), float(gauss)],
        "python": [version, torch.tensor(internal, dtype=torch.int64), gauss_next],
    }


def set_random_state(state: Mapping[str, Any]) -> None:
    """The inverse of `random_state`; CUDA states only where there are as many devices as there were."""
    keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state(("MT19937", keys.cpu().numpy().astype(np.uint32), position, has_gauss, gauss))
    version, internal, gauss_next = state["python"]
    random.setstate((version, tuple(internal.tolist()), gauss_next))
    torch.set_rng_state(state["torch"].cpu())
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([device.cpu() for device in state["cuda"]])


def _restore(states: Sequence[Mapping[str, Any]], rank: int, world: int) -> None:
    if world != len(states) and rank == 0:
        log.warning(
            "the checkpoint is of %d processes, the run goes on with %d: process r takes the random state of "
            "process r, and one that is new a state derived from that of process 0 and its rank",
            len(states),
            world,
        )
    if rank < len(states):
        set_random_state(states[rank])
        return
    first = hashlib.sha256(states[0]["torch"].cpu().numpy().tobytes()).hexdigest()
    seed = digest(first, "rank", rank) % 2**32
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)


def logger_states(loggers: Sequence[Any]) -> list[dict[str, Any]]:
    """Which run each logger writes to; empty for those that do not say."""
    return [dict(logger.state_dict()) if hasattr(logger, "state_dict") else {} for logger in loggers]


def restore_loggers(loggers: Sequence[Any], states: Sequence[Mapping[str, Any]]) -> None:
    """Lets each logger go on with the run that it wrote to."""
    for logger, state in zip(loggers, states, strict=False):
        if state and hasattr(logger, "load_state_dict"):
            logger.load_state_dict(state)


def _begin(trainer: pl.Trainer) -> None:
    for logger in trainer.loggers:
        begin = getattr(logger, "begin", None)
        if begin is not None:
            begin()


class FitLoop(_FitLoop):
    """Lightning's, which also runs the hooks of start and end when a resumed run has no step left to train.

    So a last probe or checkpoint that was cut off is made up for, and a validation that `owes_validation` tells of.
    """

    resumed = False
    owes_validation = False

    @property
    def skip(self) -> bool:
        """Whether not even the hooks of start and end are run."""
        return super().skip and not (self.resumed and self.max_batches)

    def reset(self) -> None:
        """Where the last batch of an epoch was the last thing done, the next epoch begins as any other."""
        super().reset()
        epoch = self.epoch_loop
        is_over = epoch.restarted_on_train_batch_end and epoch.batch_progress.is_last_batch
        if is_over and self.restarted_mid_epoch:
            self.reset_restart_stage()

    def on_run_start(self) -> None:
        """The hooks of the start, then an owed validation."""
        super().on_run_start()
        if self.owes_validation:
            self.owes_validation = False
            self._validate()

    def _validate(self) -> None:
        trainer: Any = self.trainer
        trainer.validating = True
        first_loop_iter = trainer._logger_connector._first_loop_iter
        self.epoch_loop.val_loop.restarting = False  # else it would leave out batches of an earlier one
        self.epoch_loop.val_loop.run()
        trainer._logger_connector._first_loop_iter = first_loop_iter
        trainer.training = True


class EpochLoop(_TrainingEpochLoop):
    """Lightning's, which tells callbacks when a step is over."""

    def reset(self) -> None:
        """Where the last batch of an epoch was the last thing done, nothing is restarted within the next."""
        was_last = self.restarted_on_train_batch_end and self.batch_progress.is_last_batch
        self.val_loop.restarting = False  # none is ever left half done
        super().reset()
        if was_last:
            self.restarting = False

    def on_advance_end(self, data_fetcher: Any) -> None:
        """Validation and logs, then `on_step_finished` of every callback that has it."""
        super().on_advance_end(data_fetcher)
        if self._should_accumulate():
            return
        trainer: Any = self.trainer
        for callback in trainer.callbacks:
            finished = getattr(callback, "on_step_finished", None)
            if finished is not None:
                finished(trainer, trainer.lightning_module)


def go_on_between_steps(trainer: Any) -> FitLoop:
    """Gives a trainer these loops in place of Lightning's own.

    Raises:
        InputError: if its loops are somebody else's.
    """
    loop = trainer.fit_loop
    for part, own, ours in ((loop, _FitLoop, FitLoop), (loop.epoch_loop, _TrainingEpochLoop, EpochLoop)):
        if type(part) not in (own, ours):
            raise InputError(
                f"the trainer has a {type(part).__name__} of its own; checkpoints need Lightning's training loop"
            )
        part.__class__ = ours
    return loop
