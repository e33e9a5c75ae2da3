"""Tags that say how well the programs of a run were confined."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from lit_posttrain.contracts import Grader
from lit_posttrain.graders.sandbox.interface import Sandbox

SEPARATOR = " | "


class SandboxTags(Callback):
    """Gives a run the facts of the sandboxes that its graders use: `sandbox.level`, `sandbox.kernel` …

    The graders are those of the method, of its data and of callbacks such as AccuracyProbe, and what these are
    composed of. A fact in which two sandboxes differ is told of both. It is done when training or a test starts,
    and is when a lazy sandbox proves its level: a run whose machine cannot confine programs ends before its first
    step.

    Raises:
        InputError: from a sandbox that does not reach the level asked for.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the sandboxes and tags the run."""
        drawing = getattr(getattr(trainer, "datamodule", None), "drawing", None)
        facts = facts_of([pl_module, drawing, *trainer.callbacks])  # type: ignore[attr-defined]
        if not facts:
            return
        for logger in trainer.loggers:
            set_tags = getattr(logger, "set_tags", None)
            if set_tags is not None:
                set_tags(facts)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The same."""
        self.on_train_start(trainer, pl_module)


def facts_of(owners: Sequence[object]) -> dict[str, str]:
    """The facts of all sandboxes of the graders that stand in the attribute `grader` of these objects."""
    found: dict[str, dict[str, None]] = {}
    for owner in owners:
        for sandbox in sandboxes(getattr(owner, "grader", None)):
            for name, value in sandbox.facts().items():
                found.setdefault(name, {})[value] = None
    return {name: SEPARATOR.join(values) for name, values in found.items()}


def sandboxes(part: Any) -> Iterator[Sandbox]:
    """The sandboxes within a grader: its fields, the graders that it is composed of, and theirs."""
    if isinstance(part, Sandbox):
        yield part
    elif isinstance(part, Mapping):
        for value in part.values():
            yield from sandboxes(value)
    elif isinstance(part, list | tuple):
        for value in part:
            yield from sandboxes(value)
    elif isinstance(part, Grader) and is_dataclass(part):
        for field in fields(part):
            yield from sandboxes(getattr(part, field.name))
