"""FLOPs of a network from the shapes that really run (a multiply-add is 2)."""

from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from lit_posttrain.batches import TokenBatch
from lit_posttrain.ledger import Ledger
from lit_posttrain.networks.attention import portable
from lit_posttrain.networks.products import Rates, find_rates

if TYPE_CHECKING:
    from lit_posttrain.networks.network import CausalNetwork


@dataclass(frozen=True)
class Work:
    """How much runs through a network: positions, those that the head is applied to, and pairs of query and
    key, as the full square of each row and as the triangle of each sequence."""

    positions: int
    head_positions: int
    pairs: int
    causal_pairs: int


def training_work(
    batch: TokenBatch, *, head_positions: int, dense: bool, computed: int = 0, seen: int = 0
) -> Work:
    """The work of a batch, padding included; `dense` says that attention runs over whole rows.

    Before each sequence stand `computed` virtual tokens that the layers run on too, and `seen` that they do not.
    """
    rows, tokens = batch.input_ids.shape
    lengths = torch.bincount(batch.segments.flatten())[1:] + computed
    triangle = int((lengths * (lengths + 1) // 2 + lengths * seen).sum())
    if dense:
        tokens += computed
        return Work(rows * tokens, head_positions, rows * tokens * (tokens + seen), triangle)
    return Work(int(lengths.sum()), head_positions, int((lengths**2).sum()), triangle)


def decoding_work(rows: int, queries: int, length: int) -> Work:
    """The work of reading `queries` new tokens per row into a cache that then holds `length`."""
    triangle = queries * (length - queries) + queries * (queries + 1) // 2
    return Work(rows * queries, rows, rows * queries * length, rows * triangle)


class FlopCounts:
    """Books work at rates that are found once for each way the network is run.

    Which products run depends on what is frozen, on adapters and on recomputation; two tokens sent through
    the network and back show it, and what they show holds for every batch.
    """

    def __init__(self) -> None:
        self.rates: dict[Any, Rates] = {}
        self.complete = False

    @classmethod
    def found_on(cls, network: "CausalNetwork") -> "FlopCounts":
        """All rates of a network that is not divided yet, to be used when it is and cannot be probed any more.

        The network may be on the meta device. Its parameters must require what they will require.
        """
        counts, modes = cls(), [(module, module.training) for module in network.modules()]
        ways = [nullcontext] if network.settings.adaptation is None else [nullcontext, network.adapter_off]
        for way in ways:
            with way(), portable(network.hf_config):
                counts._find(network, backward=False)
                for training in (True, False):
                    network.train(training)
                    counts._find(network, backward=True)
        for module, training in modes:
            module.training = training
        counts.complete = True
        return counts

    def book(self, network: "CausalNetwork", work: Work, ledger: Ledger, *, backward: bool) -> None:
        """Adds the FLOPs of a forward, and of the backward to come, to the ledger."""
        key = _way(network, backward)
        if key not in self.rates:
            if self.complete:
                raise RuntimeError("what is trained was changed after the network was divided over processes")
            self._find(network, backward=backward)
        rates = self.rates[key]
        ledger.add(
            flops=rates.flops(work.positions, work.head_positions, work.pairs),
            causal_flops=rates.flops(work.positions, work.head_positions, work.causal_pairs),
            positions=work.positions,
        )

    def _find(self, network: "CausalNetwork", *, backward: bool) -> None:
        self.rates[_way(network, backward)] = find_rates(network, backward=backward)


def _way(network: "CausalNetwork", backward: bool) -> tuple[bool, ...]:
    """What decides which products run."""
    adapters_on = network.settings.adaptation is not None and not network.model._adapters_disabled
    if not backward:
        return (adapters_on,)
    trained = (parameter.requires_grad for parameter in network.parameters())
    return (adapters_on, network.training, *trained)
