"""Keeps the axes of an S-curve: device-seconds, FLOPs and tokens spent on training so far."""

import contextlib
import time
from dataclasses import replace
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from lit_posttrain.errors import InputError
from lit_posttrain.ledger import Ledger, Phase, Spent
from lit_posttrain.names import known
from lit_posttrain.ranks import Ranks
from lit_posttrain.tracking import axes

CLOCKS = ("device_seconds", "active_seconds", "wall_seconds")


class ComputeMeter(Callback):
    """Reads `module.ledger`, logs `compute/*` and `time/*`, and gives the compute of each S-curve point.

    Device-seconds are the devices held times the wall seconds since training began, idle ones included; only
    evaluation and set-up are left out. All figures go on after a resume, and are sums over ranks, where work that
    several ranks do alike (tensor parallelism) counts once. Steps
    (forward, backward, optimiser) are booked as update, validation loops as evaluation; what is drawn while a
    batch is fetched books itself.

    Args:
        device_factor: Seconds of the axis that one second of this device is worth. Needed only to resume a
            run on another type of device than it began on: hours of different devices are not one axis.

    Raises:
        InputError: when a run is resumed on another type of device without a factor.
    """

    def __init__(self, device_factor: float | None = None) -> None:
        if device_factor is not None and device_factor <= 0:
            raise InputError(f"device_factor is {device_factor}; expected a number above 0, or null.")
        self.device_factor = device_factor
        self._carried: dict[str, float] = dict.fromkeys(CLOCKS, 0.0)
        self._restored: dict[str, Any] | None = None
        self._since: float | None = None
        self._evaluation_before = 0.0
        self._phase: contextlib.ExitStack | None = None
        self._ledger = Ledger()
        self._root_device = torch.device("cpu")
        self._device_type = ""
        self._replicas = 1
        self._finished: tuple[int, dict[Phase, Spent]] = (0, {})
        self._before_validation: Spent | None = None
        self._in_step = False
        self._logged_step = -1

    def axes(self) -> dict[str, float]:
        """The compute at this moment by every axis, as `scurve/*`; collective: all ranks must call it."""
        totals = self._totals()
        return axes.curve_axes(axes.unflatten(totals), totals["device_seconds"])

    def figures(self) -> dict[str, float]:
        """All `compute/*` and `time/*` figures at this moment; collective: all ranks must call it."""
        totals = self._totals()
        spent = axes.unflatten(totals)
        return axes.compute_figures(spent) | axes.time_figures(
            spent, **{name: totals[name] for name in CLOCKS}
        )

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Finds the books.

        Raises:
            InputError: if the module keeps none.
        """
        ledger = pl_module.ledger
        if not isinstance(ledger, Ledger):
            kind = type(ledger).__name__
            raise InputError(
                f"ComputeMeter needs a Ledger at {type(pl_module).__name__}.ledger, found a {kind}."
            )
        self._ledger, self._root_device = ledger, trainer.strategy.root_device

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock, after the books of a resumed run are back."""
        self.start(trainer)

    def start(self, trainer: Trainer) -> None:
        """The same for a callback that needs the axes before; again: nothing."""
        if self._since is not None:
            return
        self._device_type = device_type(self._root_device)
        self._replicas = Ranks.of(trainer).replicas
        self._take_over(trainer)
        self._evaluation_before = self._evaluation_s
        self._since = time.perf_counter()
        self._note(trainer)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """What follows up to the end of the batch is update."""
        self._in_step = True
        self._begin(Phase.UPDATE)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Ends the update, and logs at the trainer's interval; the last step is logged at the end."""
        self._end()
        stepped = trainer.global_step != self._finished[0]
        if stepped:
            self._note(trainer)
        interval: int = trainer.log_every_n_steps  # pyright: ignore[reportAttributeAccessIssue]
        if stepped and trainer.global_step % interval == 0 and not ends_here(trainer):
            self._log(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validation is evaluation."""
        if self._before_validation is None:
            self._before_validation = replace(self._ledger.spent[Phase.EVALUATION])
        self._begin(Phase.EVALUATION)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validation is over."""
        self._end()
        if not self._in_step:
            self._before_validation = None

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Logs the last step, once, with the evaluation that ended it, and stops the clock."""
        if self._logged_step != trainer.global_step:
            self._log(trainer)
        self._carried = self._clocks()
        self._since = None

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Takes back the work of what is cut off and will be done again; the seconds were spent."""
        self._end()
        step, work = self._finished
        if step != trainer.global_step:  # cut off in a callback, after the step
            return
        if self._before_validation is not None:
            work = work | {Phase.EVALUATION: self._before_validation}
        books = self._ledger.spent
        books.update({phase: replace(spent, seconds=books[phase].seconds) for phase, spent in work.items()})

    def state_dict(self) -> dict[str, Any]:
        """Totals of all ranks as plain numbers; collective."""
        if self._restored is not None:
            return self._restored
        totals = self._totals()
        books = {phase.value: dict(vars(spent)) for phase, spent in axes.unflatten(totals).items()}
        state = {"ledger": books, "device_type": self._device_type}
        state["logged_step"] = self._logged_step
        return {name: totals[name] for name in CLOCKS} | state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keeps the totals until training starts."""
        self._restored = state_dict

    def _take_over(self, trainer: Trainer) -> None:
        """Adds what a checkpoint had booked; on rank 0 alone, since the figures are sums over ranks."""
        restored, self._restored = self._restored, None
        if restored is None:
            return
        before, now = restored["device_type"] or self._device_type, self._device_type
        if before != now and self.device_factor is None:
            raise InputError(
                f"this run began on {before!r} and would go on on {now!r}: their seconds are not one axis. "
                f"Set ComputeMeter's device_factor to the seconds of {before!r} that one of {now!r} is "
                "worth, or start a new run."
            )
        self._device_type = before
        if trainer.is_global_zero:
            self._ledger.load_state_dict(restored["ledger"])
            self._ledger.spent = {p: _times(spent, self._replicas) for p, spent in self._ledger.spent.items()}
            self._carried = {name: restored[name] for name in CLOCKS}
            self._carried["wall_seconds"] *= trainer.world_size
        else:
            self._ledger.load_state_dict(Ledger().state_dict())
        self._logged_step = restored["logged_step"]

    @property
    def _evaluation_s(self) -> float:
        return self._ledger.spent[Phase.EVALUATION].seconds

    def _clocks(self) -> dict[str, float]:
        """This rank's clocks."""
        if self._since is None:
            return dict(self._carried)
        wall = time.perf_counter() - self._since
        active = wall - (self._evaluation_s - self._evaluation_before)
        factor = 1.0 if self.device_factor is None else self.device_factor
        passed = {"device_seconds": active * factor, "active_seconds": active, "wall_seconds": wall}
        return {name: before + passed[name] for name, before in self._carried.items()}

    def _totals(self) -> dict[str, float]:
        """Clocks and books, summed over ranks but for the wall, which is their mean."""
        totals = {**self._clocks(), **axes.flatten(self._ledger.spent)}
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            totals = axes.sum_over_ranks(totals, self._root_device)
            totals["wall_seconds"] /= torch.distributed.get_world_size()
        if self._replicas > 1:
            work = {
                name: value / self._replicas for name, value in totals.items() if not name.endswith("seconds")
            }
            totals |= work
        return totals

    def _note(self, trainer: Trainer) -> None:
        """What training had cost after the last finished step; probes and validations see to theirs themselves."""
        spent = {phase: replace(self._ledger.spent[phase]) for phase in axes.TRAINING}
        self._finished = (trainer.global_step, spent)
        self._in_step, self._before_validation = False, None

    def _begin(self, phase: Phase) -> None:
        self._end()
        self._phase = contextlib.ExitStack()
        self._phase.enter_context(self._ledger.phase(phase))

    def _end(self) -> None:
        if self._phase is not None:
            self._phase.close()
            self._phase = None

    def _log(self, trainer: Trainer) -> None:
        figures = {known(name): value for name, value in self.figures().items()}
        self._logged_step = trainer.global_step
        if trainer.is_global_zero:
            for logger in trainer.loggers:
                logger.log_metrics(figures, step=trainer.global_step)


def _times(spent: Spent, factor: int) -> Spent:
    """The work, not the time, of so many processes that do the same."""
    work = {name: value * factor for name, value in vars(spent).items() if name != "seconds"}
    return replace(spent, **work)


def device_type(device: torch.device) -> str:
    """The kind of a device, equal for devices whose seconds are comparable."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def ends_here(trainer: Any) -> bool:
    """Whether training ends after the step that was just taken, as far as it is known by now."""
    if trainer.should_stop or trainer.global_step == trainer.max_steps:
        return True
    last_epoch = trainer.max_epochs is not None and trainer.current_epoch + 1 == trainer.max_epochs
    return last_epoch and trainer.fit_loop.epoch_loop.batch_progress.is_last_batch
