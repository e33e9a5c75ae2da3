"""References that follow the policy: when, with which weights, and the same after a resume."""

import lightning.pytorch as pl
import pytest
import torch
from fakes import DigitCount, difference, tiny, trainer
from preference_parts import adamw, completions, dpo, pairs, preference_rounds

from lit_posttrain.batches import Sampling
from lit_posttrain.checkpoints.export import export
from lit_posttrain.checkpoints.io import FolderIO
from lit_posttrain.contracts import Drawing
from lit_posttrain.errors import InputError
from lit_posttrain.methods.held_weights import HeldWeights
from lit_posttrain.methods.references import AsDrawn, Fixed, MovingAverage, ResetEvery
from lit_posttrain.networks import LoraSettings, NetworkConfig, build
from lit_posttrain.objectives.unpaired import KTO
from lit_posttrain.pools import read_pool


class Listener(pl.Callback):
    """Notes each reference with the step at which it is told, and the policy before every step."""

    def __init__(self):
        self.told, self.policies = [], []

    def on_reference(self, trainer, pl_module, version, found):
        self.told.append((trainer.global_step, version, found))

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.policies.append(weights(pl_module))


def weights(module):
    return {name: p.detach().clone() for name, p in module.policy.named_parameters()}


def held(module):
    return {
        name: module.reference.held.get_parameter(name.replace(".", "/")).detach().clone()
        for name, p in module.policy.named_parameters()
        if p.requires_grad
    }


def fit(module, data, *, steps=6, ckpt_path=None, **arguments):
    listener = Listener()
    fitting = trainer(max_steps=steps, callbacks=[listener], **arguments)
    fitting.fit(module, datamodule=data, ckpt_path=ckpt_path)
    return fitting, listener


def test_held_weights_stand_in_for_the_policys_and_leave_no_trace():
    policy, other = build(tiny()), build(tiny(seed=1))
    before = {name: p.detach().clone() for name, p in policy.named_parameters()}
    copy = HeldWeights(other)
    with copy.in_place(policy):
        assert difference(dict(policy.model.state_dict()), dict(other.model.state_dict())) == 0
    assert all(torch.equal(p, before[name]) for name, p in policy.named_parameters())
    with pytest.raises(RuntimeError, match="broken"), copy.in_place(policy):
        raise RuntimeError("broken")
    assert all(torch.equal(p, before[name]) for name, p in policy.named_parameters())
    copy.follow(policy, 0.25)
    name, p = next(iter(policy.named_parameters()))
    mean = 0.75 * dict(other.named_parameters())[name] + 0.25 * p
    assert torch.allclose(copy.get_parameter(name.replace(".", "/")), mean, atol=1e-7)
    assert not any(p.requires_grad for p in copy.parameters())


@pytest.mark.parametrize("k", [1, 2])
def test_reset_after_steps_gives_the_policy_of_that_time(k):
    module = dpo(reference=ResetEvery(steps=2), optimizer=adamw)
    _, seen = fit(module, pairs(), accumulate_grad_batches=k)
    assert [(step, version) for step, version, _ in seen.told] == [(0, 0), (2, 1), (4, 2)]
    assert len({found for _, _, found in seen.told}) == 3
    assert difference(held(module), seen.policies[4 * k]) == 0
    assert difference(held(module), weights(module)) > 1e-3


def test_a_moving_average_follows_every_step():
    module = dpo(reference=MovingAverage(0.25), optimizer=adamw)
    _, seen = fit(module, pairs(), steps=3)
    name = next(name for name, p in module.policy.named_parameters())
    expected = seen.policies[0][name]
    for policy in seen.policies[1:]:  # the last update is due before the next step
        expected = 0.75 * expected + 0.25 * policy[name]
    assert torch.allclose(held(module)[name], expected, atol=1e-6)
    assert module.reference.version == 2


def test_under_adapters_only_these_are_held():
    module = dpo(tiny(lora=LoraSettings(rank=4)), reference=ResetEvery(steps=1), optimizer=adamw)
    fit(module, pairs(), steps=2)
    assert sum(p.numel() for p in module.reference.parameters()) == sum(
        p.numel() for p in module.policy.parameters() if p.requires_grad
    )


def drawing(tmp_path, **sampling):
    how = Sampling(**({"max_new_tokens": 6} | sampling))
    return Drawing(DigitCount(), how, samples=4, pool=str(tmp_path / "pool.jsonl"))


@pytest.mark.parametrize("reference", [ResetEvery(rounds=1), AsDrawn()])
def test_the_hash_changes_exactly_at_rounds_and_names_the_policy_that_drew(tmp_path, reference):
    module = dpo(reference=reference, optimizer=adamw)
    _, seen = fit(module, preference_rounds(drawing=drawing(tmp_path)))
    told = dict.fromkeys(seen.told)  # that of the start and of round 0 are the same
    assert [(step, version) for step, version, _ in told] == [(0, 0), (2, 1), (4, 2)]
    drew = list(dict.fromkeys(candidate.origin.policy for candidate in read_pool(tmp_path / "pool.jsonl")))
    assert [found for _, _, found in told] == drew
    assert len(set(drew)) == 3


def test_a_fixed_reference_stays_through_all_rounds(tmp_path):
    module = dpo(optimizer=adamw)
    _, seen = fit(module, preference_rounds())
    assert [(step, version) for step, version, _ in seen.told] == [(0, 0)]


def test_log_probs_as_drawn_are_those_of_a_reference_that_is_reset(tmp_path):
    runs = []
    for reference in (ResetEvery(rounds=1), AsDrawn()):
        module = dpo(reference=reference, optimizer=adamw)
        fit(module, preference_rounds())
        runs.append((weights(module), module.ledger.spent["scoring"].flops))
    assert difference(runs[0][0], runs[1][0]) < 1e-4
    assert runs[0][1] > 0
    assert runs[1][1] == 0


KINDS = {
    "fixed": lambda: (dpo(optimizer=adamw), pairs()),
    "other": lambda: (dpo(reference=Fixed(tiny(seed=1)), optimizer=adamw), pairs()),
    "steps": lambda: (dpo(reference=ResetEvery(steps=2), optimizer=adamw), pairs()),
    "average": lambda: (dpo(reference=MovingAverage(0.2), optimizer=adamw), pairs(packed=True)),
    "lora": lambda: (
        dpo(tiny(lora=LoraSettings(rank=4)), reference=ResetEvery(steps=2), optimizer=adamw),
        pairs(),
    ),
    "kto": lambda: (
        dpo(loss=KTO(beta=0.3), reference=ResetEvery(steps=2), optimizer=adamw),
        completions(),
    ),
    "rounds": lambda: (dpo(reference=ResetEvery(rounds=1), optimizer=adamw), preference_rounds()),
    "drawn": lambda: (dpo(reference=AsDrawn(), optimizer=adamw), preference_rounds(packed=True)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_resumed_run_is_the_same_run(tmp_path, kind):
    module, data = KINDS[kind]()
    io = {"plugins": [FolderIO()], "accumulate_grad_batches": 2}
    _, seen = fit(module, data, **io)
    for stop in (2, 3):
        half, part = KINDS[kind]()
        stopped, _ = fit(half, part, steps=stop, **io)
        stopped.save_checkpoint(tmp_path / f"{stop}.ckpt")
        again, rest = KINDS[kind]()
        _, went_on = fit(again, rest, ckpt_path=tmp_path / f"{stop}.ckpt", **io)
        assert difference(weights(again), weights(module)) == 0, stop
        assert [one for one in went_on.told if one[0] > stop] == [one for one in seen.told if one[0] > stop]
        assert again.reference.version == module.reference.version
    assert difference(weights(module), weights_at_start(kind)) > 1e-3


def weights_at_start(kind):
    module, _ = KINDS[kind]()
    module.configure_model()
    return weights(module)


def test_checkpoints_hold_the_reference_only_where_it_cannot_be_rebuilt(tmp_path):
    kept = {}
    for kind in ("fixed", "other", "steps"):
        module, data = KINDS[kind]()
        fitting, seen = fit(module, data, steps=3)
        fitting.save_checkpoint(tmp_path / f"{kind}.ckpt")
        content = torch.load(tmp_path / f"{kind}.ckpt", weights_only=True)
        kept[kind] = [name for name in content["state_dict"] if not name.startswith("policy.")]
        version, found = seen.told[-1][1:]
        assert (content["reference"]["version"], content["reference"]["hash"]) == (version, found)
    assert kept["fixed"] == kept["other"] == []
    assert len(kept["steps"]) == len(weights_at_start("steps"))


def test_a_run_that_went_on_with_another_reference_is_refused(tmp_path):
    fitting, _ = fit(*KINDS["other"](), steps=2)
    fitting.save_checkpoint(tmp_path / "other.ckpt")
    for module in (dpo(optimizer=adamw), dpo(reference=Fixed(tiny(seed=2)), optimizer=adamw)):
        with pytest.raises(InputError, match="compared with a reference of hash"):
            fit(module, pairs(), ckpt_path=tmp_path / "other.ckpt")


def test_a_policy_with_a_reference_that_moved_is_exported(tmp_path):
    module, data = KINDS["steps"]()
    fitting, _ = fit(module, data, steps=3, plugins=[FolderIO()])
    fitting.save_checkpoint(tmp_path / "steps.ckpt")
    exported = export(tmp_path / "steps.ckpt", tmp_path / "model")
    again = build(NetworkConfig(path=str(exported)))
    assert difference(again.state_dict(), module.policy.state_dict()) == 0


def test_settings_that_make_no_sense_are_refused(tmp_path):
    for wrong in ({}, {"steps": 1, "rounds": 1}, {"steps": -1}):
        with pytest.raises(InputError, match="one of both at least 1"):
            ResetEvery(**wrong)
    with pytest.raises(InputError, match="above 0 and below 1"):
        MovingAverage(1.0)
    with pytest.raises(InputError, match="bfloat16 would lose its small changes"):
        fit(dpo(tiny(dtype="bfloat16"), reference=MovingAverage(0.1)), pairs())
    with pytest.raises(InputError, match="this data brings none"):
        fit(dpo(reference=AsDrawn()), pairs())
    with pytest.raises(InputError, match=r"only at temperature 1.*ResetEvery\(rounds=1\)"):
        fit(dpo(reference=AsDrawn()), preference_rounds(drawing=drawing(tmp_path, temperature=1.3)))
