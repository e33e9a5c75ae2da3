"""Passes of the policy that online methods share: with a gradient for the loss, and without one for scoring."""

from typing import Any

from torch import Tensor

from lit_posttrain.batches import Experience
from lit_posttrain.ledger import Phase
from lit_posttrain.networks import token_logprobs
from lit_posttrain.networks.logprobs import token_logprobs_and_entropy


def read_policy(module: Any, batch: Experience) -> tuple[Tensor, Tensor | None]:
    """Log-probs (B, T), with the graph, and the entropy (B, T) of each next token where there is a bonus for it."""
    if module.terms.settings.entropy is None:
        return (
            token_logprobs(module.policy, batch, temperature=batch.temperature, ledger=module.ledger),
            None,
        )
    return token_logprobs_and_entropy(
        module.policy, batch, temperature=batch.temperature, ledger=module.ledger
    )


def score_policy(module: Any, experience: Experience) -> None:
    """Old log-probs where `rescore` asks for them and those of the reference where there is a KL, in place."""
    with module.ledger.phase(Phase.SCORING), module.trainer.precision_plugin.forward_context():
        batch = experience.to(module.device)
        if module.rollouts.rescore:
            experience.old_logprobs = logprobs_of(module, module.policy, batch)
        score_reference(module, experience, batch)


def score_reference(module: Any, experience: Experience, batch: Experience) -> None:
    """Log-probs of the reference where there is a KL; within the phase and precision of the caller."""
    if module.terms.settings.kl is not None:
        with module.reference.network(module) as network:
            experience.reference_logprobs = logprobs_of(module, network, batch)


def logprobs_of(module: Any, network: Any, batch: Experience) -> Tensor:
    """A network's log-probs (B, T) of a batch, in the host's memory."""
    return token_logprobs(network, batch, temperature=batch.temperature, ledger=module.ledger).cpu()
