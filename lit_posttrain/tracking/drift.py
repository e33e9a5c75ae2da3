"""How far a policy has gone from where its run started: the KL between the two, on the answers of a probe."""

import gc
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lit_posttrain import collate
from lit_posttrain.batches import Answer, Sampling, TokenBatch
from lit_posttrain.ledger import Phase
from lit_posttrain.metrics import over_problems
from lit_posttrain.networks import CausalNetwork, place, token_logprobs
from lit_posttrain.ranks import Ranks
from lit_posttrain.rollouts import to_experience
from lit_posttrain.tracking.exam import booked_if_whole, evaluating

POSITIONS = 16384
"""Tokens, padding included, of the rows that pass through a network together."""

UNDEFINED = (
    "the probe logs no KL to the policy at the start: its samples are not drawn from the plain tempered softmax that "
    "log-probs speak of; sample at temperature > 0, top_p 1, top_k 0 and min_new_tokens 0, or set kl_to_start: false"
)


@dataclass(frozen=True)
class ProblemDrift:
    """The samples of one problem: `nats`, the log-ratios of policy to start over all their tokens, and counts."""

    nats: float
    samples: int
    tokens: int


def is_defined(sampling: Sampling) -> bool:
    """Whether log-probs say what the samples are drawn from: the plain tempered softmax."""
    plain = sampling.top_p >= 1 and sampling.top_k == 0 and sampling.min_new_tokens == 0
    return plain and sampling.temperature > 0


def measure(
    method: Any,
    answers: Sequence[Sequence[Answer]],
    prompt_ids: Sequence[Sequence[int]],
    temperature: float,
) -> list[ProblemDrift]:
    """The drift on all problems, in their order, from this process's answers; collective, booked as evaluation.

    Both networks read the same batches in the same way, so that a policy that has not moved gives exactly 0. All
    processes make the same number of forward calls, the last of some on a batch that says nothing, as networks
    divided over processes need it.

    Args:
        method: Has `policy`, a network of ours, `text`, `ledger`, `device` and `trainer`.
        answers: By problem, drawn by the policy.
        prompt_ids: The prompt of each.
        temperature: That of the sampling.
    """
    ranks = Ranks.of(method.trainer)
    rows, batches = _batches(answers, prompt_ids, method.text.pad_id)
    missing = max(ranks.gather(len(batches))) - len(batches)
    padded = [*batches, *[_nothing()] * missing]
    with booked_if_whole(method.ledger), method.ledger.phase(Phase.EVALUATION), evaluating(method.policy):
        now = _scores(method, method.policy, padded, temperature)
        before = _scores_at_start(method, padded, temperature)
    if method.policy.sharded is not None:
        gc.collect()  # a network divided over processes refers to itself in circles
    nats = torch.zeros(sum(map(len, rows)), dtype=torch.float64)
    tokens = torch.zeros(len(nats), dtype=torch.int64)
    for chosen, batch, new, old in zip(rows, batches, now, before, strict=False):
        nats[chosen] = (new.double() - old.double()).sum(dim=1)
        tokens[chosen] = batch.mask.sum(dim=1)
    sizes = [len(group) for group in answers]
    mine = [
        ProblemDrift(float(ratios.sum()), len(ratios), int(count.sum()))
        for ratios, count in zip(nats.split(sizes), tokens.split(sizes), strict=True)
    ]
    return ranks.interleave(ranks.gather(mine))


@contextmanager
def start_policy(method: Any) -> Iterator[CausalNetwork]:
    """The policy that the run of a method started with, frozen, for the time of the block; collective.

    Adapters start as no change, so it is their base network; virtual tokens do not. With them, and where all weights
    are trained, the network of the policy's settings is loaded a second time and given up at the end.
    """
    policy = method.policy
    adapter = policy.settings.adaptation
    if adapter is not None and not adapter.tokens:
        with policy.adapter_off():
            yield policy
        return
    with torch.enable_grad():  # a network divided over processes finds out what its backward would cost
        network = place(policy.settings, method.trainer)
    if network.sharded is None:
        network = method.trainer.precision_plugin.convert_module(network).to(method.device)
    yield network.requires_grad_(False).eval()


def drift_metrics(drifts: Sequence[ProblemDrift]) -> dict[str, float]:
    """The `scurve/kl_start_*` metrics of a point, each problem counting alike; what cannot be known is left out."""
    found = over_problems([drift.nats / drift.samples for drift in drifts])
    tokens = sum(drift.tokens for drift in drifts)
    values = {
        "nats": found.mean,
        "standard_error": found.standard_error,
        "nats_per_token": math.fsum(drift.nats for drift in drifts) / tokens if tokens else math.nan,
    }
    return {f"scurve/kl_start_{name}": value for name, value in values.items() if math.isfinite(value)}


def _batches(
    answers: Sequence[Sequence[Answer]], prompt_ids: Sequence[Sequence[int]], pad_id: int
) -> tuple[list[list[int]], list[TokenBatch]]:
    """All answers, those of about equal length together: which of them, counted through, and their batches."""
    if not answers:
        return [], []
    none = torch.zeros(len(answers), len(answers[0]))
    whole = to_experience(answers, prompt_ids, none, temperature=1.0, policy_version=0, pad_id=pad_id)
    lengths = collate.lengths(whole).tolist()
    rows: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lambda i: (lengths[i], i)):
        if rows and (len(rows[-1]) + 1) * lengths[row] <= POSITIONS:
            rows[-1].append(row)
        else:
            rows.append([row])
    return rows, [collate.take(whole, chosen) for chosen in rows]


def _nothing() -> TokenBatch:
    return collate.from_lists([[0, 0]], [[False, True]], pad_id=0)


def _scores_at_start(method: Any, batches: Sequence[TokenBatch], temperature: float) -> list[Tensor]:
    with start_policy(method) as network:
        return _scores(method, network, batches, temperature)


def _scores(
    method: Any, network: CausalNetwork, batches: Sequence[TokenBatch], temperature: float
) -> list[Tensor]:
    """The log-probs (B, T) of each batch, in the host's memory."""
    with torch.no_grad(), method.trainer.precision_plugin.forward_context():
        return [
            token_logprobs(
                network, batch.to(method.device), temperature=temperature, ledger=method.ledger
            ).cpu()
            for batch in batches
        ]
