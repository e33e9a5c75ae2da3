"""Holding the divided parameters of a network whole for a while, in every process by itself."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, Partial

if TYPE_CHECKING:
    from lit_posttrain.networks.network import CausalNetwork


@dataclass
class ShardedParameters:
    """How the parameters of a network are held; made by `sharding.build_sharded`.

    Args:
        dtype: Of the parameters as held.
        compute_dtype: Of the parameters as gathered and run.
        device: Where the network runs.
        tensor_parallel: Processes that share each layer.
        reshard_after_forward: Whether layers are given up after a forward with a gradient.
    """

    dtype: torch.dtype
    compute_dtype: torch.dtype
    device: torch.device
    tensor_parallel: int
    reshard_after_forward: bool
    _depth: int = field(default=0, init=False)

    @contextmanager
    def gathered(self, root: "CausalNetwork") -> Iterator[None]:
        """Every parameter is whole in the block, so that no forward in it waits for other processes' shards.

        Entering is collective, leaving is not: a process may leave earlier than others, or by an exception.
        """
        if self._depth == 0:
            self._gather(root)
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
            if self._depth == 0:
                self._release(root)

    def rest(self, root: "CausalNetwork", *, failed: bool) -> None:
        """Gives up what a forward has left whole, if it failed or no backward will follow.

        So the parameters of a network at rest are always the shards, as an optimiser and a checkpoint want them.
        """
        if self._depth > 0:
            return
        if failed:
            parts(root)[0].reset_iter_state()
        elif not torch.is_grad_enabled():
            for part in parts(root):
                part.reshard()

    def _gather(self, root: "CausalNetwork") -> None:
        for part in parts(root):
            part.set_reshard_after_forward(False, recurse=False)
        for part in parts(root):
            part.unshard()

    def _release(self, root: "CausalNetwork") -> None:
        first, *layers = parts(root)
        first.reset_iter_state()  # also after an exception within a layer, which leaves FSDP's own books open
        for layer in layers:
            layer.set_reshard_after_forward(self.reshard_after_forward, recurse=False)


def parts(root: "CausalNetwork") -> list[FSDPModule]:
    """The modules whose parameters are gathered together; the root, which has the rest, is the first."""
    return [module for module in root.modules() if isinstance(module, FSDPModule)]


def local(parameter: Tensor, *, heads: bool = False) -> Tensor:
    """A gathered parameter as a plain tensor, also where processes share layers and all have this one whole.

    Its gradient is averaged over these processes, although all compute the same: sums in another order (such as
    CUDA's for embeddings) would otherwise let their copies drift apart. With `heads` it is added up instead,
    for a parameter that each process uses on its own heads.
    """
    if not isinstance(parameter, DTensor):
        return parameter
    plain = parameter.to_local(grad_placements=[Partial()])
    if plain.requires_grad and not heads:
        size = parameter.device_mesh.size()
        plain.register_hook(lambda gradient: gradient / size)
    return plain
