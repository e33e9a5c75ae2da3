"""KL estimators: values by hand, and expected gradients over all sequences of a small policy against analytic ones.

The policy writes two tokens of a vocabulary of three; the second one's distribution depends on the first. Expectations
are sums over the nine sequences. The analytic KL is a sum over the same, differentiated by autograd.
"""

import itertools
import math

import pytest
import torch

from lit_posttrain.batches import Experience
from lit_posttrain.errors import InputError
from lit_posttrain.objectives.kl import K1, K2, K3
from lit_posttrain.objectives.kl_coefficients import Adaptive, Annealed, Constant
from lit_posttrain.objectives.ratios import MAX_LOG_RATIO

SEQUENCES = torch.tensor(list(itertools.product(range(3), repeat=2)))
EVERY = [
    K1(),
    K2(),
    K2("sequence"),
    K3(),
    K3("sequence"),
    K3(importance=True),
    K3("sequence", importance=True),
]


def parameters(seed):
    """Logits of the first token (row 0) and of the second behind each first one (rows 1 to 3)."""
    return torch.randn(4, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def token_logprobs(logits):
    """(9, 3): log-probs of the tokens of all sequences, behind a prompt token."""
    table = logits.log_softmax(-1)
    first, second = SEQUENCES.unbind(1)
    both = torch.stack([table[0, first], table[1 + first, second]], dim=1)
    return torch.cat([torch.zeros_like(both[:, :1]), both], dim=1)


def experience_of(old):
    mask = torch.tensor([[False, True, True]]).expand(9, 3)
    return Experience(segments=torch.arange(1, 10)[:, None].expand(9, 3), mask=mask, old_logprobs=old)


THETA, REFERENCE, OLD = parameters(0).requires_grad_(), token_logprobs(parameters(1)), parameters(2)


def drawn_by(logits):
    return token_logprobs(logits).sum(1).exp().detach()


def gradient_of(value):
    return torch.autograd.grad(value, THETA)[0]


def expected(part, logits):
    """Expected sum over tokens, and its expected gradient, on samples of the policy with `logits`."""
    new = token_logprobs(THETA)
    kl = (
        part(new, REFERENCE, experience_of(token_logprobs(logits).detach())).sum(1) * drawn_by(logits)
    ).sum()
    return kl.detach(), gradient_of(kl)


def exact(forward=False):
    """KL(pi || ref), or with `forward` KL(ref || pi), over whole sequences, and its gradient."""
    new, old = token_logprobs(THETA).sum(1), REFERENCE.sum(1)
    kl = (old.exp() * (old - new)).sum() if forward else (new.exp() * (new - old)).sum()
    return kl.detach(), gradient_of(kl)


def next_tokens_only():
    """The gradient of the KLs of next tokens, behind prefixes that are not differentiated."""
    new, reference = THETA.log_softmax(-1), parameters(1).log_softmax(-1)
    reached = torch.cat([torch.ones(1, dtype=torch.float64), new[0].exp().detach()])
    return gradient_of((reached * (new.exp() * (new - reference)).sum(-1)).sum())


def close(one, other):
    return torch.allclose(one, other, atol=1e-10)


def test_values_in_expectation():
    kl, _ = exact()
    for part in (K1(), K3(), K3("sequence"), K3(importance=True), K3("sequence", importance=True)):
        assert close(expected(part, THETA.detach())[0], kl)
    assert close(expected(K3("sequence", importance=True), OLD)[0], kl)
    d = (token_logprobs(THETA) - REFERENCE).sum(1)
    assert close(expected(K2("sequence"), THETA.detach())[0], (drawn_by(THETA) * d.square() / 2).sum())
    assert not close(expected(K2(), THETA.detach())[0], kl)


def test_k1_in_the_loss_has_no_pull():
    assert close(expected(K1(), THETA.detach())[1], torch.zeros(4, 3, dtype=torch.float64))


def test_k2_over_the_sequence_has_the_gradient_of_the_kl():
    assert close(expected(K2("sequence"), THETA.detach())[1], exact()[1])


def test_k2_over_tokens_leaves_out_what_a_token_leads_to():
    _, gradient = expected(K2(), THETA.detach())
    assert close(gradient, next_tokens_only())
    assert close(gradient[1:], exact()[1][1:])  # nothing comes behind the second token
    assert not torch.allclose(gradient[0], exact()[1][0], atol=1e-3)


def test_k3_in_the_loss_pulls_as_the_other_direction():
    assert close(expected(K3("sequence"), THETA.detach())[1], exact(forward=True)[1])
    assert not torch.allclose(expected(K3("sequence"), THETA.detach())[1], exact()[1], atol=1e-3)


def test_k3_with_importance_is_exact_on_any_samples():
    for logits in (THETA.detach(), OLD):
        assert close(expected(K3("sequence", importance=True), logits)[1], exact()[1])
    assert close(expected(K3(importance=True), THETA.detach())[1], next_tokens_only())
    assert not torch.allclose(expected(K2("sequence"), OLD)[1], exact()[1], atol=1e-3)


def test_k1_in_the_reward_has_the_gradient_of_the_kl():
    """The policy gradient sees the value alone: sum over sequences of pi * D * grad log pi."""
    cost = K1()(token_logprobs(THETA), REFERENCE, experience_of(token_logprobs(OLD))).sum(1).detach()
    new = token_logprobs(THETA).sum(1)
    assert close(gradient_of((new.detach().exp() * cost * new).sum()), exact()[1])


def test_optimum_of_k3_over_the_sequence():
    """At pi = beta pi_ref / (lambda - r) the reward's gradient and that of the KL cancel: docstring of K3."""
    beta, rewards = 0.5, torch.linspace(-1, 1, 9, dtype=torch.float64)
    reference = REFERENCE.sum(1).exp()
    low, high = rewards.max() + 1e-9, rewards.max() + 10
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if (beta * reference / (middle - rewards)).sum() > 1 else (low, middle)
    optimum = (beta * reference / (low - rewards)).log().requires_grad_()
    new = optimum.log_softmax(0)  # one token per sequence here: 9 outcomes
    experience = Experience(
        segments=torch.arange(1, 10)[:, None],
        mask=torch.ones(9, 1, dtype=torch.bool),
        old_logprobs=new.detach()[:, None],
    )
    kl = K3("sequence")(new[:, None], REFERENCE.sum(1, keepdim=True), experience)[:, 0]
    loss = (new.exp().detach() * (beta * kl - rewards * new)).sum()
    assert torch.autograd.grad(loss, optimum)[0].abs().max() < 1e-9


def test_by_hand():
    """d = 0.5 and -1 in one sequence of two tokens, D = -0.5; ratios to the old policy 2 and 1, 2 together."""
    reference, old = torch.tensor([[0.0, -1.5, -1.0]]), torch.tensor([[0.0, -1.0 - math.log(2), -2.0]])
    logprobs = torch.tensor([[0.0, -1.0, -2.0]], requires_grad=True)
    experience = Experience(
        segments=torch.ones(1, 3, dtype=torch.int64),
        mask=torch.tensor([[False, True, True]]),
        old_logprobs=old,
    )

    def found(part):
        out = part(logprobs, reference, experience)
        (slope,) = torch.autograd.grad(out.sum(), logprobs)
        assert out[0, 0] == slope[0, 0] == 0
        return [*out.tolist()[0][1:], *slope.tolist()[0][1:]]

    near, far, whole = math.exp(-0.5) - 0.5, math.exp(1) - 2, math.exp(0.5) - 1.5
    assert found(K1()) == pytest.approx([0.5, -1.0, 1.0, 1.0], abs=1e-6)
    assert found(K2()) == pytest.approx([0.125, 0.5, 0.5, -1.0], abs=1e-6)
    assert found(K2("sequence")) == pytest.approx([0.0625, 0.0625, -0.5, -0.5], abs=1e-6)
    assert found(K3()) == pytest.approx([near, far, 1 - math.exp(-0.5), 1 - math.exp(1)], abs=1e-6)
    slope = 1 - math.exp(0.5)
    assert found(K3("sequence")) == pytest.approx([whole / 2, whole / 2, slope, slope], abs=1e-6)
    assert found(K3(importance=True)) == pytest.approx([2 * near, far, 2 * 0.5, -1.0], abs=1e-6)
    together = K3("sequence", importance=True)
    assert found(together) == pytest.approx([whole, whole, -1.0, -1.0], abs=1e-6)  # ratio 2 of the whole


@pytest.mark.parametrize("part", EVERY)
@pytest.mark.parametrize("gap", [1e3, -1e3])
def test_extremes_are_finite_and_keep_their_pull(part, gap):
    """A token that the policy lost is pulled up, and one that the reference finds impossible down, however far."""
    logprobs = torch.full((1, 2), -1.0, requires_grad=True)
    experience = Experience(
        segments=torch.ones(1, 2, dtype=torch.int64),
        mask=torch.ones(1, 2, dtype=torch.bool),
        old_logprobs=logprobs.detach(),
    )
    out = part(logprobs, logprobs.detach() - gap, experience)
    out.sum().backward()
    assert out.isfinite().all()
    assert logprobs.grad.isfinite().all()
    if not isinstance(part, K1):
        assert (out > 0).all()
        assert (logprobs.grad.sign() == math.copysign(1, gap)).all()
    assert MAX_LOG_RATIO < 1e3


def test_constant():
    part = Constant(0.1)
    assert part.first() == part.next(0.3, kl_nats=9.0, completions=8, step=5) == 0.1
    assert Constant(0.0).first() == 0.0
    with pytest.raises(InputError, match="pushes the policy away"):
        Constant(-0.1)


def test_annealed_by_equal_factors():
    """From 0.8 to 0.1 in 3 steps: halves."""
    part = Annealed(0.8, 0.1, 3)
    weights = [part.next(9.9, kl_nats=1.0, completions=1, step=step) for step in range(5)]
    assert part.first() == 0.8
    assert weights == pytest.approx([0.8, 0.4, 0.2, 0.1, 0.1])
    for wrong in ((-1.0, 0.1, 3), (0.1, 0.0, 3), (0.8, 0.1, 0)):
        with pytest.raises(InputError, match="equal factors"):
            Annealed(*wrong)


def test_adaptive_follows_the_target():
    """Error 0.1 at 6.6 for 6, clipped at ±0.2; 500 of 10,000 completions are a twentieth."""
    part = Adaptive(0.2, 6.0, 10_000)
    assert part.first() == 0.2
    assert part.next(0.5, kl_nats=6.6, completions=500, step=1) == pytest.approx(0.5 * (1 + 0.1 / 20))
    assert part.next(0.5, kl_nats=60.0, completions=500, step=1) == pytest.approx(0.5 * 1.01)
    assert part.next(0.5, kl_nats=0.0, completions=500, step=1) == pytest.approx(0.5 * 0.99)
    assert part.next(0.5, kl_nats=0.0, completions=10**9, step=1) == pytest.approx(0.4)
    for wrong in ((-0.1, 6.0, 10), (0.1, 0.0, 10), (0.1, 6.0, 0)):
        with pytest.raises(InputError, match="adaptive weight"):
            Adaptive(*wrong)
