"""DPO on batches: the loss is that of each pair alone, however the step is cut; what does not fit is refused."""

import math

import pytest
import torch
from fakes import KeepBatches, KeepGradients, difference, tiny, trainer
from preference_parts import completions, dpo, pairs
from torch.nn.functional import logsigmoid

from lit_posttrain.data import ReferenceCache
from lit_posttrain.errors import InputError
from lit_posttrain.methods.references import Fixed, MovingAverage, ResetEvery
from lit_posttrain.networks import LoraSettings, NetworkConfig, build
from lit_posttrain.objectives.completions import Averaged, Desensitised, Summed
from lit_posttrain.objectives.pair_terms import WithLikelihood
from lit_posttrain.objectives.preference import Sigmoid
from lit_posttrain.objectives.reference_free import SimPO
from lit_posttrain.objectives.unpaired import KTO
from lit_posttrain.text import TextConfig, load_text

OTHER = Fixed(tiny(seed=1))
"""A reference that is not the policy, so that nothing is 0 by accident."""
KINDS = {
    "sigmoid": lambda: (dpo(reference=OTHER), pairs),
    "simpo": lambda: (dpo(loss=SimPO()), pairs),
    "ld": lambda: (dpo(reference=OTHER, logprobs=Desensitised(0.3)), pairs),
    "likelihood": lambda: (dpo(reference=OTHER, loss=WithLikelihood(weight=0.5)), pairs),
    "kto": lambda: (dpo(reference=OTHER, loss=KTO(beta=0.3)), completions),
}


def step(kind, *, k=1, **data):
    """Gradients and logged values of one step of all rows."""
    module, make = KINDS[kind]()
    keep = KeepGradients()
    size = {"batch_pairs": 8} if make is pairs else {"batch_completions": 16}
    fitting = trainer(max_steps=1, accumulate_grad_batches=k, callbacks=[keep])
    fitting.fit(module, datamodule=make(8, **size, **data))
    return keep.steps[0], {name: float(value) for name, value in fitting.callback_metrics.items()}


def alone(network, ids, prompt, factors=None):
    """The log-prob of a completion from a plain forward of the one sequence."""
    logits = network.model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
    each = logits[:-1].gather(-1, torch.tensor(ids[1:])[:, None])[prompt - 1 :, 0]
    return (each * (torch.ones_like(each) if factors is None else factors)).sum()


def rows_of(batch):
    """Ids and prompt length of both sides of each pair."""
    chosen, rejected = batch.sides()
    sides = []
    for side in (chosen, rejected):
        rows = [(batch.input_ids[r, : int((batch.segments[r] > 0).sum())].tolist(), r) for r in side.tolist()]
        sides.append([(ids, int(batch.mask[r].int().argmax())) for ids, r in rows])
    return list(zip(*sides, strict=True))


@pytest.mark.parametrize("alpha", [1.0, 0.25])
def test_loss_and_gradient_are_those_of_every_pair_alone(alpha):
    how = Summed() if alpha == 1 else Desensitised(alpha)
    keep, batches = KeepGradients(), KeepBatches()
    module = dpo(reference=OTHER, loss=Sigmoid(beta=0.7), logprobs=how)
    fitting = trainer(max_steps=1, callbacks=[keep, batches])
    fitting.fit(module, datamodule=pairs(6, batch_pairs=6))
    policy, reference = build(tiny()), build(tiny(seed=1))
    losses, weights = [], []
    for (good, prompt), (bad, _) in rows_of(batches.batches[0]):
        shared = min(len(good), len(bad)) - prompt
        ratio = 0.0
        for ids, sign in ((good, 1), (bad, -1)):
            factors = torch.where(torch.arange(len(ids) - prompt) < shared, 1.0, alpha)
            ours = alone(policy, ids, prompt, factors)
            with torch.no_grad():
                theirs = alone(reference, ids, prompt, factors)
            ratio = ratio + sign * (ours - theirs)
        losses.append(-logsigmoid(0.7 * ratio))
        weights.append(0.7 * torch.sigmoid(-0.7 * ratio.detach()))
    mean = torch.stack(losses).mean()
    mean.backward()
    loss = float(mean.detach())
    logged = fitting.callback_metrics
    assert float(logged["train/loss"]) == pytest.approx(loss, abs=1e-6)
    assert float(logged["preference/gradient_weight"]) == pytest.approx(
        float(torch.stack(weights).mean()), abs=1e-6
    )
    expected = {name: p.grad for name, p in policy.named_parameters()}
    assert difference(keep.steps[0], expected) < 1e-6
    assert max(float(g.abs().max()) for g in expected.values()) > 1e-3


def test_drift_accuracy_and_kl_are_those_of_the_pairs():
    module, batches = dpo(reference=OTHER, loss=Sigmoid(beta=0.7)), KeepBatches()
    fitting = trainer(max_steps=1, callbacks=[batches])
    fitting.fit(module, datamodule=pairs(6, batch_pairs=6))
    policy, reference = build(tiny()), build(tiny(seed=1))
    drifts, right = [], []
    with torch.no_grad():
        for two in rows_of(batches.batches[0]):
            ratio = [alone(policy, ids, n) - alone(reference, ids, n) for ids, n in two]
            drifts.append([r / (len(ids) - n) for r, (ids, n) in zip(ratio, two, strict=True)])
            right.append(float(ratio[0] > ratio[1]))
    good, bad = torch.tensor(drifts).mean(0).tolist()
    logged = fitting.callback_metrics
    assert float(logged["preference/drift_chosen_nats"]) == pytest.approx(good, abs=1e-6)
    assert float(logged["preference/drift_rejected_nats"]) == pytest.approx(bad, abs=1e-6)
    assert float(logged["preference/accuracy"]) == pytest.approx(sum(right) / 6, abs=1e-6)
    assert float(logged["policy/kl_reference_nats"]) > 0


@pytest.mark.parametrize("kind", KINDS)
def test_one_micro_batch_of_a_step_equals_five_and_packed_equals_padded(kind):
    whole, told = step(kind)
    assert max(float(g.abs().max()) for g in whole.values()) > 1e-4
    for k, packed in ((5, False), (1, True), (3, True)):
        gradients, values = step(kind, k=k, packed=packed)
        assert difference(whole, gradients) < 1e-6, (k, packed)
        shown = {name: value for name, value in values.items() if not name.startswith("time")}
        assert all(value == pytest.approx(told[name], abs=2e-5) for name, value in shown.items())


def test_more_micro_batches_than_pairs():
    whole, parts = step("sigmoid")[0], step("sigmoid", k=11)[0]
    assert difference(whole, parts) < 1e-6


def test_the_estimate_of_the_kl_is_that_of_all_mismatched_completions_of_the_step():
    module, batches = dpo(reference=OTHER, loss=KTO(beta=0.3)), KeepBatches()
    fitting = trainer(max_steps=1, callbacks=[batches])
    fitting.fit(module, datamodule=completions(8, batch_completions=16))
    (batch,) = batches.batches
    policy, reference = build(tiny()), build(tiny(seed=1))
    ratios = []
    for row in batch.mismatched.nonzero().squeeze(-1).tolist():
        ids = batch.input_ids[row, : int((batch.segments[row] > 0).sum())].tolist()
        prompt = int(batch.mask[row].int().argmax())
        with torch.no_grad():
            ratios.append(float(alone(policy, ids, prompt) - alone(reference, ids, prompt)))
    assert len(ratios) == 16
    told = float(fitting.callback_metrics["preference/kl_mismatched_nats"])
    assert told == pytest.approx(sum(ratios) / 16, abs=1e-5)


def test_a_policy_that_is_its_reference_has_loss_ln_2_and_ties():
    fitting = trainer(max_steps=1)
    fitting.fit(dpo(), datamodule=pairs())
    logged = {name: float(value) for name, value in fitting.callback_metrics.items()}
    assert logged["train/loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert logged["preference/accuracy"] == 0.5
    assert logged["preference/margin"] == 0


def test_held_out_pairs_are_measured_over_all_of_them_however_they_are_batched():
    module, told = dpo(reference=OTHER), []
    for size in (7, 24):
        data = pairs(validation_split="validation", batch_pairs=size)
        told += trainer(limit_val_batches=1.0).validate(module, datamodule=data, verbose=False)
    assert told[0].keys() == {"val/loss", "val/preference_accuracy"}
    assert told[0] == pytest.approx(told[1], abs=1e-6)
    assert 0 < told[0]["val/preference_accuracy"] < 1


def test_under_adapters_the_reference_is_the_network_without_them():
    module = dpo(tiny(lora=LoraSettings(rank=4)))
    trainer(max_steps=3).fit(module, datamodule=pairs())
    assert module.reference._second == ()
    assert module.reference.digest(module) == module.policy.base_digest


def test_a_loss_without_reference_loads_none():
    module = dpo(loss=SimPO())
    trainer(max_steps=1).fit(module, datamodule=pairs())
    assert "reference" not in dict(module.named_modules())


def test_what_does_not_belong_together_is_refused(tmp_path):
    with pytest.raises(InputError, match="SimPO takes averaged log-probs, and logprobs is Summed"):
        dpo(loss=SimPO(), logprobs=Summed())
    with pytest.raises(InputError, match="WithLikelihood takes summed"):
        dpo(loss=WithLikelihood(), logprobs=Averaged())
    with pytest.raises(InputError, match="has one only"):
        dpo(loss=KTO(), logprobs=Desensitised())
    with pytest.raises(InputError, match="loss of single completions, and the data holds pairs"):
        trainer(max_steps=1).fit(dpo(loss=KTO()), datamodule=pairs())
    with pytest.raises(InputError, match="loss of pairs, and the data holds single completions"):
        trainer(max_steps=1).fit(dpo(), datamodule=completions())
    with pytest.raises(InputError, match="alpha is a factor"):
        Desensitised(1.5)


def test_log_probs_follow_from_the_loss():
    assert dpo(loss=SimPO()).objective.logprobs == Averaged()
    assert dpo().objective.logprobs == Summed()
    assert dpo(logprobs=Averaged()).objective.logprobs == Averaged()  # length-normalised DPO


def cached(tmp_path, reference=OTHER, name=None, **arguments):
    data = pairs(reference_cache=ReferenceCache(str(tmp_path), name), **arguments)
    keep = KeepGradients()
    module = dpo(reference=reference)
    trainer(max_steps=1, callbacks=[keep]).fit(module, datamodule=data)
    return module, keep.steps[0]


def test_cached_log_probs_give_the_same_step_and_are_computed_once(tmp_path):
    keep = KeepGradients()
    trainer(max_steps=1, callbacks=[keep]).fit(dpo(reference=OTHER), datamodule=pairs())
    first, gradients = cached(tmp_path)
    assert difference(keep.steps[0], gradients) < 1e-6
    scored = first.ledger.spent["scoring"].positions
    assert scored > 0
    second, again = cached(tmp_path)
    assert difference(gradients, again) == 0
    assert second.ledger.spent["scoring"].positions == 0
    assert second.reference._second == ()  # not held while training


def test_cached_log_probs_of_another_model_are_refused(tmp_path):
    cached(tmp_path, name="mine")
    with pytest.raises(InputError, match="belong to another reference"):
        cached(tmp_path, Fixed(tiny(seed=2)), name="mine")


@pytest.mark.parametrize("reference", [MovingAverage(0.1), ResetEvery(steps=2)])
def test_log_probs_of_a_reference_that_moves_are_not_kept(tmp_path, reference):
    with pytest.raises(InputError, match="will not stay as it is"):
        cached(tmp_path, reference)
    data = pairs(reference_cache=ReferenceCache(str(tmp_path)))
    with pytest.raises(InputError, match="compares with no reference"):
        trainer(max_steps=1).fit(dpo(loss=SimPO()), datamodule=data)


def test_a_reference_with_another_vocabulary_is_refused(tmp_path):
    small = Fixed(tiny(shape={"vocab_size": 8}))
    with pytest.raises(InputError, match="embeddings for 8 tokens"):
        trainer(max_steps=1).fit(dpo(reference=small), datamodule=pairs())
    network = build(tiny())
    network.model.save_pretrained(tmp_path)
    load_text(TextConfig(characters="9876543210=+")).save(tmp_path)
    with pytest.raises(InputError, match=r"another vocabulary than the policy: \d+ tokens differ"):
        trainer(max_steps=1).fit(dpo(reference=Fixed(NetworkConfig(path=str(tmp_path)))), datamodule=pairs())
