"""PPO: what values are computed from, what is learned in which step, resume, and rewards of tokens by hand."""

import pytest
import torch
from fakes import DigitCount, KeepBatches, KeepGradients, ppo, prompt_data, tiny, trainer

from lit_posttrain.batches import Grade, StopReason, Verdict
from lit_posttrain.contracts import Reuse
from lit_posttrain.errors import InputError
from lit_posttrain.keys import digest
from lit_posttrain.ledger import Phase
from lit_posttrain.methods.shaping import Shaping
from lit_posttrain.methods.terms import KLInReward, Terms
from lit_posttrain.methods.value_learning import ValueLearning
from lit_posttrain.networks import (
    AdapterTrunk,
    LoraSettings,
    OwnTrunk,
    SharedTrunk,
    token_values,
)
from lit_posttrain.objectives.returns import GAE, StepReturns

LORA = LoraSettings(4, 8.0)
TRUNKS = {
    "own": (OwnTrunk(), None),
    "own of adapters": (OwnTrunk(), LORA),
    "shared": (SharedTrunk(), None),
    "shared of adapters": (SharedTrunk(), LORA),
    "detached": (SharedTrunk(detached=True), None),
    "adapters": (AdapterTrunk(LORA), LORA),
}


def adamw(parameters):
    return torch.optim.AdamW(parameters, lr=1e-2, weight_decay=0.1)


def made(kind: str, **arguments):
    trunk, lora = TRUNKS[kind]
    learning = arguments.pop("learning", {})
    return ppo(tiny(lora=lora), value=ValueLearning(trunk, **learning), **arguments)


def weights(module) -> dict[str, torch.Tensor]:
    return {
        f"{name}.{k}": p.detach().clone()
        for name, network in module.trained_networks().items()
        for k, p in network.named_parameters()
    }


@pytest.mark.parametrize("kind", TRUNKS)
@pytest.mark.parametrize("packed", [False, True])
def test_values_learn_whatever_they_are_computed_from(kind, packed):
    module = made(kind, optimizer=adamw)
    seen = KeepBatches()
    trainer(max_steps=3, callbacks=[seen], accumulate_grad_batches=2).fit(
        module, datamodule=prompt_data(packed=packed)
    )
    first, last = seen.batches[0], seen.batches[-1]
    assert bool((first.values == 0).all())  # a head that has learned nothing
    assert float(last.values[last.mask].abs().min()) > 0
    assert bool((last.values[~last.mask] == 0).all())
    assert bool((last.returns[~last.mask] == 0).all())
    fresh = made(kind)
    fresh.configure_model()
    start, now = weights(fresh), weights(module)
    trained = {
        k
        for n, m in module.trained_networks().items()
        for k in (f"{n}.{x}" for x, p in m.named_parameters() if p.requires_grad)
    }
    assert {k for k in now if not torch.equal(start[k], now[k])} == trained


def test_adapters_share_the_frozen_weights():
    module = made("adapters")
    module.configure_model()
    theirs = {p.data_ptr() for p in module.policy.parameters() if not p.requires_grad}
    named = module.value.named_parameters()
    frozen = [p for name, p in named if not p.requires_grad and "original_module" not in name]
    assert frozen
    assert all(p.data_ptr() in theirs for p in frozen)
    assert all(p.data_ptr() not in theirs for p in module.value.parameters() if p.requires_grad)


def test_the_value_before_a_token_is_that_of_the_state_behind_the_one_before():
    module = made("own")
    module.configure_model()
    network = module.value.network
    with torch.no_grad():
        network.causal.score.weight.fill_(0.3)
    data = prompt_data()
    data.text = module.text
    module.trainer = trainer()
    batch = module.collect(data.rollout(0), 0).experience
    with torch.no_grad():
        values = token_values(network, batch)
        row = int(batch.mask.sum(1).argmax())
        columns = batch.mask[row].nonzero().squeeze(-1)
        for column in (int(columns[0]), int(columns[-1])):
            ids = batch.input_ids[row : row + 1, :column]  # what stands before the token, alone
            state = network.states(ids)[0, -1]
            assert float(values[row, column]) == pytest.approx(float(0.3 * state.sum()), abs=1e-4)


@pytest.mark.parametrize("kind", ["own", "shared", "adapters"])
def test_while_values_warm_up_the_policy_stays(kind):
    """Though AdamW with weight decay moves on zero gradients."""
    module = made(kind, optimizer=adamw, learning={"warmup_steps": 2})
    states = []

    class Watch(KeepBatches):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            states.append([p.detach().clone() for p in pl_module.policy.parameters()])

    trainer(max_steps=3, callbacks=[Watch()]).fit(module, datamodule=prompt_data())
    fresh = made(kind)
    fresh.configure_model()
    start = [p.detach() for p in fresh.policy.parameters()]
    equal = [all(torch.equal(a, b) for a, b in zip(start, state, strict=True)) for state in states]
    assert equal == [True, True, False]


def test_a_rate_of_its_own():
    module = made(
        "own", learning={"learning_rate": 0.0 + 1e-9}, optimizer=lambda p: torch.optim.SGD(p, lr=0.5)
    )
    trainer(max_steps=1).fit(module, datamodule=prompt_data())
    rates = [group["lr"] for group in module.optimizers().param_groups]
    assert rates == [0.5, 1e-9]


@pytest.mark.parametrize("kind", ["own", "shared", "adapters"])
def test_resume_is_the_run_that_never_stopped(kind, tmp_path):
    """Stopped inside the second pass over a rollout."""

    def one():
        return made(
            kind, optimizer=adamw, reuse=Reuse(epochs=2, minibatches=2), terms=Terms(kl=KLInReward(0.1))
        )

    whole, first, second = one(), one(), one()
    trainer(max_steps=8).fit(whole, datamodule=prompt_data())
    stopped = trainer(max_steps=3)
    stopped.fit(first, datamodule=prompt_data())
    stopped.save_checkpoint(tmp_path / "at_3.ckpt")
    trainer(max_steps=8).fit(second, datamodule=prompt_data(), ckpt_path=tmp_path / "at_3.ckpt")
    left, right = weights(whole), weights(second)
    assert all(torch.equal(left[k], right[k]) for k in left)


def test_a_checkpoint_of_another_value_model_is_refused(tmp_path):
    stopped = trainer(max_steps=1)
    stopped.fit(made("own"), datamodule=prompt_data())
    stopped.save_checkpoint(tmp_path / "own.ckpt")
    with pytest.raises(InputError, match="another value model"):
        trainer(max_steps=2).fit(made("shared"), datamodule=prompt_data(), ckpt_path=tmp_path / "own.ckpt")


def test_rewards_of_tokens_by_hand():
    """Two completions of 2 and 1 tokens, rewards 3 and 1, the second cut; KL weight 0.5, log-ratios given."""
    module = ppo(terms=Terms(kl=KLInReward(0.5)), shaping=Shaping(missing_eos_penalty=2.0))
    module.configure_model()
    data = prompt_data()
    data.text = module.text
    module.trainer = trainer()
    batch = module.collect(data.rollout(0), 0).experience
    from lit_posttrain.collate import take

    one = take(batch, [0, 1])
    stops = list(StopReason)
    one.mask = torch.zeros_like(one.mask)
    one.mask[0, 5:7] = True
    one.mask[1, 5] = True
    one.segments = torch.arange(1, 3)[:, None] * torch.ones_like(one.segments)
    one.rewards = torch.tensor([3.0, 1.0])
    one.stop = torch.tensor([stops.index(StopReason.EOS), stops.index(StopReason.LENGTH)])
    one.old_logprobs = torch.zeros(one.mask.shape)
    one.reference_logprobs = torch.zeros(one.mask.shape)
    one.reference_logprobs[0, 5], one.reference_logprobs[0, 6], one.reference_logprobs[1, 5] = -1.0, 0.4, 2.0
    expected = torch.zeros(one.mask.shape)
    expected[0, 5], expected[0, 6], expected[1, 5] = -0.5, 3.0 + 0.2, 1.0 - 2.0 + 1.0
    found = module.shaping.token_rewards(one, module.terms.penalties(one))
    assert torch.allclose(found, expected, atol=1e-6)


def test_on_the_first_step_ratio_and_kl_are_exact():
    seen = KeepBatches()
    module = made("shared", rollouts={"rescore": True}, terms=Terms(kl=KLInReward(0.1)))
    trainer(max_steps=1, callbacks=[seen]).fit(module, datamodule=prompt_data())
    (batch,) = seen.batches
    assert torch.equal(batch.old_logprobs[batch.mask], batch.reference_logprobs[batch.mask])
    told = module.trainer.callback_metrics
    assert float(told["policy/ratio_max"]) == 1.0
    assert float(told["policy/kl_completion_nats"]) == 0.0
    assert float(told["policy/clipped_high_fraction"]) == 0.0


def test_flops_of_values_are_booked():
    alone, own = made("shared"), made("own")
    for module in (alone, own):
        trainer(max_steps=2).fit(module, datamodule=prompt_data())
    assert own.ledger.spent[Phase.UPDATE].flops > 1.5 * alone.ledger.spent[Phase.UPDATE].flops


def test_gradient_norms_of_both_networks_are_told():
    module = made("own", optimizer=adamw)
    trainer(max_steps=2, callbacks=[KeepGradients()]).fit(module, datamodule=prompt_data())
    told = module.trainer.callback_metrics
    both = float(told["train/gradient_norm_policy"]) ** 2 + float(told["train/gradient_norm_value"]) ** 2
    assert float(told["train/gradient_norm"]) ** 2 == pytest.approx(both, rel=1e-4)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"returns": StepReturns()}, "uses no values"),
        ({"value": ValueLearning(AdapterTrunk())}, "trains all of its weights"),
        (
            {"value": ValueLearning(OwnTrunk(tiny(shape={"vocab_size": 4})))},
            "embeddings",
        ),
    ],
)
def test_bad_settings(arguments, expected):
    with pytest.raises(InputError, match=expected):
        ppo(**arguments).configure_model()


@pytest.mark.parametrize(
    "settings",
    [
        lambda: ValueLearning(coefficient=0.0),
        lambda: ValueLearning(clip=0.0),
        lambda: ValueLearning(warmup_steps=-1),
        lambda: ValueLearning(learning_rate=0.0),
        lambda: Shaping(missing_eos_penalty=-1.0),
    ],
)
def test_bad_numbers(settings):
    with pytest.raises(InputError):
        settings()


def test_gae_is_what_the_module_says():
    seen = KeepBatches()
    module = made("own", optimizer=adamw, shaping=Shaping(whiten_advantages=False), returns=GAE(trace=1.0))
    trainer(max_steps=3, callbacks=[seen]).fit(module, datamodule=prompt_data())
    batch = seen.batches[-1]
    assert torch.allclose(batch.advantages + batch.values, batch.returns, atol=1e-5)
    row = int(batch.mask.sum(1).argmax())
    returns = batch.returns[row][batch.mask[row]]
    # without discount and at trace 1 every token's return is what comes after it, less the KL of these tokens
    kl = (batch.old_logprobs - batch.reference_logprobs)[row][batch.mask[row]]
    expected = batch.rewards[row] - 0.05 * kl.flip(0).cumsum(0).flip(0)
    assert torch.allclose(returns, expected, atol=1e-4)


class ByPrompt(DigitCount):
    """A reward that the prompt decides, up to a little noise: what a table of values would hold."""

    def grade(self, items):
        return [
            Grade(level(problem.uid) + 0.05 * (len(completion.text) % 2), None, Verdict.PARTIAL)
            for problem, completion in items
        ]


def level(uid: str) -> float:
    return 2 * (digest(0, "level", uid) % 1000) / 1000 - 1


def test_values_explain_what_can_be_explained():
    """The policy is held back: in 60 rollouts of 32 prompts the values of all prefixes become those of the table."""
    module = ppo(
        grader=ByPrompt(),
        value=ValueLearning(OwnTrunk(), clip=None, warmup_steps=10_000),
        terms=Terms(),
        optimizer=lambda p: torch.optim.AdamW(p, lr=3e-3),
        reuse=Reuse(epochs=4),
    )
    explained = []

    class Watch(KeepBatches):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            explained.append(float(trainer.callback_metrics["value/explained_variance"]))

    trainer(max_steps=240, callbacks=[Watch()]).fit(module, datamodule=prompt_data(problems_per_rollout=32))
    assert explained[0] == 0.0  # a head that says 0
    assert explained[-1] >= 0.95
    told = module.trainer.callback_metrics
    assert float(told["value/mean"]) == pytest.approx(float(told["value/return_mean"]), abs=0.1)
