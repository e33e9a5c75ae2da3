"""What a probe may be asked, and where it finds its parts."""

from dataclasses import dataclass
from typing import Any

from lightning.pytorch import LightningModule, Trainer

from lit_posttrain.errors import InputError
from lit_posttrain.tracking.axes import AXES
from lit_posttrain.tracking.compute import ComputeMeter


@dataclass(frozen=True)
class LogSpaced:
    """Probes evenly spaced in the logarithm of compute.

    Args:
        factor: The next probe comes once compute is this many times that of the last one.
        axis: What compute is; FLOPs and tokens give the same steps on every machine, seconds do not.
        first_step: No probe before this optimiser step, the untrained policy apart.
    """

    factor: float = 1.5
    axis: str = "flops"
    first_step: int = 1

    def __post_init__(self) -> None:
        if self.factor <= 1:
            raise InputError(f"log_spaced.factor is {self.factor}; it must be above 1.")
        if self.axis not in AXES:
            raise InputError(f"log_spaced.axis is {self.axis!r}; choose one of {', '.join(AXES)}.")


def check_at_least(name: str, value: int | None, least: int, why: str = "") -> None:
    """Refuses a setting below its least value; None passes.

    Raises:
        InputError: naming the setting.
    """
    if value is not None and value < least:
        raise InputError(f"{name} is {value}; set it to {least} or more{why}.")


def check_spacing(every_n_steps: int | None, log_spaced: LogSpaced | None) -> None:
    """Refuses two spacings at once.

    Raises:
        InputError: if both are set.
    """
    if every_n_steps is not None and log_spaced is not None:
        raise InputError("every_n_steps and log_spaced are both set; choose one spacing of the points.")


def check_at_k(at_k: tuple[int, ...], samples: int) -> None:
    """Refuses a pass@k or majority@k that the samples cannot tell.

    Raises:
        InputError: naming the k.
    """
    for k in at_k:
        if not 1 <= k <= samples:
            raise InputError(
                f"pass_at or majority_at asks for k = {k} from {samples} samples per problem; "
                f"raise samples_per_problem, or choose k from 1 to {samples}."
            )


def part_of(module: LightningModule, name: str, own: Any) -> Any:
    """The probe's own part, or the method's where it has none.

    Raises:
        InputError: if neither has it.
    """
    part = own if own is not None else getattr(module, name, None)
    if part is None:
        method = type(module).__name__
        raise InputError(
            f"AccuracyProbe was given no {name} and {method} has none; set the probe's `{name}`."
        )
    return part


def find_meter(trainer: Trainer) -> ComputeMeter:
    """The trainer's ComputeMeter.

    Raises:
        InputError: if there is none.
    """
    for callback in trainer.callbacks:  # pyright: ignore[reportAttributeAccessIssue]
        if isinstance(callback, ComputeMeter):
            return callback
    raise InputError("AccuracyProbe needs a ComputeMeter among the callbacks, for its x-axis; add one.")
