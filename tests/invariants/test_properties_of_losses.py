"""What policy losses, KL estimates and corrections are on random rollouts: at its start, and by other means."""

import math

import pytest
import torch
from hypothesis import strategies as st
from property_cases import CORRECTIONS, ESTIMATORS, LOSSES, SPREADS, Drawn, holds, rollouts

from lit_posttrain.objectives.kl import K1, k1, k2, k3
from lit_posttrain.objectives.policy import Clipped, SequenceClipped
from lit_posttrain.objectives.policy_gradient import CISPO, Reinforce

SEEDS = st.integers(0, 2**31)


@holds(rollouts())
def test_the_first_step_has_a_ratio_of_exactly_one(batch):
    """No bound holds, and the gradient of the sum is the plain policy gradient, -A, for every loss."""
    step = Drawn(**{**vars(batch), "old_logprobs": batch.new, "sampled_logprobs": batch.new})
    for loss in LOSSES:
        new = step.new.clone().requires_grad_()
        values, stats = loss(new, step)
        assert (stats["policy/ratio_mean"] == 1).all()
        assert stats["policy/clipped_low_fraction"].sum() == 0
        assert stats["policy/clipped_high_fraction"].sum() == 0
        (gradient,) = torch.autograd.grad(values[step.mask].sum(), new)
        assert torch.allclose(gradient, torch.where(step.mask, -step.advantages, 0.0), atol=1e-6)
    for correction in CORRECTIONS:
        factors, stats = correction(step)
        assert (factors == 1).all()
        assert stats["policy/correction_cut_fraction"].sum() == 0


@holds(SPREADS.flatmap(rollouts))
def test_kl_is_never_negative_and_zero_to_itself(batch):
    for estimator in ESTIMATORS:
        new = batch.new.clone().requires_grad_()
        itself = estimator(new, batch.new, batch)
        (gradient,) = torch.autograd.grad(itself.sum(), new)
        assert (itself == 0).all()
        if isinstance(estimator, K1):
            continue
        assert (gradient == 0).all()
        value = estimator(batch.new, batch.reference_logprobs, batch)
        assert float(value.min()) >= -1e-6 * max(1.0, float(value.abs().max()))
        assert (value[~batch.mask] == 0).all()


@holds(SEEDS, st.sampled_from([1e-3, 1e-2, 0.1]))
def test_the_estimates_agree_to_second_order(seed, size):
    """Expectations over all of 5 tokens: k1 and k3 are the KL; |d| <= 2 size, and k2 - k3 is d³/6 and higher."""
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(5, generator=generator, dtype=torch.float64)
    p = logits.log_softmax(0)
    q = (logits + size * (2 * torch.rand(5, generator=generator, dtype=torch.float64) - 1)).log_softmax(0)
    exact = float((p.exp() * (p - q)).sum())
    assert exact >= -1e-15
    assert abs(float((p.exp() * k1(p, q)).sum()) - exact) < 1e-15
    assert abs(float((p.exp() * k3(p, q)).sum()) - exact) < 1e-14
    assert abs(float((p.exp() * k2(p, q)).sum()) - exact) < 2 * size**3


@holds(rollouts(dtype=torch.float64), SEEDS)
def test_gradients_against_finite_differences(batch, seed):
    """In a random direction, in float64; away from the edges of clips. CISPO's factor has no gradient: see below."""
    direction = torch.randn(
        batch.new.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    direction *= batch.mask
    smooth = [loss for loss in LOSSES if not isinstance(loss, CISPO) and not near_an_edge(loss, batch)]
    terms = [lambda new, loss=loss: loss(new, batch)[0] for loss in smooth]
    terms += [lambda new, e=e: e(new, batch.reference_logprobs, batch) for e in ESTIMATORS]
    for term in terms:
        new = batch.new.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(term(new)[batch.mask].sum(), new)
        step = 1e-6 * direction
        up, down = (term(batch.new + s)[batch.mask].sum() for s in (step, -step))
        slope = float((up - down) / 2e-6)
        assert abs(float((gradient * direction).sum()) - slope) <= 1e-5 * max(1.0, abs(slope))


def near_an_edge(loss, batch):
    """Whether a step of 1e-6 may cross a bound of the ratio."""
    if isinstance(loss, Reinforce):
        return False
    ratio = loss(batch.new, batch)[1]["policy/ratio_mean"]
    bounds = [1 - loss.low, 1 + loss.high, *([loss.dual] if getattr(loss, "dual", None) else [])]
    return any(bool(((ratio - bound).abs() < 1e-4).any()) for bound in bounds)


def oracle(loss, log_ratio, new, advantage):
    """Value, and derivative by the log-ratio (by log pi where there is none), of a token, in Python's floats."""
    ratio = math.exp(log_ratio)
    if isinstance(loss, Reinforce):
        return -advantage * new, -advantage
    if isinstance(loss, CISPO):
        factor = loss.floor if ratio < loss.floor else loss.cap if ratio > loss.cap else ratio
        return -factor * advantage * new, -factor * advantage
    if advantage > 0 and ratio > 1 + loss.high:
        return -(1 + loss.high) * advantage, 0.0
    if advantage < 0 and ratio < 1 - loss.low:
        return -(1 - loss.low) * advantage, 0.0
    if isinstance(loss, Clipped) and loss.dual is not None and advantage < 0 and ratio > loss.dual:
        return -loss.dual * advantage, 0.0
    return -ratio * advantage, -ratio * advantage


@holds(st.sampled_from([0.1, 1.0, 3.0]).flatmap(rollouts))
def test_values_and_gradients_against_an_oracle(batch):
    """Token by token; of GSPO the mean log-ratio is worked here too, and its gradient is shared by the tokens."""
    for loss in LOSSES:
        new = batch.new.clone().requires_grad_()
        values, _ = loss(new, batch)
        (gradient,) = torch.autograd.grad(values[batch.mask].sum(), new)
        values = values.detach()
        for row in range(batch.sequences):
            places = batch.mask[row].nonzero().flatten().tolist()
            ratios = [float(batch.new[row, t]) - float(batch.old_logprobs[row, t]) for t in places]
            if isinstance(loss, SequenceClipped) and places:
                ratios = [sum(ratios) / len(ratios)] * len(ratios)
            for t, ratio in zip(places, ratios, strict=True):
                value, slope = oracle(loss, ratio, float(batch.new[row, t]), float(batch.advantages[row, t]))
                if at_an_edge(loss, ratio):
                    continue
                assert math.isclose(float(values[row, t]), value, rel_tol=1e-4, abs_tol=1e-5)
                assert math.isclose(float(gradient[row, t]), slope, rel_tol=1e-4, abs_tol=1e-5)


def at_an_edge(loss, log_ratio):
    """Whether float32 may see another side of a bound; values are continuous there, slopes are not."""
    bounds = (
        [1 - loss.low, 1 + loss.high, getattr(loss, "dual", None) or 1e9]
        if isinstance(loss, Clipped | SequenceClipped)
        else []
    )
    return any(abs(math.exp(log_ratio) - bound) < 1e-5 for bound in bounds)


@pytest.mark.parametrize("cases", [50, pytest.param(1000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_agrees_on_the_direction_of_the_update(dtype, cases):
    """Logits, log-probs, loss and gradient all in half precision: 95 % of cases point the way of float32."""
    for number, loss in enumerate(LOSSES):
        generator = torch.Generator().manual_seed(number)
        agree = sum(_points_the_same_way(loss, dtype, generator) for _ in range(cases))
        assert agree >= 0.95 * cases, (loss, agree)


def _points_the_same_way(loss, dtype, generator):
    logits = 2 * torch.randn(4, 8, 6, generator=generator)
    old = logits + 0.2 * torch.randn(4, 8, 6, generator=generator)
    advantages = torch.randn(4, 1, generator=generator).expand(4, 8)
    found = []
    for kind in (torch.float32, dtype):
        policy = logits.to(kind).requires_grad_()
        mask = torch.ones(4, 8, dtype=torch.bool)
        batch = Drawn(
            segments=torch.arange(1, 5)[:, None].expand(4, 8),
            mask=mask,
            old_logprobs=old.to(kind).log_softmax(-1)[..., 0],
            advantages=advantages.to(kind),
        )
        values, _ = loss(policy.log_softmax(-1)[..., 0], batch)
        (gradient,) = torch.autograd.grad(values.sum(), policy)
        assert gradient.isfinite().all()
        found.append(gradient.float())
    inner = float((found[0] * found[1]).sum())
    return inner > 0 or not (found[0].any() and found[1].any())
