"""Random rollouts, and how often a property is tried: 50 cases in the normal run, 1,000 in the slow one."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import pad

from lit_posttrain.batches import Experience, token_field
from lit_posttrain.collate import from_lists
from lit_posttrain.data.steps import weigh
from lit_posttrain.objectives.corrections import MaskedImportance, TruncatedImportance
from lit_posttrain.objectives.kl import K1, K2, K3
from lit_posttrain.objectives.masked import weighted_sum
from lit_posttrain.objectives.policy import Clipped, SequenceClipped
from lit_posttrain.objectives.policy_gradient import CISPO, Reinforce
from lit_posttrain.objectives.weights import ConstantLength, PromptMean, SequenceMean, TokenMean

LOSSES = [
    Clipped(),
    Clipped(0.2, 0.28, dual=3.0),
    SequenceClipped(),
    SequenceClipped(0.1, 0.2),
    CISPO(),
    CISPO(cap=1.5, floor=0.5),
    Reinforce(),
]
ESTIMATORS = [
    K1(),
    K2(),
    K2("sequence"),
    K3(),
    K3("sequence"),
    K3(importance=True),
    K3("sequence", importance=True),
]
CORRECTIONS = [
    TruncatedImportance(),
    TruncatedImportance(over="sequence"),
    MaskedImportance(),
    MaskedImportance(0.9, 1.1, over="sequence"),
]
WEIGHTINGS = [TokenMean(), SequenceMean(), PromptMean(), ConstantLength(5)]
TOGETHER = list(zip(LOSSES, ESTIMATORS, itertools.cycle(CORRECTIONS), strict=False))
"""Every loss, estimator and correction at least once, in one objective each."""


SPREADS = st.sampled_from([1e-3, 1.0, 30.0, 1e3])
"""Of log-ratios, in nats."""


def holds(*strategies: st.SearchStrategy[Any]) -> Callable[[Callable[..., None]], Callable[[int], None]]:
    """A property as a test that runs on 50 random cases, and as a slow one on 1,000."""

    def decorate(check: Callable[..., None]) -> Callable[[int], None]:
        @pytest.mark.parametrize("examples", [50, pytest.param(1000, marks=pytest.mark.slow)])
        def test(examples: int) -> None:
            settings(max_examples=examples, deadline=None)(given(*strategies)(check))()

        test.__name__, test.__doc__ = check.__name__, check.__doc__
        return test

    return decorate


@dataclass
class Drawn(Experience):
    """A rollout, with log-probs of the policy as it has become: `new` (B, T)."""

    new: Tensor = token_field()


@st.composite
def rollouts(draw: st.DrawFn, spread: float = 0.5, dtype: torch.dtype = torch.float32) -> Drawn:
    """One sequence per row, of 1 to 8 tokens, some without a completion; log-ratios of the given spread, ±1e3 at most.

    Advantages are the same for all tokens of a sequence. Masks have holes, or are empty everywhere.
    """
    lengths = draw(st.lists(st.integers(1, 8), min_size=1, max_size=6))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    share = draw(st.sampled_from([0.0, 0.5, 0.9, 1.0]))
    marks = [(torch.rand(n, generator=generator) < share).tolist() for n in lengths]
    batch = from_lists([[1] * n for n in lengths], marks, pad_id=0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    shape = tuple(batch.input_ids.shape)
    old = -normal(*shape).abs()
    beside = {
        name: (old + (spread * normal(*shape)).clamp(-1e3, 1e3)).to(dtype) * batch.mask
        for name in ("sampled_logprobs", "reference_logprobs", "new")
    }
    return Drawn(
        **{f.name: getattr(batch, f.name) for f in fields(batch)},
        **beside,
        old_logprobs=old.to(dtype) * batch.mask,
        advantages=normal(len(lengths), 1).to(dtype) * batch.mask,
        group=torch.randint(0, 3, (len(lengths),), generator=generator),
        graded=torch.ones(len(lengths), dtype=torch.bool),
    )


def weighed(batch: Drawn, weighting: Any) -> Drawn:
    """The rollout as one optimiser step with its weights."""
    step = replace(batch)
    weigh(step, weighting, group=batch.group)
    return step


def objective(parts: Any, batch: Drawn) -> tuple[Tensor, list[Tensor]]:
    """The loss of a batch with weights, and its gradient by `new` of each of its sequences, in their order."""
    loss, estimator, correction = parts
    new = batch.new.clone().requires_grad_()
    token_losses, _ = loss(new, batch)
    factors, _ = correction(batch)
    total = weighted_sum(
        token_losses * factors + 0.1 * estimator(new, batch.reference_logprobs, batch),
        batch.weights.to(new.dtype),
    )
    (gradient,) = torch.autograd.grad(total, new)
    return total.detach(), [gradient[batch.segments == s] for s in range(1, batch.sequences + 1)]


def padded(batch: Drawn, left: int, right: int, content: float) -> Drawn:
    """The batch with columns on both sides that belong to nothing, filled with `content`."""
    structure = {"segments", "mask", "weights", "position_ids"}
    wide = {}
    for f in fields(batch):
        value = getattr(batch, f.name)
        if isinstance(value, Tensor) and f.metadata.get("per") == "token":
            value = pad(value, (left, right), value=0 if f.name in structure else content)
        wide[f.name] = value
    return Drawn(**wide)
