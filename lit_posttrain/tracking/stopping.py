"""Stops early, by what the probes find or by what has been spent."""

from collections.abc import Sequence
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason

from lit_posttrain.batches import Answer
from lit_posttrain.errors import InputError
from lit_posttrain.tracking.axes import AXES
from lit_posttrain.tracking.compute import ComputeMeter
from lit_posttrain.tracking.probe import Point
from lit_posttrain.tracking.probe_settings import find_meter


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

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A resumed run that had come to its end stays at it, unless it is given more patience."""
        reason = EarlyStoppingReason
        if self.wait_count >= self.patience or self.stopping_reason not in (
            reason.NOT_STOPPED,
            reason.PATIENCE_EXHAUSTED,
        ):
            trainer.should_stop = True

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on with what was seen; the settings are those of now."""
        super().load_state_dict({**state_dict, "patience": self.patience})

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


class StopAtCompute(Callback):
    """Ends the training once it has spent so much, so that runs can be compared at equal compute.

    Args:
        axis: What compute is: flops, tokens, device_hours …, as on the axis of S-curves.
        limit: The last step is the first at which this much has been spent, resumed runs included.

    Raises:
        InputError: for an unknown axis, or a limit that is not above 0.
    """

    def __init__(self, limit: float, axis: str = "flops") -> None:
        if axis not in AXES:
            raise InputError(f"StopAtCompute's axis is {axis!r}; choose one of {', '.join(AXES)}.")
        if limit <= 0:
            raise InputError(f"StopAtCompute's limit is {limit}; give an amount above 0.")
        self.limit, self.axis = limit, axis
        self._meter = ComputeMeter()
        self._seen_step = -1

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Finds the meter.

        Raises:
            InputError: without a ComputeMeter.
        """
        if stage == "fit":
            self._meter = find_meter(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Looks after each optimiser step; collective."""
        if trainer.global_step == self._seen_step:
            return
        self._seen_step = trainer.global_step
        if self._meter.axes()[f"scurve/{self.axis}"] >= self.limit:
            trainer.should_stop = True
