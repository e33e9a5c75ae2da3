"""A frozen network in 4 bits per weight (QLoRA); the only file that knows bitsandbytes.

Source: Dettmers et al. 2023, arXiv:2305.14314.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lit_posttrain.errors import InputError
from lit_posttrain.networks.adapters import quiet
from lit_posttrain.networks.targets import is_transposed, linear_layers, linear_shape

KINDS = ("nf4", "fp4")
BLOCK = 64
"""Weights that share a scale; bitsandbytes' own."""
OUTER_BLOCK = 256
"""Scales that share a scale of their own under double quantisation."""
LEVELS, OUTER_LEVELS = 16, 256


@dataclass(frozen=True)
class Quantisation:
    """Holds the weights of all linear layers but the output head in 4 bits, frozen; needs adapters to train.

    Args:
        kind: nf4 (levels for normally distributed weights) or fp4.
        double: Also quantise the scales: 4.13 bits per weight instead of 4.5.
        compute_dtype: In which products are computed from the weights; by default the network's dtype.
    """

    kind: Literal["nf4", "fp4"] = "nf4"
    double: bool = True
    compute_dtype: Literal["float32", "bfloat16", "float16"] | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InputError(f"quantisation.kind is {self.kind!r}; it must be one of {list(KINDS)}.")


def check_shapes(model: Any) -> None:
    """Refuses layers whose rows do not hold whole blocks; the model may be on the meta device.

    Without an error bitsandbytes 0.50.2 gives them the scales of other rows, or of foreign memory, on a CPU.

    Raises:
        InputError: naming one.
    """
    for name, module in linear_layers(model).items():
        inputs, _ = linear_shape(module)
        if inputs % BLOCK:
            raise InputError(
                f"{name} takes {inputs} inputs, which are no multiple of {BLOCK}; bitsandbytes would compute wrongly "
                "with them. Leave quantisation away for this network."
            )


def quantise(model: Any, settings: Quantisation, compute_dtype: torch.dtype) -> None:
    """Replaces the linear layers of a model by ones of 4 bits per weight, one after another, in place.

    Biases are held in the compute dtype, as the layer would otherwise change them in its first forward.

    Raises:
        InputError: if bitsandbytes is not installed, or for layers that it gets wrong.
    """
    check_shapes(model)
    library = _library()
    module: Any
    for name, module in linear_layers(model).items():
        inputs, outputs = linear_shape(module)
        weight = module.weight
        with torch.device("meta"):
            layer: Any = library.nn.Linear4bit(inputs, outputs, module.bias is not None, compute_dtype)
        layer.weight = library.nn.Params4bit(
            (weight.T if is_transposed(module) else weight).detach().contiguous(),
            compress_statistics=settings.double,
            quant_type=settings.kind,
            module=layer,
        ).to(weight.device)
        if module.bias is not None:
            layer.bias = nn.Parameter(module.bias.detach().to(compute_dtype), requires_grad=False)
        # on processors with bfloat16 units it would repack its weights in the first forward without a gradient,
        # round to bfloat16 there, and give no gradient ever after (bitsandbytes 0.50.2)
        layer.support_avx512bf16_for_cpu = False
        layer.was = type(module)
        model.set_submodule(name, layer)


def dequantise(model: Any) -> None:
    """Replaces the 4-bit layers of a model by plain ones with the numbers that they stand for, in place."""
    layer: Any
    for name, layer in linear_layers(model).items():
        if not is_quantised(layer):
            continue
        inputs, outputs = linear_shape(layer)
        weight, is_usual = dense_weight(layer), layer.was is nn.Linear
        with torch.device("meta"):  # GPT-2's layer names its outputs first, and always has a bias
            plain: Any = (
                nn.Linear(inputs, outputs, layer.bias is not None) if is_usual else layer.was(outputs, inputs)
            )
        plain.weight = nn.Parameter(weight if is_usual else weight.T.contiguous())
        if layer.bias is not None:
            plain.bias = nn.Parameter(layer.bias.detach().to(weight.dtype))
        model.set_submodule(name, plain)


def dense_weight(layer: Any) -> Tensor:
    """The numbers (outputs, inputs) that the weight of a 4-bit layer stands for, in the network's dtype."""
    return _library().functional.dequantize_4bit(layer.weight.data, layer.quant_state)


def is_quantised(module: nn.Module) -> bool:
    """Whether a module is a layer of 4 bits per weight."""
    return type(module).__name__ == "Linear4bit" and type(module).__module__.startswith("bitsandbytes")


def scales(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """What belongs to the 4-bit weights of a model and is no parameter: scales, levels, offsets, by name."""
    for name, module in model.named_modules():
        if is_quantised(module):
            state: Any = module.quant_state  # the weight's own is lost on the way to another device
            outer = state.state2
            yield f"{name}.weight.scales", state.absmax
            yield f"{name}.weight.levels", state.code
            if outer is not None:
                yield f"{name}.weight.offset", state.offset
                yield f"{name}.weight.scales.scales", outer.absmax
                yield f"{name}.weight.scales.levels", outer.code


def count(parameter: Any) -> int:
    """The weights that a parameter stands for: two for each byte of 4-bit weights."""
    state = getattr(parameter, "quant_state", None)
    return parameter.numel() if state is None else state.shape.numel()


def saved_bytes(model: Any, settings: Quantisation, compute_dtype: torch.dtype) -> int:
    """Bytes that `quantise` would save of a model, which may be on the meta device."""
    layer: Any
    saved = 0
    for layer in linear_layers(model).values():
        weight = layer.weight
        saved += weight.numel() * weight.itemsize - packed_bytes(weight.numel(), settings)
        if layer.bias is not None:
            saved += layer.bias.numel() * (layer.bias.itemsize - compute_dtype.itemsize)
    return saved


def packed_bytes(weights: int, settings: Quantisation) -> int:
    """Bytes in which a matrix of so many weights is held, scales and levels included."""
    blocks = math.ceil(weights / BLOCK)
    own = math.ceil(weights / 2) + 4 * LEVELS
    if not settings.double:
        return own + 4 * blocks
    return own + blocks + 4 * math.ceil(blocks / OUTER_BLOCK) + 4 * OUTER_LEVELS + 4


def _library() -> Any:
    with quiet():
        try:
            import bitsandbytes
        except ImportError as error:
            raise InputError(
                "4-bit weights need bitsandbytes, which is not installed; "
                "run pip install 'lit-posttrain[quant]', or leave quantisation away."
            ) from error
    return bitsandbytes
