"""Corrections of the engine against values worked by hand."""

import pytest
import torch

from lit_posttrain.batches import Experience
from lit_posttrain.errors import InputError
from lit_posttrain.names import METRICS
from lit_posttrain.objectives.corrections import MaskedImportance, TruncatedImportance

# trainer / engine of each token; the first of each of two packed segments is unmasked
RATIOS = [9.0, 3.0, 0.75, 9.0, 0.25, 1.0]
SEGMENTS = torch.tensor([[1, 1, 1, 2, 2, 2]])
MASK = torch.tensor([[False, True, True, False, True, True]])


def experience_of(ratios):
    ratios = torch.tensor([ratios])
    sampled = torch.full_like(ratios, -2.0)
    return Experience(
        segments=SEGMENTS,
        mask=MASK,
        sampled_logprobs=sampled,
        old_logprobs=(sampled + ratios.log()).requires_grad_(),
    )


def found(part, ratios=RATIOS):
    factors, stats = part(experience_of(ratios))
    assert not factors.requires_grad
    assert set(stats) <= set(METRICS)
    return factors[MASK].tolist(), {name.removeprefix("policy/correction_"): v for name, v in stats.items()}


def test_truncated_over_tokens():
    factors, stats = found(TruncatedImportance(cap=2.0))
    assert factors == pytest.approx([2.0, 0.75, 0.25, 1.0], abs=1e-6)
    assert stats["cut_fraction"][MASK].tolist() == [1, 0, 0, 0]
    assert stats["mean"][MASK].tolist() == pytest.approx(factors)
    assert stats["max"].max().item() == pytest.approx(3.0, abs=1e-5)  # raw, and not the 9 outside the mask
    assert stats["min"].min().item() == pytest.approx(0.25, abs=1e-6)


def test_truncated_over_sequences():
    """Geometric means sqrt(3 * 0.75) = 1.5 and sqrt(0.25 * 1) = 0.5."""
    assert found(TruncatedImportance(cap=2.0, over="sequence"))[0] == pytest.approx(
        [1.5, 1.5, 0.5, 0.5], abs=1e-6
    )
    assert found(TruncatedImportance(cap=1.2, over="sequence"))[0] == pytest.approx(
        [1.2, 1.2, 0.5, 0.5], abs=1e-6
    )


def test_masked_over_tokens():
    factors, stats = found(MaskedImportance(low=0.5, high=2.0))
    assert factors == pytest.approx([0.0, 0.75, 0.0, 1.0], abs=1e-6)
    assert stats["cut_fraction"][MASK].tolist() == [1, 0, 1, 0]


def test_masked_over_sequences():
    """The mean of the first, 1.5, is within; that of the second, 0.5, is not above 0.6: left out as a whole."""
    factors, stats = found(MaskedImportance(low=0.6, high=2.0, over="sequence"))
    assert factors == pytest.approx([1.5, 1.5, 0.0, 0.0], abs=1e-6)
    assert stats["cut_fraction"][MASK].tolist() == [0, 0, 1, 1]


def test_long_sequences_do_not_explode():
    """A gap of 0.012 nats on each of 4,096 tokens: the product of ratios is 2e21, the geometric mean 1.012."""
    shape = (1, 4096)
    experience = Experience(
        segments=torch.ones(shape, dtype=torch.int64),
        mask=torch.ones(shape, dtype=torch.bool),
        sampled_logprobs=torch.full(shape, -1.0),
        old_logprobs=torch.full(shape, -0.988),
    )
    factors, _ = MaskedImportance(over="sequence")(experience)
    assert torch.allclose(factors, torch.full(shape, 1.012), atol=1e-3)


def test_agreement_is_exactly_one():
    for part in (TruncatedImportance(), MaskedImportance(), MaskedImportance(over="sequence")):
        factors, stats = found(part, [1.0] * 6)
        assert factors == [1.0] * 4
        assert stats["cut_fraction"].sum() == 0


def test_bounds_are_checked():
    with pytest.raises(InputError, match="cap"):
        TruncatedImportance(cap=0.5)
    with pytest.raises(InputError, match="bounds"):
        MaskedImportance(low=1.2)
    with pytest.raises(InputError, match="bounds"):
        MaskedImportance(high=0.9)
