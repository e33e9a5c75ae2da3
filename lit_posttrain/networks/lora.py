"""Low-rank adapters: which layers get one, and the base network without them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import nn

from lit_posttrain.errors import InputError


@dataclass(frozen=True)
class LoraSettings:
    """Trains low-rank additions to linear layers and leaves the network itself frozen.

    Args:
        rank: Inner dimension of each adapter.
        alpha: The adapter's output is scaled by alpha / rank.
        dropout: Dropout on the adapter's input; online methods turn it off.
        target_modules: `all-linear` (every linear layer but the output head), or names of layers as they end
            in the network, for example [q_proj, v_proj].

    Source: Hu et al. 2021, arXiv:2106.09685.
    """

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    target_modules: str | Sequence[str] = "all-linear"

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise InputError(f"lora.rank is {self.rank}; it must be at least 1.")
        if not 0 <= self.dropout < 1:
            raise InputError(f"lora.dropout is {self.dropout}; it must be in [0, 1).")
        if isinstance(self.target_modules, str) and self.target_modules != "all-linear":
            raise InputError(
                f"lora.target_modules is {self.target_modules!r}; give 'all-linear' or a list of layer names."
            )


def check_targets(model: Any, settings: LoraSettings) -> None:
    """Refuses target names that end no layer's name, or that name the output head.

    Raises:
        InputError: naming the targets that match nothing and the linear layers there are.
    """
    if isinstance(settings.target_modules, str):
        return
    names = [name for name, _ in model.named_modules()]
    missing = [
        target
        for target in settings.target_modules
        if not any(name == target or name.endswith("." + target) for name in names)
    ]
    if missing or not settings.target_modules:
        known = sorted(
            {name.rsplit(".", 1)[-1] for name, module in model.named_modules() if is_linear(module)}
        )
        raise InputError(
            f"lora.target_modules {missing} match no layer of {type(model).__name__}; "
            f"its linear layers are {known}."
        )
    head = next(name for name, module in model.named_modules() if module is model.get_output_embeddings())
    if any(head == target or head.endswith("." + target) for target in settings.target_modules):
        raise InputError(
            f"lora.target_modules name the output head {head!r}; adapters on it are not supported."
        )


def is_transposed(module: nn.Module) -> bool:
    """Whether a module is the dense layer of GPT-2, which holds its weight as (inputs, outputs)."""
    return type(module).__name__ == "Conv1D" and type(module).__module__ == "transformers.pytorch_utils"


def is_linear(module: nn.Module) -> bool:
    """Whether a module is a dense layer."""
    return isinstance(module, nn.Linear) or is_transposed(module)


def attach(model: Any, settings: LoraSettings, base: str | None) -> Any:
    """Wraps a causal language model in a `PeftModel`; only the adapters require gradients afterwards."""
    check_targets(model, settings)
    from peft import LoraConfig, get_peft_model

    targets = settings.target_modules
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]
        lora_dropout=settings.dropout,
        target_modules=targets if isinstance(targets, str) else list(targets),
        fan_in_fan_out=any(is_transposed(module) for module in model.modules()),
        task_type="CAUSAL_LM",
        base_model_name_or_path=base,
    )
    return get_peft_model(model, config)


@contextmanager
def adapters_off(model: Any) -> Iterator[None]:
    """Runs the block with the base network alone: the reference policy of a LoRA run.

    Only flags are set. peft's own `disable_adapter` also stops adapters from requiring a gradient for the time
    of the block; where processes share the parameters, some would be left so, and silently not be trained.
    """
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
