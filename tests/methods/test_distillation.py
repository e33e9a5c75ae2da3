"""On-policy distillation: values by hand, gradients against the exact KL, and a run that follows its teacher."""

import itertools

import pytest
import torch
from fakes import TEXT, DigitCount, KeepGradients, grpo, prompt_data, tiny, trainer

from lit_posttrain.batches import Experience, Grade, Verdict
from lit_posttrain.contracts import Grader
from lit_posttrain.errors import InputError
from lit_posttrain.methods import Teacher
from lit_posttrain.networks import NetworkConfig, build, token_logprobs
from lit_posttrain.objectives.distillation import ReverseKLAdvantage, ReverseKLLoss
from lit_posttrain.objectives.policy import Clipped
from lit_posttrain.text import character_tokenizer

TEACHER = tiny(seed=7)


def experience(old, teacher, mask=None):
    old, teacher = torch.tensor([old]), torch.tensor([teacher])
    live = torch.ones_like(old, dtype=torch.bool) if mask is None else torch.tensor([mask])
    return Experience(old_logprobs=old, teacher_logprobs=teacher, advantages=torch.zeros_like(old), mask=live)


def test_advantages_by_hand():
    one = experience([-1.0, -2.0, -0.5, -1.0], [-3.0, -0.5, -0.5, -40.0], [True, True, True, True])
    advantages, loss = ReverseKLAdvantage(weight=0.5)(torch.zeros(1, 4), one)
    assert advantages.tolist()[0] == pytest.approx(
        [-1.0, 0.75, 0.0, -10.0], abs=1e-6
    )  # the last held at 20 nats
    assert loss.tolist() == [[0, 0, 0, 0]]
    one = experience([-1.0, -2.0], [-3.0, -0.5], [False, True])
    assert ReverseKLAdvantage()(torch.zeros(1, 2), one)[0].tolist()[0] == pytest.approx([0.0, 1.5], abs=1e-6)


def test_loss_and_its_gradient_by_hand():
    new = torch.tensor([[-1.0, -2.0, -1.0, -5.0]], requires_grad=True)
    one = experience([0.0] * 4, [-3.0, -0.5, -float("inf"), -1.0], [True, True, True, False])
    advantages, loss = ReverseKLLoss(weight=0.5, limit_nats=4.0)(new, one)
    assert advantages.tolist() == [[0, 0, 0, 0]]
    assert loss.tolist()[0] == pytest.approx(
        [1.0, 0.5625, 4.0, 0.0], abs=1e-6
    )  # half of d²/2: d = 2, -1.5, 4 held
    loss.sum().backward()
    assert new.grad.tolist()[0] == pytest.approx([1.0, -0.75, 2.0, 0.0], abs=1e-6)


@pytest.mark.parametrize("objective", [ReverseKLAdvantage(), ReverseKLLoss()])
def test_the_expected_gradient_is_that_of_the_exact_kl(objective):
    """All tokens of a vocabulary of five, each weighed by its probability under the policy."""
    torch.manual_seed(0)
    logits = torch.randn(5, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(5, dtype=torch.float64).log_softmax(-1)
    policy = logits.log_softmax(-1)
    (exact,) = torch.autograd.grad((policy.exp() * (policy - teacher)).sum(), logits)

    logprobs = logits.log_softmax(-1)
    probabilities = logprobs.detach().exp()
    old = logprobs.detach()
    one = Experience(
        old_logprobs=old[None],
        teacher_logprobs=teacher[None],
        advantages=torch.zeros(1, 5, dtype=torch.float64),
        mask=torch.ones(1, 5, dtype=torch.bool),
    )
    advantages, added = objective(logprobs[None], one)
    one.advantages = advantages
    surrogate, _ = Clipped()(logprobs[None], one)
    (estimated,) = torch.autograd.grad((probabilities * (surrogate + added)[0]).sum(), logits)
    torch.testing.assert_close(estimated, exact, atol=1e-12, rtol=1e-9)
    assert exact.abs().max() > 0.05


def test_settings_that_make_no_sense_are_refused():
    for wrong, part in itertools.product(
        ({"weight": 0.0}, {"limit_nats": -1.0}), (ReverseKLAdvantage, ReverseKLLoss)
    ):
        with pytest.raises(InputError, match="above 0"):
            part(**wrong)
    with pytest.raises(InputError, match="reward_weight"):
        Teacher(TEACHER, reward_weight=-1.0)


def distilled(teacher=None, **settings):
    """A module that learns from another random network alone."""
    return grpo(teacher=teacher or Teacher(TEACHER), **settings)


class Keep(KeepGradients):
    """Also the batches."""

    def __init__(self):
        super().__init__()
        self.batches = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.batches.append(batch)


def run(module, *, steps=1, **settings):
    keep = Keep()
    fitting = trainer(max_steps=steps, callbacks=[keep], **settings)
    fitting.fit(module, datamodule=prompt_data(rollouts_per_epoch=100))
    return keep, fitting


@pytest.mark.parametrize("packed", [False, True])
def test_the_teacher_scores_what_the_policy_wrote(packed):
    module, keep = distilled(), Keep()
    fitting = trainer(max_steps=1, callbacks=[keep], accumulate_grad_batches=2)
    fitting.fit(module, datamodule=prompt_data(packed=packed, row_tokens=40 * packed))
    teacher = build(TEACHER)
    for batch in keep.batches:
        with torch.no_grad():
            expected = token_logprobs(teacher, batch)
        assert torch.allclose(batch.teacher_logprobs, expected, atol=1e-5)
        assert batch.teacher_logprobs[~batch.mask].abs().max() == 0
    assert sum(batch.sequences for batch in keep.batches) == 6 * 4  # also groups whose rewards are alike
    assert fitting.callback_metrics["policy/kl_teacher_nats"] > 0


def test_the_gradient_is_that_of_the_log_ratios():
    module = distilled()
    keep, _ = run(module)
    (batch,) = keep.batches
    policy = build(tiny())
    logprobs = token_logprobs(policy, batch)
    gap = (batch.old_logprobs - batch.teacher_logprobs).detach()
    loss = (gap * logprobs)[batch.mask].sum() / batch.mask.sum()
    loss.backward()
    for name, parameter in policy.named_parameters():
        torch.testing.assert_close(keep.steps[0][name], parameter.grad, atol=1e-5, rtol=1e-3)


def test_both_forms_take_the_same_first_step():
    first, _ = run(distilled())
    second, _ = run(distilled(Teacher(TEACHER, ReverseKLLoss()), rollouts={"rescore": True}))
    for name, gradient in first.steps[0].items():
        torch.testing.assert_close(second.steps[0][name], gradient, atol=1e-5, rtol=1e-3)


def test_rewards_count_by_their_weight():
    def gradient(**weights):
        return run(grpo(**weights))[0].steps[0]

    alone = gradient(teacher=Teacher(TEACHER))
    both = gradient(teacher=Teacher(TEACHER, reward_weight=1.0))
    assert any((both[name] - alone[name]).abs().max() > 1e-3 for name in alone)


class Refuses(Grader):
    """Cannot grade anything."""

    def grade(self, items):
        return [Grade(None, None, Verdict.GRADER_ERROR) for _ in items]


def test_without_rewards_ungraded_completions_count_and_with_them_they_do_not():
    keep, _ = run(distilled(grader=Refuses()))
    assert keep.batches[0].sequences == 24
    with pytest.raises(InputError, match="nothing to learn"):
        run(distilled(Teacher(TEACHER, reward_weight=0.5), grader=Refuses()))


def test_the_policy_comes_closer_to_its_teacher_and_stores_nothing_of_it(tmp_path):
    module = distilled(optimizer=lambda p: torch.optim.AdamW(p, lr=5e-3, weight_decay=0.0))
    keep, fitting = run(module, steps=40)
    gaps = [(b.old_logprobs - b.teacher_logprobs)[b.mask].mean() for b in keep.batches]
    assert sum(gaps[-4:]) / 4 < 0.5 * sum(gaps[:4]) / 4
    started = build(TEACHER).state_dict()
    assert all(torch.equal(value, started[name]) for name, value in module.teacher.state_dict().items())
    fitting.save_checkpoint(tmp_path / "a.ckpt")
    stored = torch.load(tmp_path / "a.ckpt", weights_only=True)
    assert all(name.startswith("policy.") for name in stored["state_dict"])


def test_a_teacher_with_another_vocabulary_is_refused(tmp_path):
    with pytest.raises(
        InputError, match="embeddings for 12 tokens and the policy's tokenizer writes ids up to 14"
    ):
        distilled(Teacher(tiny(shape={"vocab_size": 12}))).configure_model()
    build(TEACHER).model.save_pretrained(tmp_path)
    character_tokenizer("9876543210+=").save_pretrained(tmp_path)
    other = Teacher(NetworkConfig(path=str(tmp_path)))
    with pytest.raises(InputError, match="another vocabulary than the policy: 10 tokens differ, such as"):
        distilled(other).configure_model()
    character_tokenizer(TEXT.characters).save_pretrained(tmp_path)
    module = distilled(other)
    module.configure_model()
    assert not any(p.requires_grad for p in module.teacher.parameters())
    assert isinstance(module.grader, DigitCount)
