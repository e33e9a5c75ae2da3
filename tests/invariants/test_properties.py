"""Policy losses, KL estimates, corrections and weightings are finite, and blind to how a rollout is laid out.

What they are is in test_properties_of_losses.py, advantages and returns in test_properties_of_advantages.py.
"""

import math

import torch
from hypothesis import assume
from hypothesis import strategies as st
from property_cases import (
    CORRECTIONS,
    SPREADS,
    TOGETHER,
    WEIGHTINGS,
    Drawn,
    holds,
    objective,
    padded,
    rollouts,
    weighed,
)

from lit_posttrain.collate import pack, take
from lit_posttrain.objectives.weights import ConstantLength

SEEDS = st.integers(0, 2**31)
WEIGHTING = st.sampled_from(WEIGHTINGS)
PARTS = st.sampled_from(TOGETHER)


def same(one, other):
    """Loss and gradients of each sequence within 1e-6 of the largest."""
    size = 1e-6 * max(1.0, abs(float(one[0])), *(float(g.abs().max()) for g in one[1] if len(g)))
    assert abs(float(one[0] - other[0])) <= size
    for a, b in zip(one[1], other[1], strict=True):
        assert len(a) == len(b)
        assert not len(a) or float((a - b).abs().max()) <= size


@holds(SPREADS.flatmap(rollouts), WEIGHTING)
def test_losses_and_gradients_are_finite(batch, weighting):
    """Log-ratios in ±1e3, any mask; where nothing is under it, and outside of it, exactly 0."""
    step = weighed(batch, weighting)
    for parts in TOGETHER:
        loss, gradients = objective(parts, step)
        assert math.isfinite(loss)
        assert all(g.isfinite().all() for g in gradients)
        if not step.mask.any():
            assert loss == 0
        for number, gradient in enumerate(gradients):
            assert (gradient[~step.mask[number][step.segments[number] > 0]] == 0).all()
    for correction in CORRECTIONS:
        factors, stats = correction(step)
        assert factors.isfinite().all()
        assert all(value.isfinite().all() for value in stats.values())


@holds(rollouts(), SEEDS, st.sampled_from([1.0, 100.0, 1e4]), WEIGHTING)
def test_gradients_by_logits_are_finite(batch, seed, scale, weighting):
    """|logits| up to 1e4; the log-probs of other policies within 1e3 nats of the present one's."""
    generator = torch.Generator().manual_seed(seed)
    step = weighed(batch, weighting)
    uniform = torch.rand(*step.input_ids.shape, 5, generator=generator)
    logits = (scale * (2 * uniform - 1)).requires_grad_()
    new = logits.log_softmax(-1)[..., 0] * step.mask
    near = {
        name: getattr(step, name).clamp(new.detach() - 1e3, new.detach() + 1e3)
        for name in ("old_logprobs", "sampled_logprobs", "reference_logprobs")
    }
    step = Drawn(**{**vars(step), **near})
    for loss, estimator, correction in TOGETHER:
        total = loss(new, step)[0] * correction(step)[0] + estimator(new, step.reference_logprobs, step)
        (gradient,) = torch.autograd.grad((total * step.weights).sum(), logits, retain_graph=True)
        assert gradient.isfinite().all()


@holds(rollouts(), PARTS, WEIGHTING, st.integers(0, 3), st.integers(0, 3), st.sampled_from([0.0, -3.0, 7.0]))
def test_padding_changes_nothing(batch, parts, weighting, left, right, content):
    step = weighed(batch, weighting)
    same(objective(parts, step), objective(parts, padded(step, left, right, content)))


@holds(rollouts(), PARTS, WEIGHTING, SEEDS)
def test_the_order_of_rows_and_packing_change_nothing(batch, parts, weighting, seed):
    step = weighed(batch, weighting)
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(step.sequences, generator=generator).tolist()
    rows = [order[i : i + 2] for i in range(0, len(order), 2)]
    shuffled = weighed(
        take(batch, order), weighting
    )  # the weights anew: they must not depend on the order either
    packed = pack(step, rows)
    assert packed.is_packed or step.sequences == 1
    loss, gradients = objective(parts, step)
    moved = (loss, [gradients[i] for i in order])
    same(moved, objective(parts, shuffled))
    same(moved, objective(parts, packed))


@holds(rollouts(), PARTS, WEIGHTING, st.integers(1, 4))
def test_micro_batches_change_nothing(batch, parts, weighting, size):
    step = weighed(batch, weighting)
    numbers = list(range(step.sequences))
    cuts = [take(step, numbers[i : i + size]) for i in range(0, len(numbers), size)]
    found = [objective(parts, cut) for cut in cuts]
    total = torch.stack([loss for loss, _ in found]).sum()
    same(objective(parts, step), (total, [g for _, gradients in found for g in gradients]))


@holds(rollouts(), PARTS, WEIGHTING)
def test_rows_without_a_masked_token_change_nothing(batch, parts, weighting):
    live = batch.mask.any(dim=1).nonzero().flatten().tolist()
    assume(live)
    loss, gradients = objective(parts, weighed(batch, weighting))
    same((loss, [gradients[i] for i in live]), objective(parts, weighed(take(batch, live), weighting)))


@holds(rollouts(), WEIGHTING)
def test_weights_of_a_step_sum_to_one(batch, weighting):
    """But for the constant length, where they sum to the mean length in its units; 0 without a token."""
    total = float(weighed(batch, weighting).weights.sum())
    tokens, rows = int(batch.mask.sum()), int(batch.mask.any(dim=1).sum())
    whole = tokens / max(rows, 1) / 5 if isinstance(weighting, ConstantLength) else float(tokens > 0)
    assert abs(total - whole) < 1e-5
