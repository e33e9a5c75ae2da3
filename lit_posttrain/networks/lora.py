"""Low-rank adapters: LoRA, and its variants DoRA and rsLoRA."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from lit_posttrain.errors import InputError
from lit_posttrain.networks import targets
from lit_posttrain.networks.adapters import AdapterSettings, quiet

INITS = ("kaiming", "gaussian")


@dataclass(frozen=True)
class LoraSettings(AdapterSettings):
    """Trains low-rank additions to linear layers and leaves the network itself frozen.

    Args:
        rank: Inner dimension of each adapter.
        alpha: The adapter's output is scaled by alpha / rank.
        dropout: Dropout on the adapter's input; online methods turn it off.
        target_modules: `all-linear` (every linear layer but the output head), `architecture` (the few that peft
            has for the model type), or names of layers as they end in the network, for example [q_proj, v_proj].
        use_dora: Also train the norm of each output's weights (DoRA); about as slow as a second network.
        use_rslora: Scale by alpha / sqrt(rank) instead (rsLoRA), so that high ranks learn as fast as low ones.
        init: How the first matrix of each adapter starts, kaiming or gaussian; the second starts at 0, so that
            the network starts unchanged.

    Sources: Hu et al. 2021, arXiv:2106.09685; Liu et al. 2024, arXiv:2402.09353; Kalajdzievski 2023,
    arXiv:2312.03732.
    """

    label: ClassVar[str] = "LoRA"

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    target_modules: str | Sequence[str] = targets.ALL_LINEAR
    use_dora: bool = False
    use_rslora: bool = False
    init: Literal["kaiming", "gaussian"] = "kaiming"

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise InputError(f"lora.rank is {self.rank}; it must be at least 1.")
        if not 0 <= self.dropout < 1:
            raise InputError(f"lora.dropout is {self.dropout}; it must be in [0, 1).")
        if self.init not in INITS:
            raise InputError(f"lora.init is {self.init!r}; it must be one of {list(INITS)}.")
        targets.check_given("lora", self.target_modules)

    @property
    def description(self) -> str:
        """Rank, scale and targets."""
        kind = "DoRA" if self.use_dora else "LoRA"
        scale = " over the root of the rank" if self.use_rslora else ""
        aims = targets.told(self.target_modules)
        return f"a {kind} adapter of rank {self.rank} and alpha {self.alpha:g}{scale} on {aims}"

    def peft_config(self, model: Any, base: str | None) -> Any:
        """A `LoraConfig`."""
        with quiet():
            from peft import LoraConfig
            from peft.utils import constants

        lists = constants.TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
        return LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,  # type: ignore[arg-type]
            lora_dropout=self.dropout,
            target_modules=targets.resolve(model, "lora", self.target_modules, lists),
            fan_in_fan_out=targets.holds_transposed(model),
            use_dora=self.use_dora,
            use_rslora=self.use_rslora,
            init_lora_weights=True if self.init == "kaiming" else self.init,  # type: ignore[arg-type]
            task_type="CAUSAL_LM",
            base_model_name_or_path=base,
        )
