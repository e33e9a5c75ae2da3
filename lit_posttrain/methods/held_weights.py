"""Weights that a policy had once, or on average, which take the place of its own while they are asked."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from lit_posttrain.networks import CausalNetwork


class HeldWeights(nn.Module):
    """A copy of what is trained of a policy: all its weights, or those of its adapters.

    A network of its own would hold the frozen weights a second time. Where processes share the parameters, each
    holds the copy of its own share.

    Args:
        policy: Whose weights are copied.
    """

    def __init__(self, policy: CausalNetwork) -> None:
        super().__init__()
        for name, parameter in _trained(policy).items():
            copy = nn.Parameter(parameter.detach().clone(), requires_grad=False)
            self.register_parameter(_stored(name), copy)

    @contextmanager
    @torch.no_grad()
    def in_place(self, policy: CausalNetwork) -> Iterator[None]:
        """The policy has these weights within the block, and its own again, to the last bit, after it.

        Enter it before the forward of a loss: what is saved for a backward must not change.
        """
        self._exchange(policy)
        try:
            yield
        finally:
            with torch.no_grad():
                self._exchange(policy)

    @torch.no_grad()
    def follow(self, policy: CausalNetwork, share: float) -> None:
        """Moves towards the policy's weights; a share of 1 takes them."""
        for name, parameter in _trained(policy).items():
            held = self._held(name)
            held.copy_(parameter) if share == 1 else held.lerp_(parameter, share)

    def _exchange(self, policy: CausalNetwork) -> None:
        for name, parameter in _trained(policy).items():
            held = self._held(name)
            own = parameter.clone()
            parameter.copy_(held)
            held.copy_(own)

    def _held(self, name: str) -> Tensor:
        return self.get_parameter(_stored(name))


def _trained(policy: CausalNetwork) -> dict[str, Tensor]:
    return {name: p for name, p in policy.named_parameters() if p.requires_grad}


def _stored(name: str) -> str:
    return name.replace(".", "/")  # parameters of a module may have no dot in their names
