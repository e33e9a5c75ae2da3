"""Adapters that multiply: IA3 scales what some layers take or give, OFT rotates what they take."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from lit_posttrain.errors import InputError
from lit_posttrain.networks import targets
from lit_posttrain.networks.adapters import AdapterSettings, quiet


@dataclass(frozen=True)
class IA3(AdapterSettings):
    """Trains one factor for each output of some layers, and for each input of others; starts at 1.

    Very few parameters, which want a learning rate some ten times that of LoRA, and no weight decay: it would
    pull the factors towards 0.

    Args:
        target_modules: `architecture` (keys, values and the inner projection, as peft has them for the model
            type), `all-linear`, or names of layers as they end in the network.
        feedforward_modules: The targets whose inputs are scaled instead of their outputs; by default those that
            peft has for the model type, as far as they are targets.

    Source: Liu et al. 2022, arXiv:2205.05638.
    """

    label: ClassVar[str] = "IA3"

    target_modules: str | Sequence[str] = targets.ARCHITECTURE
    feedforward_modules: Sequence[str] | None = None

    def __post_init__(self) -> None:
        targets.check_given("IA3", self.target_modules)

    @property
    def description(self) -> str:
        """Targets."""
        return f"IA3 factors on {targets.told(self.target_modules)}"

    def peft_config(self, model: Any, base: str | None) -> Any:
        """An `IA3Config`."""
        with quiet():
            from peft import IA3Config
            from peft.utils import constants

        lists = constants.TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING
        found = targets.resolve(model, "IA3", self.target_modules, lists)
        names = sorted(targets.linear_layers(model)) if isinstance(found, str) else found
        inner = constants.TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING
        forward = self._feedforward(names, inner.get(model.config.model_type, []))
        return IA3Config(
            target_modules=names,
            feedforward_modules=forward,
            fan_in_fan_out=targets.holds_transposed(model),
            task_type="CAUSAL_LM",
            base_model_name_or_path=base,
        )

    def _feedforward(self, names: list[str], usual: Sequence[str]) -> list[str]:
        """Those of the targets whose inputs are scaled."""
        wanted = usual if self.feedforward_modules is None else self.feedforward_modules
        strange = [one for one in wanted if not any(targets.ends_with(name, one) for name in names)]
        if strange and self.feedforward_modules is not None:
            raise InputError(
                f"IA3.feedforward_modules {strange} are not among its target_modules {names}; name targets."
            )
        return [name for name in names if any(targets.ends_with(name, one) for one in wanted)]


@dataclass(frozen=True)
class OFT(AdapterSettings):
    """Trains rotations of the inputs of linear layers, block by block; starts at no rotation.

    The rotation is that of the Cayley transform to its fourth power (Neumann series), so it is orthogonal up to
    the size of what is trained; merging uses the same numbers.

    Args:
        block_size: Inputs that are rotated together; must divide the inputs of every target. Each position costs
            as many multiply-adds per input.
        target_modules: `all-linear`, `architecture` (the few that peft has for the model type), or names of
            layers as they end in the network.

    Sources: Qiu et al. 2023, arXiv:2306.07280; Qiu et al. 2025, arXiv:2506.19847.
    """

    label: ClassVar[str] = "OFT"

    block_size: int = 32
    target_modules: str | Sequence[str] = targets.ALL_LINEAR

    def __post_init__(self) -> None:
        if self.block_size < 2:
            raise InputError(
                f"OFT.block_size is {self.block_size}; it must be at least 2, or nothing can rotate."
            )
        targets.check_given("OFT", self.target_modules)

    @property
    def description(self) -> str:
        """Block size and targets."""
        return f"OFT rotations in blocks of {self.block_size} on {targets.told(self.target_modules)}"

    def peft_config(self, model: Any, base: str | None) -> Any:
        """An `OFTConfig`."""
        with quiet():
            from peft import OFTConfig
            from peft.utils import constants

        lists = constants.TRANSFORMERS_MODELS_TO_OFT_TARGET_MODULES_MAPPING
        if targets.holds_transposed(model):
            raise InputError(f"peft cannot rotate the layers of {model.config.model_type}; use LoRA or IA3.")
        found = targets.resolve(model, "OFT", self.target_modules, lists)
        self._check_blocks(model, found)
        return OFTConfig(
            oft_block_size=self.block_size,
            target_modules=found,
            task_type="CAUSAL_LM",
            base_model_name_or_path=base,
        )

    def _check_blocks(self, model: Any, found: str | list[str]) -> None:
        """peft would take the nearest block size that fits, for each layer another."""
        for name, module in targets.linear_layers(model).items():
            inputs, _ = targets.linear_shape(module)
            aimed = isinstance(found, str) or any(targets.ends_with(name, one) for one in found)
            if aimed and inputs % self.block_size:
                fitting = [size for size in range(2, 257) if inputs % size == 0]
                raise InputError(
                    f"OFT.block_size {self.block_size} does not divide the {inputs} inputs of {name}; "
                    f"sizes that do: {fitting}."
                )
