"""Training a few parameters beside a frozen network: what all kinds of adapters share."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, ClassVar

from lit_posttrain.networks.score_head import has_head, output_layer


class AdapterSettings(ABC):
    """What is trained instead of the network itself; its kinds are frozen dataclasses, named in YAML by class.

    `label` is the kind in a message; `merges` says whether it can be put into the weights of the network;
    `tokens` are virtual tokens before each sequence, `computed` whether the layers run on them too.
    """

    label: ClassVar[str]
    merges: ClassVar[bool] = True
    tokens: int = 0
    computed: ClassVar[bool] = False

    @abstractmethod
    def peft_config(self, model: Any, base: str | None) -> Any:
        """peft's config for a Hugging Face model, which may be on the meta device.

        Args:
            model: The model that is to be adapted.
            base: What peft shall call it.

        Raises:
            InputError: for settings that do not fit the model.
        """

    @property
    @abstractmethod
    def description(self) -> str:
        """What is trained, in a few words, with an article."""

    def start(self, model: Any) -> None:
        """Changes the fresh parameters of a `PeftModel` where peft's own are no good."""
        return None

    def to_dict(self) -> dict[str, Any]:
        """Plain types only, the kind by its name."""
        return {"kind": type(self).__name__, **asdict(self)}  # type: ignore[call-overload]


def attach(model: Any, settings: AdapterSettings, base: str | None) -> Any:
    """Wraps a network in a `PeftModel`; only the adapters require gradients afterwards, and a score head.

    The head is then a copy of its own in float32, as adapters are, which peft stores and merges with them.

    Raises:
        InputError: for settings that do not fit the model.
    """
    with quiet():
        from peft import get_peft_model

        config = settings.peft_config(model, base)
    if has_head(model):
        config.task_type = "SEQ_CLS"
    adapted = get_peft_model(model, config)
    if has_head(model):
        output_layer(model).float()
    settings.start(adapted)
    return adapted


@contextmanager
def adapters_off(model: Any) -> Iterator[None]:
    """Runs the block with the base network alone: the reference policy of a run that trains adapters.

    Only flags are set. peft's own `disable_adapter` also stops adapters from requiring a gradient for the time
    of the block; where processes share the parameters, some would be left so, and silently not be trained.
    """
    with quiet():
        from peft.tuners.tuners_utils import BaseTunerLayer

    owners = [
        (module, "_disable_adapters") for module in model.modules() if isinstance(module, BaseTunerLayer)
    ]
    owners.append((model, "_adapters_disabled"))
    before = [getattr(owner, name) for owner, name in owners]
    for owner, name in owners:
        setattr(owner, name, True)
    try:
        yield
    finally:
        for (owner, name), value in zip(owners, before, strict=True):
            setattr(owner, name, value)


@contextmanager
def quiet() -> Iterator[None]:
    """Runs an import without what bitsandbytes, which peft imports where it is there, says of a missing kernel."""
    logger = logging.getLogger("bitsandbytes")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
