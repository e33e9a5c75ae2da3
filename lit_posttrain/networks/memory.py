"""How much memory a run will take, from the config alone, before any weight is loaded."""

from dataclasses import dataclass, fields
from typing import Any

from lit_posttrain.networks.adapters import attach
from lit_posttrain.networks.config import DTYPES, NetworkConfig
from lit_posttrain.networks.load import on_meta, read_config
from lit_posttrain.networks.quantised import saved_bytes
from lit_posttrain.networks.shapes import attention_shape

MEBIBYTE = 2**20


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes by purpose. Weights, gradients, optimiser and cache are exact; activations and logits are rough.

    `weights` includes adapters, and 4-bit weights with their scales (while the network is loaded it is held whole
    in the host's memory, in its own dtype); `optimizer` is Adam's two moments, held like the weights they belong to;
    `activations` are what one forward keeps for its backward; `logits` are those of one chunk of the head.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    cache: int

    @property
    def training(self) -> int:
        """Bytes held at once in an update; the cache is gone by then."""
        return self.weights + self.gradients + self.optimizer + self.activations + self.logits

    @property
    def generation(self) -> int:
        """Bytes held at once in a rollout: the optimiser stays, gradients and activations are gone."""
        return self.weights + self.optimizer + self.cache

    def __str__(self) -> str:
        from rich.console import Console
        from rich.table import Table

        table = Table(title="Memory before anything is loaded", show_header=False)
        table.add_column()
        table.add_column(justify="right")
        for field in fields(self):
            table.add_row(field.name, f"{getattr(self, field.name) / MEBIBYTE:,.1f} MiB")
        table.add_section()
        table.add_row("at once in an update", f"{self.training / MEBIBYTE:,.1f} MiB")
        table.add_row("at once in a rollout", f"{self.generation / MEBIBYTE:,.1f} MiB")
        console = Console(width=60, color_system=None)
        with console.capture() as capture:
            console.print(table)
        return capture.get().rstrip()


def estimate(
    settings: NetworkConfig, *, micro_batch_tokens: int = 4096, rows: int = 64, row_tokens: int = 1024
) -> MemoryEstimate:
    """What training and generation will hold, from the shapes alone; works offline for a folder or a config.

    Args:
        settings: The network.
        micro_batch_tokens: Tokens in one forward with a gradient, padding included.
        rows: Completions written at the same time.
        row_tokens: Prompt and completion of each.

    Raises:
        InputError: if the config cannot be read or adapters do not fit the network.
    """
    config = read_config(settings)
    model, adapter, quantisation = on_meta(config, settings), settings.adaptation, settings.quantisation
    saved = 0 if quantisation is None else saved_bytes(model, quantisation, settings.products_dtype)
    if adapter is not None:
        model = attach(model, adapter, settings.path)
        row_tokens += adapter.tokens
    size = DTYPES[settings.dtype].itemsize
    weights = sum(p.numel() * p.itemsize for p in model.parameters()) - saved
    trained = sum(p.numel() * p.itemsize for p in model.parameters() if p.requires_grad)
    shape = attention_shape(config)
    cache = 2 * shape.layers * rows * shape.key_heads * row_tokens * shape.head_dimension * size
    return MemoryEstimate(
        weights,
        trained,
        2 * trained,
        activation_bytes(config, settings, micro_batch_tokens, size),
        logit_bytes(config, settings, micro_batch_tokens),
        cache,
    )


def activation_bytes(config: Any, settings: NetworkConfig, tokens: int, size: int) -> int:
    """What a forward keeps: about 10 hidden-sized and 4 inner-sized tensors per token and layer without
    gradient checkpointing; with it, each layer's input and one layer's tensors."""
    inner = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    layer = 10 * config.hidden_size + 4 * inner
    layers = attention_shape(config).layers
    kept = layer + layers * config.hidden_size if settings.gradient_checkpointing else layers * layer
    return tokens * kept * size


def logit_bytes(config: Any, settings: NetworkConfig, tokens: int) -> int:
    """Float32 logits of one chunk, their exponentials and their gradient; scores, of every token at most."""
    if settings.head is not None:
        return 2 * 4 * tokens * settings.head.heads
    positions = min(tokens, settings.chunk_tokens) if settings.chunk_tokens else tokens
    return 3 * 4 * positions * config.vocab_size
