"""What stands beside the policy loss: a KL in loss or reward, references that move, entropy, corrections."""

import math

import pytest
import torch
from fakes import DigitCount, KeepBatches, grpo, ppo, prompt_data, tiny, trainer

from lit_posttrain.contracts import Reuse
from lit_posttrain.data import DynamicSampling
from lit_posttrain.errors import InputError
from lit_posttrain.ledger import Phase
from lit_posttrain.methods import KLInLoss, KLInReward, Terms
from lit_posttrain.methods.references import AsDrawn, Fixed, MovingAverage, ResetEvery
from lit_posttrain.networks import LoraSettings
from lit_posttrain.objectives.advantages import BatchWhitened, GroupAdvantage, LeaveOneOut
from lit_posttrain.objectives.corrections import MaskedImportance, TruncatedImportance
from lit_posttrain.objectives.entropy import EntropyBonus
from lit_posttrain.objectives.kl import K1, K2, K3
from lit_posttrain.objectives.kl_coefficients import Adaptive, Annealed
from lit_posttrain.objectives.part_advantages import PartwiseAdvantage
from lit_posttrain.rollouts.provenance import policy_digest


def adamw(parameters):
    return torch.optim.AdamW(parameters, lr=1e-2)


def run(module, steps=3, **data):
    seen = KeepBatches()
    trainer(max_steps=steps, callbacks=[seen]).fit(module, datamodule=prompt_data(**data))
    return seen.batches, module.trainer.callback_metrics


def test_a_kl_in_the_reward_is_in_the_advantages():
    """Worked again from what the batch carries: rewards less the weighted log-ratios, minus the mean of the group."""
    kl = KLInReward(0.5, K1())
    batches, told = run(grpo(advantage=GroupAdvantage(deviation="none"), terms=Terms(kl=kl), optimizer=adamw))
    batch = batches[-1]
    ratio = ((batch.old_logprobs - batch.reference_logprobs) * batch.mask).sum(dim=1)
    assert float(ratio.abs().max()) > 1e-3
    left = batch.rewards - 0.5 * ratio
    for group in batch.group.unique():
        rows = batch.group == group
        expected = left[rows] - left[rows].mean()
        found = batch.advantages[rows].sum(dim=1) / batch.mask[rows].sum(dim=1)
        assert torch.allclose(found, expected, atol=1e-5)
    assert bool((batch.advantages[~batch.mask] == 0).all())
    assert float(told["policy/kl_weight"]) == 0.5
    assert float(told["policy/kl_completion_nats"]) == pytest.approx(float(ratio.mean()), abs=1e-5)


def test_with_a_kl_in_the_reward_groups_of_equal_rewards_teach_too():
    class Constant(DigitCount):
        def _one(self, text):
            from dataclasses import replace

            return replace(super()._one(text), reward=0.25)

    batches, _ = run(grpo(grader=Constant(), terms=Terms(kl=KLInReward(0.1)), optimizer=adamw))
    assert batches[-1].sequences == 6 * 4


@pytest.mark.parametrize("make", [grpo, ppo])
@pytest.mark.parametrize("kl", [KLInLoss(0.1), KLInReward(0.1), KLInLoss(0.1, K2(over="sequence"))])
def test_the_weight_of_a_kl_keeps_the_policy_near(make, kl):
    """A hundred times the weight: after the same steps the policy is nearer to its start."""
    from dataclasses import replace

    far = {}
    for factor in (1, 100):
        module = make(terms=Terms(kl=replace(kl, coefficient=0.1 * factor)), optimizer=adamw)
        _, told = run(module, steps=12)
        far[factor] = float(told["policy/kl_completion_nats"])
    assert abs(far[100]) < abs(far[1])


def test_annealed_and_adaptive_weights_move_and_go_through_checkpoints(tmp_path):
    annealed = Terms(kl=KLInReward(Annealed(start=1.0, end=0.01, steps=4)))
    module = grpo(terms=annealed, optimizer=adamw)
    _, told = run(module, steps=3)
    assert float(told["policy/kl_weight"]) == pytest.approx(1.0 * 0.01 ** (2 / 4), rel=1e-6)
    adaptive = Terms(kl=KLInReward(Adaptive(start=0.1, target_nats=1e-6, horizon=48)))
    whole, first, second = (grpo(terms=adaptive, optimizer=adamw) for _ in range(3))
    run(whole, steps=6)
    stopped = trainer(max_steps=3)
    stopped.fit(first, datamodule=prompt_data())
    stopped.save_checkpoint(tmp_path / "at_3.ckpt")
    trainer(max_steps=6).fit(second, datamodule=prompt_data(), ckpt_path=tmp_path / "at_3.ckpt")
    assert second.terms.kl_weight == whole.terms.kl_weight != 0.1
    for a, b in zip(whole.policy.parameters(), second.policy.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("make", [grpo, ppo])
@pytest.mark.parametrize("lora", [None, LoraSettings(4, 8.0)])
def test_the_reference_moves_when_it_should_and_only_then(make, lora):
    for reference, versions in (
        (Fixed(), [0, 0, 0, 0]),
        (ResetEvery(steps=2), [0, 0, 1, 1]),
        (MovingAverage(0.5), [0, 1, 2, 3]),
    ):
        module = make(tiny(lora=lora), terms=Terms(kl=KLInReward(0.1, reference=reference)), optimizer=adamw)
        module.configure_model()
        start, seen = policy_digest(module.policy), []

        class Watch(KeepBatches):
            def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
                super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
                seen.append((pl_module.reference.version, pl_module.reference.digest(pl_module)))  # noqa: B023

        trainer(max_steps=4, callbacks=[Watch()]).fit(module, datamodule=prompt_data())
        # callbacks hear of a batch before the method does: what they see is how the batch before it left it
        assert [version for version, _ in seen][1:] == versions[:3]
        hashes = [found for _, found in seen]
        if isinstance(reference, Fixed):
            assert len(set(hashes)) == 1
            assert (hashes[0] == start) == (lora is None)
        else:
            assert len(set(hashes)) > 1


def test_a_resumed_run_has_the_same_reference(tmp_path):
    def one():
        return grpo(
            terms=Terms(kl=KLInLoss(0.1, reference=ResetEvery(steps=2))),
            optimizer=adamw,
            reuse=Reuse(epochs=2),
        )

    whole, first, second = one(), one(), one()
    run(whole, steps=6)
    stopped = trainer(max_steps=3)
    stopped.fit(first, datamodule=prompt_data())
    stopped.save_checkpoint(tmp_path / "at_3.ckpt")
    trainer(max_steps=6).fit(second, datamodule=prompt_data(), ckpt_path=tmp_path / "at_3.ckpt")
    assert second.reference.version == whole.reference.version == 2
    for a, b in zip(whole.policy.parameters(), second.policy.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("make", [grpo, ppo])
@pytest.mark.parametrize("packed", [False, True])
def test_the_entropy_is_that_of_the_whole_distribution(make, packed):
    module = make(terms=Terms(entropy=EntropyBonus(0.05)), temperature=0.7)
    module.configure_model()
    seen = []

    class Watch(KeepBatches):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            with torch.no_grad():
                states = pl_module.policy.hidden(batch)
                logp = (pl_module.policy.head(states).float() / 0.7).log_softmax(-1)
            entropy = -(logp.exp() * logp).sum(-1)
            before = torch.cat([torch.zeros(len(entropy), 1), entropy[:, :-1]], dim=1)
            seen.append(float(before[batch.mask].mean()))

    trainer(max_steps=1, callbacks=[Watch()]).fit(module, datamodule=prompt_data(packed=packed))
    assert float(module.trainer.callback_metrics["policy/entropy_nats"]) == pytest.approx(seen[0], abs=1e-4)


def test_a_bonus_keeps_the_entropy_up():
    found = {}
    for weight in (0.0, 2.0):
        module = grpo(terms=Terms(entropy=EntropyBonus(weight)), optimizer=adamw)
        _, told = run(module, steps=15)
        found[weight] = float(told["policy/entropy_nats"])
    assert found[2.0] > found[0.0] + 0.2


def test_a_target_moves_the_weight():
    bonus = EntropyBonus(0.01, target_nats=100.0, rate=0.1)
    module = grpo(terms=Terms(entropy=bonus), optimizer=adamw)
    run(module, steps=3)
    assert module.terms.entropy_weight == pytest.approx(0.01 * math.exp(0.3), rel=1e-6)


@pytest.mark.parametrize("correction", [TruncatedImportance(2.0), MaskedImportance(0.5, 2.0)])
def test_a_correction_where_both_agree_changes_nothing(correction):
    plain, corrected = (
        grpo(rollouts={"rescore": True}, terms=Terms(correction=c)) for c in (None, correction)
    )
    run(plain)
    _, told = run(corrected)
    assert float(told["policy/correction_mean"]) == pytest.approx(1.0, abs=1e-5)
    assert float(told["policy/correction_cut_fraction"]) == 0.0
    for a, b in zip(plain.policy.parameters(), corrected.policy.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-5)


def test_staleness_is_told_and_zero_is_on_policy():
    for k, expected in ((0, 0.0), (2, 2.0)):
        batches, told = run(grpo(optimizer=adamw), steps=5, staleness=k)
        assert float(told["policy/staleness_versions"]) == expected
        assert int(batches[-1].policy_version[0]) == 4 - k


def test_an_engine_that_disagrees_is_told_of_once(caplog):
    module = grpo(rollouts={"rescore": True})
    batches, _ = run(module, steps=1)
    assert "disagree" not in caplog.text
    for _ in range(2):
        batches[0].sampled_logprobs = batches[0].old_logprobs - 0.06
        module.terms.follow(batches[0], 1)
    assert caplog.text.count("disagree by 0.060 nats per token") == 1


def test_a_reference_is_only_scored_where_there_is_a_kl():
    for terms, scored in ((Terms(), False), (Terms(kl=KLInLoss(0.1, K3())), True)):
        module = grpo(terms=terms)
        run(module, steps=1)
        assert (module.ledger.spent[Phase.SCORING].flops > 0) == scored


def test_advantages_without_groups_take_single_completions():
    batches, _ = run(grpo(group_size=1, advantage=BatchWhitened(), optimizer=adamw))
    assert batches[0].sequences == 6
    with pytest.raises(InputError, match="group size 1"):
        grpo(group_size=1, advantage=LeaveOneOut())


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: grpo(terms=Terms(correction=TruncatedImportance())), "rollouts.rescore"),
        (lambda: Terms(kl=KLInLoss(0.1, reference=AsDrawn())), "kl_old"),
        (lambda: Terms(kl=KLInLoss(-0.1)), "below 0"),
        (lambda: run(ppo(), refill=DynamicSampling()), "remove refill"),
        (lambda: run(grpo(rollouts={"uniform_groups": "keep"}), refill=DynamicSampling()), "remove refill"),
        (lambda: run(grpo(terms=Terms(kl=KLInReward(0.1))), refill=DynamicSampling()), "remove refill"),
        (
            lambda: grpo(advantage=PartwiseAdvantage({"even": 1.0}), terms=Terms(kl=KLInReward(0.1))),
            "use KLInLoss",
        ),
        (lambda: run(grpo(advantage=PartwiseAdvantage({"odd": 1.0}))), r"lacks \['odd'\].*has \['even'\]"),
    ],
)
def test_bad_settings(make, expected):
    with pytest.raises(InputError, match=expected):
        make()
