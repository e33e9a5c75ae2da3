"""One of two processes that share networks with adapters: `python ... RANK RENDEZVOUS_FILE`; raises what fails."""

import sys

import torch
from fakes import tiny
from networks.adapter_kinds import KINDS
from networks.sharding_process import batch, compare, divided
from torch import distributed

from lit_posttrain.networks import build


def check(name: str, checkpointing: bool) -> None:
    """The divided network against the whole one: log-probs, gradients and FLOPs, and both with adapters off."""
    settings = tiny(adapter=KINDS[name], gradient_checkpointing=checkpointing)
    network, whole = divided(settings), build(settings)
    assert network.base_digest == whole.base_digest
    compare(network, whole, data=2, tolerance=1e-6)
    with network.adapter_off(), whole.adapter_off(), torch.no_grad():
        assert (network(batch(0)) - whole(batch(0))).abs().max() < 1e-6


if __name__ == "__main__":
    store = distributed.FileStore(sys.argv[2], 2)
    distributed.init_process_group("gloo", store=store, rank=int(sys.argv[1]), world_size=2)
    for kind, again in (("dora", True), ("ia3", False), ("oft", True)):
        check(kind, again)
    distributed.destroy_process_group()
