"""Gradients of every way to put a KL into training, exact and from samples, beside the gradient of the KL itself."""

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from lit_posttrain.batches import Experience, TokenBatch
from lit_posttrain.contracts import KLEstimator
from lit_posttrain.networks import CausalNetwork, build, token_logprobs
from lit_posttrain.objectives.kl import K1, K2, K3
from policy_law import problem

DRAWS = 200_000
WAYS: dict[str, tuple[str, KLEstimator]] = {
    "k1 in the reward": ("reward", K1()),
    "k2 in the reward": ("reward", K2(over="sequence")),
    "k3 in the reward": ("reward", K3(over="sequence")),
    "k1 in the loss": ("loss", K1()),
    "k2 in the loss, over the sequence": ("loss", K2(over="sequence")),
    "k2 in the loss, over tokens": ("loss", K2()),
    "k3 in the loss, over the sequence": ("loss", K3(over="sequence")),
    "k3 in the loss, over tokens": ("loss", K3()),
    "k3 in the loss, with importance": ("loss", K3(over="sequence", importance=True)),
    "k3 in the loss, importance, tokens": ("loss", K3(importance=True)),
}


@dataclass(frozen=True)
class Row:
    """One way: distance and cosine of its exact gradient to that of KL(pi || ref), its size beside it; and the distance
    of a Monte-Carlo gradient to the exact one, in units of the error that so many samples have."""

    distance: float
    cosine: float
    size: float
    sampled: float


def table(seed: int = 0) -> str:
    """All ways as text."""
    lines = [
        "Gradients at a policy some way from the reference (exact: all 85 sequences; "
        f"Monte-Carlo: {DRAWS:,} draws)",
        f"{'':36}{'|g - g_KL| / |g_KL|':>20}{'cosine':>9}{'|g| / |g_KL|':>14}{'|MC - g| / its s.e.':>21}",
    ]
    for name, row in rows(seed).items():
        lines.append(f"{name:36}{row.distance:20.4f}{row.cosine:9.4f}{row.size:14.4f}{row.sampled:21.2f}")
    return "\n".join(lines)


def rows(seed: int) -> dict[str, Row]:
    """Every way at a policy whose weights are those of the reference and half of another random network's."""
    policy, reference, other = (build(problem.network(seed + k)) for k in (0, 0, 1))
    with torch.no_grad():
        for mine, theirs in zip(policy.parameters(), other.parameters(), strict=True):
            mine.add_(theirs, alpha=0.5)
    for network in (policy, reference):
        network.double()
    chances = problem.log_policy(policy).exp()
    told = problem.log_policy(reference).detach()
    wanted = gradient(policy, (chances * (chances.log() - told)).sum())
    draw = torch.Generator().manual_seed(seed)
    counts = torch.multinomial(chances.detach(), DRAWS, replacement=True, generator=draw).bincount(
        minlength=85
    )
    return {
        name: row(per_sequence(policy, reference, *way), chances.detach(), counts / DRAWS, wanted)
        for name, way in WAYS.items()
    }


def row(gradients: Tensor, chances: Tensor, shares: Tensor, wanted: Tensor) -> Row:
    """From the gradient of each sequence (85, D), its chance, and its share of the draws."""
    exact, sampled = chances @ gradients, shares.double() @ gradients
    error = (chances @ (gradients - exact).square()).sum().div(DRAWS).sqrt()
    return Row(
        float((exact - wanted).norm() / wanted.norm()),
        float(torch.cosine_similarity(exact, wanted, dim=0)),
        float(exact.norm() / wanted.norm()),
        float((sampled - exact).norm() / error),
    )


def per_sequence(
    policy: CausalNetwork, reference: CausalNetwork, place: str, estimator: KLEstimator
) -> Tensor:
    """What each sequence adds to the gradient of the loss (85, D)."""
    batch = problem.listed()
    logprobs = token_logprobs(policy, batch).double()
    with torch.no_grad():
        told = token_logprobs(reference, batch).double()
    experience = as_experience(batch, logprobs.detach())
    values = estimator(logprobs, told, experience).sum(dim=1)
    if place == "reward":
        values = values.detach() * logprobs.sum(dim=1)
    return torch.stack([gradient(policy, value) for value in values])


def gradient(policy: CausalNetwork, value: Tensor) -> Tensor:
    """By all parameters, flat (D,)."""
    parts = torch.autograd.grad(value, list(policy.parameters()), retain_graph=True, allow_unused=True)
    return torch.cat(
        [
            (torch.zeros_like(p) if part is None else part).flatten().double()
            for p, part in zip(policy.parameters(), parts, strict=True)
        ]
    )


def as_experience(batch: TokenBatch, logprobs: Tensor) -> Experience:
    """All sequences as if the policy itself had drawn them."""
    held = {f.name: getattr(batch, f.name) for f in fields(batch)}
    rows = torch.arange(len(logprobs))
    return Experience(
        **held,
        sampled_logprobs=logprobs,
        old_logprobs=logprobs,
        advantages=torch.zeros_like(logprobs),
        rewards=torch.zeros(len(rows)),
        graded=torch.ones(len(rows), dtype=torch.bool),
        group=torch.zeros_like(rows),
        stop=torch.zeros_like(rows),
        policy_version=torch.zeros_like(rows),
    )
