"""A step without signal changes no parameter; ungraded samples and equal groups teach nothing."""

from dataclasses import replace

import pytest
import torch
from fakes import DigitCount, KeepBatches, grpo, prompt_data, prompts, trainer

from lit_posttrain.batches import Verdict
from lit_posttrain.contracts import Reuse
from lit_posttrain.errors import InputError
from lit_posttrain.methods import KLInLoss
from lit_posttrain.methods.rollouts import Rollouts


class Constant(DigitCount):
    def _one(self, text):
        return replace(super()._one(text), reward=0.35)


class SometimesUngraded(DigitCount):
    """Cannot grade completions that begin with an odd digit."""

    def _one(self, text):
        if text[:1] in "13579":
            return replace(super()._one(text), reward=None, correct=None, verdict=Verdict.GRADER_ERROR)
        return super()._one(text)


def test_equal_rewards_everywhere_stop_at_the_start():
    with pytest.raises(InputError, match="nothing to learn"):
        trainer(max_steps=1).fit(grpo(grader=Constant()), datamodule=prompt_data())


def test_a_silent_step_moves_nothing_though_adamw_would():
    module = grpo(
        optimizer=lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.1), reuse=Reuse(minibatches=40)
    )
    states = []

    class Watch(KeepBatches):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            states.append([p.detach().clone() for p in pl_module.policy.parameters()])

    watch = Watch()
    trainer(max_steps=40, callbacks=[watch]).fit(module, datamodule=prompt_data(problems_per_rollout=4))
    silent = [i for i, batch in enumerate(watch.batches) if float(batch.weights.sum()) == 0]
    assert 0 < len(silent) < 40
    assert module.skipped_steps == len(silent)
    for i in silent:
        assert all(torch.equal(a, b) for a, b in zip(states[i], states[i - 1], strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(states[0], states[39], strict=True))
    assert module.global_step == 40


def test_ungraded_samples_are_in_no_update():
    seen = KeepBatches()
    module = grpo(grader=SometimesUngraded(), group_size=8, kl_weight=0.1)
    trainer(max_steps=2, callbacks=[seen]).fit(module, datamodule=prompt_data())
    assert all(bool(batch.graded.all()) for batch in seen.batches)
    starts = {
        batch.input_ids[r][batch.mask[r]][0].item() for batch in seen.batches for r in range(batch.sequences)
    }
    odd = {module.text.prompt_ids([{"role": "user", "content": c}])[-1] for c in "13579"}
    assert not starts & odd
    assert float(module.trainer.callback_metrics["rollout/ungraded_fraction"]) > 0


def test_groups_without_difference_stay_out_of_the_network():
    class OnlyLongPrompts(DigitCount):
        def grade(self, items):
            grades = super().grade(items)
            return [
                g if len(p.messages[0]["content"]) > 4 else replace(g, reward=0.0)
                for (p, _), g in zip(items, grades, strict=True)
            ]

    module = grpo(grader=OnlyLongPrompts())
    module.configure_model()
    module.trainer = trainer()
    batch = prompts(module.text, 6)
    experience = module.collect(batch, 0).experience
    informative = {i for i, p in enumerate(batch.problems) if len(p.messages[0]["content"]) > 4}
    assert set(experience.group.tolist()) <= informative
    assert experience.sequences < 24


def test_a_group_of_one_is_an_error_at_the_start():
    with pytest.raises(InputError, match="group size 1 gives zero advantage"):
        grpo(group_size=1)


@pytest.mark.parametrize(
    "option", [{"top_p": 0.9}, {"top_k": 5}, {"min_new_tokens": 2}, {"temperature": 0.0}]
)
def test_sampling_that_the_trainer_cannot_follow_is_refused(option):
    from lit_posttrain.batches import Sampling

    with pytest.raises(InputError, match="plain tempered softmax"):
        Rollouts(sampling=Sampling(**option))


def test_negative_kl_weight_is_refused():
    with pytest.raises(InputError, match="below 0"):
        KLInLoss(-1.0)
