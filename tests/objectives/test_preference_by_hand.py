"""Losses of pairs and their gradients against values worked by hand, on two pairs.

Log-probs -1, -4 of the chosen sides and -2, -3 of the rejected; the reference's are -1.5, -3 and -1.5, -3.5. So the
log-ratios are 0.5, -1 and -0.5, 0.5, and with beta = 0.5 the margins are m = 0.5 and -0.75:
sigmoid(-0.5) = 0.377541, -log sigmoid(0.5) = 0.474077, sigmoid(0.75) = 0.679179, -log sigmoid(-0.75) = 1.136871.
"""

import math

import pytest
import torch

from lit_posttrain.contracts import PairLogprobs
from lit_posttrain.errors import InputError
from lit_posttrain.objectives.divergences import AlphaDivergence, ForwardKL, JensenShannon, ReverseKL
from lit_posttrain.objectives.log_ratio_losses import IPO, APODown, APOZero, Hinge, Robust
from lit_posttrain.objectives.pair_terms import PolicyWeighted, WithLikelihood
from lit_posttrain.objectives.preference import Sigmoid, bradley_terry
from lit_posttrain.objectives.reference_free import HIGHEST_LOGPROB, ORPO, SimPO, log_odds

BETA = 0.5
CASES = [  # loss, values, derivatives by the chosen log-probs, derivatives by the rejected ones
    # -log sigmoid(m); -beta sigmoid(-m)
    (Sigmoid(BETA), [0.474077, 1.136871], [-0.188770, -0.339589], [0.188770, 0.339589]),
    # 0.9 of that + 0.1 of the one of -m: -log sigmoid(-0.5) = 0.974077; slope + 0.1 beta
    (Sigmoid(BETA, 0.1), [0.524077, 1.061871], [-0.138770, -0.289589], [0.138770, 0.289589]),
    # (0.9 * 0.474077 - 0.1 * 0.974077) / 0.8
    (Robust(BETA, 0.1), [0.411577, 1.230621], [-0.251270, -0.402089], [0.251270, 0.402089]),
    # differences 1 and -1.5, target 1 / (2 * 0.5) = 1
    (IPO(BETA), [0.0, 6.25], [0.0, -5.0], [0.0, 5.0]),
    (Hinge(BETA), [0.5, 1.75], [-0.5, -0.5], [0.5, 0.5]),
    # sigmoid(-0.25) + sigmoid(-0.25); sigmoid(0.5) + sigmoid(0.25): 0.437823, 0.622459, 0.562177
    (APOZero(BETA), [0.875647, 1.184636], [-0.123067, -0.117502], [0.123067, 0.123067]),
    # sigmoid(0.25) + sigmoid(-0.5); sigmoid(-0.5) + sigmoid(0.75)
    (APODown(BETA), [0.939717, 1.056719], [0.005565, 0.008554], [0.117502, 0.108947]),
    # scores 1 - exp(-d): 0.393469, -1.718282 and -0.648721, 0.393469; margins 0.521095, -1.055876
    (Sigmoid(BETA, 0.0, ForwardKL()), [0.466165, 1.354414], [-0.112995, -1.008349], [0.307154, 0.224993]),
    # scores ln 2 + log sigmoid(d): 0.219070, -0.620115 and -0.280930, 0.219070; margins 0.25, -0.419592
    (Sigmoid(BETA, 0.0, JensenShannon()), [0.575939, 0.924791], [-0.082648, -0.220555], [0.136264, 0.113901]),
    # scores 2 (1 - exp(-d / 2)): 0.442398, -1.297443 and -0.568051, 0.442398; margins 0.505225, -0.869920
    (Sigmoid(BETA, 0.0, AlphaDivergence(0.5)),
     [0.472108, 1.219862], [-0.146537, -0.580951], [0.241598, 0.274422]),
]  # fmt: skip
SMOOTH = [case[0] for case in CASES if not isinstance(case[0], IPO | Hinge | APOZero | APODown)]


def pairs(reference: bool = True) -> PairLogprobs:
    return PairLogprobs(
        torch.tensor([-1.0, -4.0], requires_grad=True),
        torch.tensor([-2.0, -3.0], requires_grad=True),
        torch.tensor([2, 4]),
        torch.tensor([4, 2]),
        torch.tensor([-1.5, -3.0]) if reference else None,
        torch.tensor([-1.5, -3.5]) if reference else None,
    )


def averaged() -> PairLogprobs:
    """Averages -0.5, -1 of the chosen sides and -0.25, -2 of the rejected."""
    both = [torch.tensor(values, requires_grad=True) for values in ([-0.5, -1.0], [-0.25, -2.0])]
    return PairLogprobs(*both, torch.tensor([2, 4]), torch.tensor([4, 2]))


def expect(loss, given, values, by_chosen, by_rejected):
    losses, stats = loss(given)
    assert losses.tolist() == pytest.approx(values, abs=2e-6)
    losses.sum().backward()
    assert given.chosen.grad.tolist() == pytest.approx(by_chosen, abs=2e-6)
    assert given.rejected.grad.tolist() == pytest.approx(by_rejected, abs=2e-6)
    weight = [(r - c) / 2 for c, r in zip(by_chosen, by_rejected, strict=True)]
    assert stats["preference/gradient_weight"].tolist() == pytest.approx(weight, abs=2e-6)
    assert not any(value.requires_grad for value in stats.values())


@pytest.mark.parametrize(("loss", "values", "by_chosen", "by_rejected"), CASES)
def test_losses_of_log_ratios(loss, values, by_chosen, by_rejected):
    expect(loss, pairs(), values, by_chosen, by_rejected)


def test_simpo():
    # margins 2 (-0.25) = -0.5 and 2 (1) = 2, less the gap 0.5: -1 and 1.5; slope 2 sigmoid(1), 2 sigmoid(-1.5)
    expect(SimPO(2.0, 0.5), averaged(), [1.313262, 0.201413], [-1.462117, -0.364851], [1.462117, 0.364851])


def test_orpo():
    # log odds 0.432752, -0.541325 and 1.258692, -1.854587; differences -0.825939, 1.313262;
    # 0.5 + 0.5 * 1.189070 and 1 + 0.5 * 0.238184; d log odds / d a = 1 / (1 - p)
    given = averaged()
    losses, stats = ORPO(0.5)(given)
    assert losses.tolist() == pytest.approx([1.094535, 1.119092], abs=2e-6)
    losses.sum().backward()
    assert given.chosen.grad.tolist() == pytest.approx([-1.883799, -1.167643], abs=2e-6)
    assert given.rejected.grad.tolist() == pytest.approx([1.572102, 0.122557], abs=2e-6)
    assert stats["preference/margin"].tolist() == pytest.approx([-0.412970, 0.656631], abs=2e-6)
    assert stats["preference/accuracy"].tolist() == [0.0, 1.0]


def test_likelihood_is_added_per_token():
    # 0.474077 + 0.5 * 1 / 2 and 1.136871 + 0.5 * 4 / 4; slopes less 0.5 / 2 and 0.5 / 4
    given = pairs()
    losses, stats = WithLikelihood(Sigmoid(BETA), weight=0.5)(given)
    assert losses.tolist() == pytest.approx([0.724077, 1.636871], abs=2e-6)
    losses.sum().backward()
    assert given.chosen.grad.tolist() == pytest.approx([-0.438770, -0.464589], abs=2e-6)
    assert stats["preference/likelihood_nats"].tolist() == [0.5, 1.0]
    assert stats["preference/gradient_weight"].tolist() == pytest.approx([0.188770, 0.339589], abs=2e-6)


def test_weight_is_the_policys_and_has_no_gradient():
    # exp(-1/2 - 2/4) = exp(-1) = 0.367879 and exp(-4/4 - 3/2) = exp(-2.5) = 0.082085
    given = pairs()
    losses, stats = PolicyWeighted(Sigmoid(BETA))(given)
    assert losses.tolist() == pytest.approx([0.174403, 0.093320], abs=2e-6)
    losses.sum().backward()
    assert given.chosen.grad.tolist() == pytest.approx(
        [-0.069445, -0.027875], abs=2e-6
    )  # 0.188770 * 0.367879
    assert stats["preference/gradient_weight"].tolist() == pytest.approx([0.069445, 0.027875], abs=2e-6)
    assert stats["preference/pair_weight"].tolist() == pytest.approx([0.367879, 0.082085], abs=2e-6)


def test_statistics():
    _, stats = Sigmoid(BETA)(pairs())
    assert stats["preference/reward_chosen"].tolist() == [0.25, -0.5]
    assert stats["preference/reward_rejected"].tolist() == [-0.25, 0.25]
    assert stats["preference/margin"].tolist() == [0.5, -0.75]
    assert stats["preference/accuracy"].tolist() == [1.0, 0.0]


@pytest.mark.parametrize("loss", SMOOTH)
def test_equal_sides_give_ln_2_and_half_an_accuracy(loss):
    same = torch.tensor([-3.0])
    given = PairLogprobs(same, same, torch.tensor([1]), torch.tensor([1]), same - 0.25, same - 0.25)
    losses, stats = loss(given)
    assert losses.tolist() == pytest.approx([math.log(2)], abs=1e-6)
    assert stats["preference/accuracy"].tolist() == [0.5]


@pytest.mark.parametrize("margin", [1e4, -1e4])
@pytest.mark.parametrize("loss", [case[0] for case in CASES])
def test_extreme_margins_stay_finite(loss, margin):
    sides = [torch.tensor([value], requires_grad=True) for value in (margin, -margin)]
    zero = torch.zeros(1)
    losses, stats = loss(PairLogprobs(*sides, torch.tensor([1]), torch.tensor([1]), zero, zero))
    losses.sum().backward()
    for value in (losses, sides[0].grad, sides[1].grad, *stats.values()):
        assert torch.isfinite(value).all()


@pytest.mark.parametrize(("margin", "loss"), [(1e4, 0.0), (-1e4, 1e4)])
def test_log_sigmoid_is_exact_far_out(margin, loss):
    assert bradley_terry(torch.tensor([margin])).tolist() == [loss]


def test_odds_of_the_nearly_certain_and_of_the_impossible():
    assert log_odds(torch.tensor([-30.0, -math.log(2)])).tolist() == pytest.approx([-30.0, 0.0], abs=1e-6)
    certain = torch.tensor([0.0], requires_grad=True)
    losses, _ = ORPO()(PairLogprobs(certain, torch.tensor([-1e4]), torch.tensor([1]), torch.tensor([1])))
    losses.sum().backward()
    assert torch.isfinite(losses).all()
    assert torch.isfinite(certain.grad).all()
    assert log_odds(torch.zeros(1)).item() == pytest.approx(-math.log(-HIGHEST_LOGPROB), abs=1e-4)


def test_reverse_kl_is_the_limit_of_alpha():
    ratios = torch.tensor([-2.0, 0.5])
    assert AlphaDivergence(1e-4).score(ratios).tolist() == pytest.approx(
        ReverseKL().score(ratios).tolist(), abs=1e-3
    )


def test_inside_inference_mode():
    with torch.inference_mode():
        given = pairs()
        _, stats = Sigmoid(BETA)(given)
    assert stats["preference/gradient_weight"].tolist() == pytest.approx([0.188770, 0.339589], abs=2e-6)


def test_reference_is_asked_for():
    with pytest.raises(InputError, match="no log-probs of a reference"):
        Sigmoid()(pairs(reference=False))
    assert not SimPO().needs_reference
    assert not WithLikelihood(SimPO(), reduction="averaged").needs_reference
    assert PolicyWeighted(IPO()).needs_reference


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Sigmoid(beta=0.0), "beta above 0"),
        (lambda: IPO(beta=-1.0), "IPO needs beta above 0"),
        (lambda: Sigmoid(smoothing=0.5), "below 0.5"),
        (lambda: Robust(smoothing=-0.1), "below 0.5"),
        (lambda: SimPO(gap=-1.0), "gap"),
        (lambda: AlphaDivergence(1.0), "0 < alpha < 1"),
        (lambda: WithLikelihood(SimPO()), "SimPO takes averaged log-probs"),
        (lambda: PolicyWeighted(WithLikelihood(), "averaged"), "WithLikelihood takes summed"),
        (lambda: WithLikelihood(weight=0.0), "weight above 0"),
    ],
)
def test_settings_are_checked(make, message):
    with pytest.raises(InputError, match=message):
        make()
