"""Surrogate losses of tokens against values worked by hand."""

import math

import pytest
import torch

from lit_posttrain.batches import Experience
from lit_posttrain.errors import InputError
from lit_posttrain.objectives.language import negative_log_likelihood
from lit_posttrain.objectives.policy import Clipped, SequenceClipped, clipped_surrogate
from lit_posttrain.objectives.policy_gradient import CISPO, Reinforce

R = [1.5, 1.5, 0.5, 0.5, 1.1]
A = [1.0, -1.0, 1.0, -1.0, 2.0]
EXPECTED = [-1.28, 1.5, -0.5, 0.8, -2.2]  # clip to [0.8, 1.28]; the pessimistic one of the two
LIVE = [0.0, 1.5, -0.5, 0.0, -2.2]  # d loss / d log r = -A r where the bound does not hold, else 0


def experience_of(ratios, advantages, *, base=-1.0):
    """One row with the first token unmasked; log-probs with the graph, and the experience whose ratios they make."""
    old = torch.full((1, len(ratios) + 1), base)
    old[0, 0] = 0.0
    log_ratio = torch.tensor([[1.0, *ratios]]).log()
    mask = torch.tensor([[False] + [True] * len(ratios)])
    experience = Experience(
        segments=torch.ones_like(mask, dtype=torch.int64),
        mask=mask,
        old_logprobs=old,
        advantages=torch.tensor([[0.0, *advantages]]),
    )
    return (old + log_ratio).requires_grad_(), experience


def gradient(loss, logprobs):
    (found,) = torch.autograd.grad(loss.sum(), logprobs)
    return found.tolist()[0][1:]


def test_values_and_gradients_by_hand():
    log_ratio = torch.tensor([R]).log().requires_grad_()
    loss = clipped_surrogate(log_ratio, torch.tensor([A]), low=0.2, high=0.28)
    assert loss.tolist()[0] == pytest.approx(EXPECTED, abs=1e-6)
    loss.sum().backward()
    assert log_ratio.grad.tolist()[0] == pytest.approx(LIVE, abs=1e-6)


def test_part_reports_what_holds():
    old = torch.zeros(1, 5)
    experience = Experience(old_logprobs=old, advantages=torch.tensor([A]))
    loss, stats = Clipped(0.2, 0.28)(torch.tensor([R]).log(), experience)
    assert loss.tolist()[0] == pytest.approx(EXPECTED, abs=1e-6)
    assert stats["policy/clipped_high_fraction"].tolist() == [[1, 0, 0, 0, 0]]
    assert stats["policy/clipped_low_fraction"].tolist() == [[0, 0, 0, 1, 0]]
    assert stats["policy/ratio_mean"].tolist()[0] == pytest.approx(R, abs=1e-6)


def test_dual_clip_bounds_the_loss_of_negative_advantages():
    """r = 5, A = -2: 10 without, at most 3 * 2 with a dual clip of 3, and no gradient; r = 2 is left alone."""
    logprobs, experience = experience_of([5.0, 2.0, 5.0, 0.5], [-2.0, -2.0, 2.0, -2.0])
    plain, _ = Clipped(0.2, 0.2)(logprobs, experience)
    assert plain.tolist()[0][1:] == pytest.approx([10.0, 4.0, -2.4, 1.6], abs=1e-5)
    loss, stats = Clipped(0.2, 0.2, dual=3.0)(logprobs, experience)
    assert loss.tolist()[0][1:] == pytest.approx([6.0, 4.0, -2.4, 1.6], abs=1e-5)
    assert gradient(loss, logprobs) == pytest.approx([0.0, 4.0, 0.0, 0.0], abs=1e-5)
    assert stats["policy/clipped_high_fraction"].tolist()[0][1:] == [1, 0, 1, 0]
    assert stats["policy/clipped_low_fraction"].tolist()[0][1:] == [0, 0, 0, 1]


def test_sequence_ratio_is_the_geometric_mean():
    """sqrt(2 * 8) = 4 of the two tokens; A = -1: the loss of each is 4, and d 4 / d log pi_t = 4 / 2 for both terms."""
    logprobs, experience = experience_of([2.0, 8.0], [-1.0, -1.0])
    loss, stats = SequenceClipped(0.1, 0.1)(logprobs, experience)
    assert loss.tolist()[0][1:] == pytest.approx([4.0, 4.0], abs=1e-5)
    assert gradient(loss, logprobs) == pytest.approx([4.0, 4.0], abs=1e-5)  # two tokens' losses, 2 each
    assert stats["policy/ratio_mean"].tolist()[0][1:] == pytest.approx([4.0, 4.0], abs=1e-5)
    held, stats = SequenceClipped(0.1, 0.1)(logprobs, replace_advantages(experience, 1.0))
    assert held.tolist()[0][1:] == pytest.approx([-1.1, -1.1], abs=1e-6)
    assert gradient(held, logprobs) == [0.0, 0.0]
    assert stats["policy/clipped_high_fraction"].tolist()[0][1:] == [1, 1]


def replace_advantages(experience, value):
    values = {**vars(experience), "advantages": torch.full_like(experience.advantages, value)}
    return Experience(**values)


def test_sequences_of_a_packed_row_have_their_own_ratios():
    """Segments of 2 and 3 tokens in one row; ratios 2 and (4 * 1) ** (1 / 2), an unmasked token between left out."""
    segments = torch.tensor([[1, 1, 2, 2, 2, 0]])
    mask = torch.tensor([[False, True, False, True, True, False]])
    ratios = torch.tensor([[9.0, 2.0, 9.0, 4.0, 1.0, 9.0]])
    advantages = torch.full((1, 6), -1.0)
    experience = Experience(
        segments=segments, mask=mask, old_logprobs=torch.zeros(1, 6), advantages=advantages
    )
    loss, _ = SequenceClipped()(ratios.log(), experience)
    assert loss[mask].tolist() == pytest.approx([2.0, 2.0, 2.0], abs=1e-5)
    ratios[0, 4] = 0.25
    loss, _ = SequenceClipped()(ratios.log(), experience)
    assert loss[mask].tolist() == pytest.approx([2.0, 1.0, 1.0], abs=1e-5)


def test_cispo_caps_the_ratio_itself_and_drops_no_token():
    """Factors 6 -> 5, 4, 0.5, 0.01; the loss is -factor A log pi, its gradient -factor A for both signs of A."""
    ratios, advantages = [6.0, 4.0, 0.5, 0.01, 6.0], [1.0, 1.0, -2.0, -2.0, -1.0]
    logprobs, experience = experience_of(ratios, advantages, base=-3.0)
    loss, stats = CISPO()(logprobs, experience)
    factors = [5.0, 4.0, 0.5, 0.01, 5.0]
    slopes = [-f * a for f, a in zip(factors, advantages, strict=True)]
    values = [s * (-3.0 + math.log(r)) for s, r in zip(slopes, ratios, strict=True)]
    assert loss.tolist()[0][1:] == pytest.approx(values, abs=1e-4)
    assert gradient(loss, logprobs) == pytest.approx(slopes, abs=1e-5)
    assert stats["policy/clipped_high_fraction"].tolist()[0][1:] == [1, 0, 0, 0, 1]
    assert stats["policy/clipped_low_fraction"].tolist()[0][1:] == [0, 0, 0, 0, 0]
    assert stats["policy/ratio_max"].max().item() == pytest.approx(6.0, abs=1e-5)


def test_no_bound_of_ppo_reaches_cispo():
    """At r = 1.5 and A = 1 Clipped(0.2) has no gradient; CISPO has all of it, and with a floor too."""
    logprobs, experience = experience_of([1.5, 0.5], [1.0, -1.0])
    clipped, _ = Clipped()(logprobs, experience)
    assert gradient(clipped, logprobs) == [0.0, 0.0]
    for part, factors in ((CISPO(), [1.5, 0.5]), (CISPO(cap=1.2, floor=0.8), [1.2, 0.8])):
        loss, _ = part(logprobs, experience)
        assert gradient(loss, logprobs) == pytest.approx([-factors[0], factors[1]], abs=1e-6)


def test_reinforce_has_no_ratio():
    logprobs, experience = experience_of([6.0, 0.5], [1.0, -2.0])
    loss, stats = Reinforce()(logprobs, experience)
    assert loss.tolist()[0][1:] == pytest.approx([1 - math.log(6), 2 * (-1 + math.log(0.5))], abs=1e-6)
    assert gradient(loss, logprobs) == [-1.0, 2.0]
    assert stats["policy/ratio_mean"].tolist()[0][1:] == pytest.approx([6.0, 0.5], abs=1e-5)
    assert stats["policy/clipped_high_fraction"].sum() == 0


@pytest.mark.parametrize("part", [Clipped(), Clipped(dual=3.0), SequenceClipped(), CISPO(), Reinforce()])
@pytest.mark.parametrize("gap", [1e3, -1e3])
@pytest.mark.parametrize("advantage", [1.0, -1.0])
def test_extreme_ratios_stay_finite(part, gap, advantage):
    logprobs, experience = experience_of([1.0, 1.0], [advantage, advantage], base=gap)
    experience.old_logprobs = torch.zeros(1, 3)
    loss, _ = part(logprobs, experience)
    assert loss.isfinite().all()
    assert all(map(math.isfinite, gradient(loss, logprobs)))


def test_bounds_are_checked():
    with pytest.raises(InputError, match="clip bounds"):
        Clipped(low=-0.1)
    with pytest.raises(InputError, match="clip bounds"):
        SequenceClipped(high=-0.1)
    with pytest.raises(InputError, match="dual"):
        Clipped(dual=1.0)
    for wrong in ({"cap": 0.28}, {"floor": 1.5}, {"floor": -0.1}):
        with pytest.raises(InputError, match="ratio itself"):
            CISPO(**wrong)


def test_negative_log_likelihood():
    assert negative_log_likelihood(torch.tensor([[-1.5, 0.0]])).tolist() == [[1.5, 0.0]]
