"""Value networks: V before each token, from an own network, the policy's states, or adapters on its weights."""

import logging
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, nn

from lit_posttrain.batches import TokenBatch
from lit_posttrain.errors import InputError
from lit_posttrain.ledger import Ledger
from lit_posttrain.networks.config import NetworkConfig
from lit_posttrain.networks.dropout import disable_dropout
from lit_posttrain.networks.logprobs import Readout, token_values, values_of_states
from lit_posttrain.networks.lora import LoraSettings
from lit_posttrain.networks.network import CausalNetwork
from lit_posttrain.networks.placement import place
from lit_posttrain.networks.score_head import NAME, ScoreHead

log = logging.getLogger(__name__)

ZERO = ScoreHead(std=0.0)
"""A head that says 0 of everything until it has learned."""


class ValueModel(nn.Module, ABC):
    """Gives V before each token, beside what is read off the policy's logits."""

    @abstractmethod
    def read(
        self, policy: CausalNetwork, batch: TokenBatch, *, temperature: float, read: Readout, ledger: Ledger
    ) -> tuple[Tensor, Tensor]:
        """What `policy(batch, read=read)` gives, and values (B, T), float32, 0 where nothing is predicted."""

    def values(self, policy: CausalNetwork, batch: TokenBatch, *, ledger: Ledger) -> Tensor | None:
        """Values alone, where the policy need not be run for them; None where it must."""
        return None

    def weights_apart(self, apart: bool) -> None:
        """Whether the values' gradient is kept from what the policy is made of."""
        return None


class SeparateValue(ValueModel):
    """A network with a score head of its own.

    Args:
        network: With a head.
    """

    def __init__(self, network: CausalNetwork) -> None:
        super().__init__()
        self.network = network

    def read(
        self, policy: CausalNetwork, batch: TokenBatch, *, temperature: float, read: Readout, ledger: Ledger
    ) -> tuple[Tensor, Tensor]:
        """Two forwards."""
        told = policy(batch, temperature=temperature, read=read, ledger=ledger)
        return told, token_values(self.network, batch, ledger=ledger)

    def values(self, policy: CausalNetwork, batch: TokenBatch, *, ledger: Ledger) -> Tensor | None:
        """One forward."""
        return token_values(self.network, batch, ledger=ledger)


class ValueHead(ValueModel):
    """A linear layer on the policy's last hidden states, 0 at the start.

    Args:
        hidden: H.
        detached: Whether the values' gradient always stops at the states.
    """

    def __init__(self, hidden: int, detached: bool) -> None:
        super().__init__()
        self.layer = nn.Linear(hidden, 1)
        nn.init.zeros_(self.layer.weight)
        nn.init.zeros_(self.layer.bias)
        self.detached, self._apart = detached, False

    def read(
        self, policy: CausalNetwork, batch: TokenBatch, *, temperature: float, read: Readout, ledger: Ledger
    ) -> tuple[Tensor, Tensor]:
        """One forward."""
        return policy(batch, temperature=temperature, read=read, beside=self._values, ledger=ledger)

    def weights_apart(self, apart: bool) -> None:
        """Stops the gradient at the states, or lets it through again."""
        self._apart = apart

    def _values(self, states: Tensor, batch: TokenBatch) -> Tensor:
        stops = self.detached or self._apart
        return values_of_states(states.detach() if stops else states, batch, self.layer)


class ValueTrunk(ABC):
    """What the values are computed from."""

    @abstractmethod
    def build(self, policy: CausalNetwork, trainer: Any) -> ValueModel:
        """The value model beside `policy`, on its device; collective where processes share networks.

        Raises:
            InputError: for what does not fit the policy.
        """


@dataclass(frozen=True)
class OwnTrunk(ValueTrunk):
    """A second network, all of whose trained weights learn values.

    Args:
        network: By default the policy's own, as it starts; an exported reward model is a good start too. Without a
            head it gets one that says 0 of everything.
    """

    network: NetworkConfig | None = None

    def build(self, policy: CausalNetwork, trainer: Any) -> ValueModel:
        """Loads it, with dropout off."""
        settings = self.network or policy.settings
        network = place(replace(settings, head=settings.head or ZERO), trainer)
        if network.vocabulary < policy.vocabulary:
            raise InputError(
                f"the value network has embeddings for {network.vocabulary} tokens and the policy for "
                f"{policy.vocabulary}; give one of the policy's family"
            )
        disable_dropout(network)
        return SeparateValue(network)


@dataclass(frozen=True)
class SharedTrunk(ValueTrunk):
    """A layer on the policy's last hidden states; hardly any memory, one forward for both.

    Args:
        detached: Keep the values' gradient out of the policy: only the layer learns values then.
    """

    detached: bool = False

    def build(self, policy: CausalNetwork, trainer: Any) -> ValueModel:
        """A layer in the process's own memory."""
        if policy.sharded is not None:
            raise InputError(
                "SharedTrunk's layer would not be divided with the policy, and its gradient not be summed over "
                "processes; use OwnTrunk, or a strategy that keeps the network whole, such as ddp"
            )
        return ValueHead(policy.hf_config.hidden_size, self.detached)


@dataclass(frozen=True)
class AdapterTrunk(ValueTrunk):
    """Low-rank adapters and a head of their own on the frozen weights under the policy's adapters.

    The frozen weights are held once. Where processes share the parameters they are held a second time.

    Args:
        lora: The adapters of the value network.
    """

    lora: LoraSettings = field(default_factory=LoraSettings)

    def build(self, policy: CausalNetwork, trainer: Any) -> ValueModel:
        """Builds a second network and lets it take the policy's frozen weights for its own."""
        settings = policy.settings
        if settings.adaptation is None:
            raise InputError(
                "AdapterTrunk uses the frozen weights under the policy's adapters, and this policy trains all of its "
                "weights; set network.lora, or use OwnTrunk or SharedTrunk"
            )
        if settings.quantisation is not None:
            raise InputError(
                "AdapterTrunk cannot share 4-bit weights; leave quantisation away, or use SharedTrunk"
            )
        network = place(replace(settings, lora=self.lora, adapter=None, head=ZERO), trainer)
        disable_dropout(network)
        if policy.sharded is None:
            shared = share_frozen(policy, network)
            log.info("the value network shares %d frozen tensors with the policy", shared)
        return SeparateValue(network)


def share_frozen(source: CausalNetwork, target: CausalNetwork) -> int:
    """Makes the frozen parameters of `target` the very ones of `source`, by name; their number.

    The untrained copy of a head that adapters keep beside the trained one stays as it is.

    Raises:
        InputError: if one of them has none of the same shape there.
    """
    held = {_bare_name(name): p for name, p in source.named_parameters()}
    count = 0
    for name, parameter in list(target.named_parameters()):
        if parameter.requires_grad or f".{NAME}." in name:
            continue
        other = held.get(_bare_name(name))
        if other is None or other.shape != parameter.shape or other.requires_grad:
            raise InputError(
                f"the policy has no frozen weight like {name} of the value network; use OwnTrunk"
            )
        owner, _, leaf = name.rpartition(".")
        setattr(target.get_submodule(owner), leaf, other)
        count += 1
    return count


def _bare_name(name: str) -> str:
    """A parameter's name in the Hugging Face model, adapters or not."""
    return name.replace("base_model.model.", "", 1).replace(".base_layer", "")
