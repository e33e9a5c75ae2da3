import math

import pytest
import torch
from fakes import KeepBatches, KeepGradients, difference, tiny, trainer
from reward_cases import data_of, reward

from lit_posttrain.batches import PreferenceBatch, StepBatch, TokenBatch
from lit_posttrain.checkpoints.io import FolderIO
from lit_posttrain.errors import InputError
from lit_posttrain.methods import Bootstrap, RewardModule
from lit_posttrain.methods.bootstrap import pair_keys
from lit_posttrain.methods.ensemble import judged_pairs, judged_steps
from lit_posttrain.methods.held_out_scores import by_solution
from lit_posttrain.networks import LoraSettings, ScoreHead
from lit_posttrain.objectives.preference import BradleyTerry
from lit_posttrain.objectives.rankings import PlackettLuce, Regression

KINDS = ("pairs", "ranked", "steps")


def fitted(module, data, steps=4, **arguments):
    """The trainer after a run, and the gradients of its steps."""
    kept = KeepGradients()
    fitting = trainer(max_steps=steps, callbacks=[kept], log_every_n_steps=1, **arguments)
    fitting.fit(module, datamodule=data)
    return fitting, kept.steps


def weights(module):
    return {name: p.detach().clone() for name, p in module.policy.named_parameters()}


def two_pairs() -> PreferenceBatch:
    """Sequences of 2, 3, 3 and 2 tokens; pair 0 is (1, 0), pair 1 is (2, 3)."""
    segments = torch.tensor([[1, 1, 0], [2, 2, 2], [3, 3, 3], [4, 4, 0]])
    ids = torch.tensor([[3, 4, 0], [3, 5, 6], [7, 8, 9], [7, 3, 0]])
    positions = torch.arange(3).expand(4, 3)
    mask = (segments > 0) & (positions > 0)
    share = torch.tensor([0.25, 0.25, 0.75, 0.75])
    return PreferenceBatch(
        ids, segments, positions, mask, mask / 6, pair=torch.tensor([0, 0, 1, 1]),
        chosen=torch.tensor([False, True, True, False]), margin=torch.tensor([0.5, 0.5, 0, 0]), share=share,
    )  # fmt: skip


def test_ensemble_of_two_by_hand():
    """The members' margins are 2 - 1, 0 - 1 for pair 0 and 0, 3 for pair 1; pair 0 asks for 1/2 more."""
    scores = torch.tensor([[1.0, 1.0], [2.0, 0.0], [1.0, 2.0], [1.0, -1.0]])
    judged = judged_pairs(scores, two_pairs(), BradleyTerry(), None)

    def loss(margin: float) -> float:
        return math.log1p(math.exp(-margin))

    expected = [(loss(0.5) + loss(-1.5)) / 2, (loss(0) + loss(3)) / 2]
    assert judged.losses.tolist() == pytest.approx(expected, abs=1e-6)
    assert judged.weights.tolist() == [0.25, 0.75]
    stats = {name: value.tolist() for name, value in judged.stats.items()}
    assert stats["preference/margin"] == [0.0, 1.5]  # of the mean scores 1 - 1 and 1.5 - 0
    assert stats["preference/accuracy"] == [0.5, 1.0]
    assert stats["preference/score_mean"] == [1.0, 0.75]
    assert stats["preference/score_spread"] == [0.5, 0.75]  # spreads 1, 0 and 0.5, 1
    assert stats["preference/longer_wins"] == [0.5, 1.0]
    assert stats["preference/confidence"] == pytest.approx([0.5, 1 / (1 + math.exp(-1.5))])


def test_steps_by_hand():
    """Three steps, of which the second has no label: it gives neither loss nor gradient."""
    ends = torch.tensor([[False, True, True, True]])
    known = torch.tensor([[False, True, False, True]])
    labels = torch.tensor([[0.0, 1.0, 0.0, 0.25]])
    ones = torch.ones(1, 4, dtype=torch.int64)
    weights = known.float() / 2
    batch = StepBatch(ones, ones, torch.arange(4)[None], known, weights, step_ends=ends, step_labels=labels)
    scores = torch.tensor([[0.0], [9.0], [1.0]], requires_grad=True)
    judged = judged_steps(scores, batch)
    soft = math.log1p(math.exp(1.0)) - 0.25  # softplus(s) - y s
    assert judged.losses[0].tolist() == pytest.approx([0, math.log(2), 0, soft], abs=1e-6)
    assert judged.stats["preference/step_accuracy"][0].tolist() == [0, 0.5, 0, 0]
    (judged.losses * judged.weights).sum().backward()
    assert scores.grad is not None
    sure = 1 / (1 + math.exp(-1.0))
    assert scores.grad[:, 0].tolist() == pytest.approx([-0.25, 0, (sure - 0.25) / 2], abs=1e-6)
    chances, gold = by_solution(scores.detach()[:, 0], batch)
    assert gold == [[1.0, None, 0.25]]
    assert chances[0] == pytest.approx([0.5, 1 / (1 + math.exp(-9)), sure], abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_packing_and_accumulation_give_the_same_gradients(kind):
    def module():
        return reward(optimizer=lambda p: torch.optim.SGD(p, lr=0.01))

    _, plain = fitted(module(), data_of(kind))
    _, packed = fitted(module(), data_of(kind, packed=True, row_tokens=64))
    _, parts = fitted(module(), data_of(kind), accumulate_grad_batches=3)
    assert len(plain) == 4
    for step, others in enumerate(zip(packed, parts, strict=True)):
        largest = max(float(g.abs().max()) for g in plain[step].values())
        assert largest > 1e-2
        for other in others:
            assert difference(plain[step], other) < 3e-6 * max(1.0, largest)


@pytest.mark.parametrize("kind", KINDS)
def test_learns_and_logs(kind):
    module = reward(optimizer=lambda p: torch.optim.AdamW(p, lr=3e-3))
    every = {"limit_val_batches": 1.0, "check_val_every_n_epoch": 1}
    data = data_of(kind, validation_split="train")
    first = fitted(module, data, steps=5, **every)[0].callback_metrics["val/loss"]
    module = reward(optimizer=lambda p: torch.optim.AdamW(p, lr=3e-3))
    found = fitted(module, data, steps=60, **every)[0].callback_metrics
    assert found["val/loss"] < 0.7 * first
    assert found["val/score_spread"] > 0
    figures = {"steps": {"val/step_f1", "val/processbench_f1", "preference/step_accuracy"}}
    pairs = {"val/preference_accuracy", "val/calibration_error", "val/calibration_temperature"}
    assert figures.get(kind, pairs) <= found.keys()
    right = "val/step_f1" if kind == "steps" else "val/preference_accuracy"
    assert found[right] > 0.8


def test_regression_learns_the_grades_and_ranking_only_their_order():
    found = {}
    for name, loss in (("grades", Regression()), ("order", PlackettLuce())):
        module = reward(optimizer=lambda p: torch.optim.AdamW(p, lr=3e-3), ranking=loss)
        fitting, _ = fitted(module, data_of("ranked"), steps=60)
        found[name] = fitting.callback_metrics
    assert found["grades"]["preference/score_error"] < 0.2
    assert "preference/score_error" not in found["order"]


def test_bootstrap_counts_follow_from_the_pair_alone():
    batch = two_pairs()
    keys = pair_keys(batch)
    moved = PreferenceBatch(
        *(getattr(batch, name)[[2, 3, 0, 1]] for name in ("input_ids", "segments", "position_ids", "mask", "weights")),
        pair=torch.tensor([0, 0, 1, 1]), chosen=torch.tensor([True, False, False, True]),
        margin=batch.margin, share=batch.share,
    )  # fmt: skip
    moved.segments = torch.tensor([[1, 1, 1], [2, 2, 0], [3, 3, 0], [4, 4, 4]])
    assert torch.equal(pair_keys(moved), keys.flip(0))
    swapped = two_pairs()
    swapped.chosen = ~swapped.chosen
    assert not set(pair_keys(swapped).tolist()) & set(keys.tolist())
    assert torch.equal(Bootstrap(1).counts(keys, 3)[:, :2], Bootstrap(1).counts(keys, 2))


def test_bootstrap_is_poisson_with_mean_one():
    counts = Bootstrap().counts(torch.arange(100_000), 2)
    assert counts.mean(0).tolist() == pytest.approx([1, 1], abs=0.02)
    assert float((counts == 0).float().mean()) == pytest.approx(math.exp(-1), abs=0.01)
    assert float((counts == 2).float().mean()) == pytest.approx(math.exp(-1) / 2, abs=0.01)
    assert abs(float(torch.corrcoef(counts.T)[0, 1])) < 0.02
    assert not torch.equal(counts, Bootstrap(7).counts(torch.arange(100_000), 2))


def test_bootstrap_weighs_each_members_losses():
    scores, batch = torch.randn(4, 2), two_pairs()
    plain = [judged_pairs(scores[:, [k]], batch, BradleyTerry(), None).losses for k in (0, 1)]
    counts = Bootstrap(3).counts(pair_keys(batch), 2)
    drawn = judged_pairs(scores, batch, BradleyTerry(), Bootstrap(3)).losses
    assert (drawn - (counts * torch.stack(plain, 1)).mean(1)).abs().max() < 1e-6


@pytest.mark.parametrize("lora", [None, LoraSettings(rank=2)], ids=["full", "lora"])
def test_resumed_is_not_stopped(tmp_path, lora):
    def module():
        network = tiny(head=ScoreHead(2), lora=lora)
        return reward(network=network, optimizer=lambda p: torch.optim.AdamW(p, lr=3e-3))

    whole, _ = fitted(module(), data_of(), steps=6, plugins=[FolderIO()])
    stopped, _ = fitted(module(), data_of(), steps=3, plugins=[FolderIO()])
    stopped.save_checkpoint(tmp_path / "half.ckpt")
    resumed = trainer(max_steps=6, plugins=[FolderIO()])
    resumed.fit(module(), datamodule=data_of(), ckpt_path=tmp_path / "half.ckpt")
    ends = [weights(one.lightning_module) for one in (whole, resumed)]
    assert difference(*ends) == 0
    start = module()
    start.configure_model()
    assert difference(ends[0], weights(start)) > 1e-3


def test_flops_and_tokens_are_booked():
    module, kept = reward(), KeepBatches()
    fitting = trainer(max_steps=2, callbacks=[kept])
    fitting.fit(module, datamodule=data_of())
    spent = module.ledger.training
    assert spent.trained_tokens == sum(int((b.weights != 0).sum()) for b in kept.batches)
    assert spent.positions == sum(b.input_ids.numel() for b in kept.batches)
    assert spent.flops > 2 * 3 * 12_000 * spent.positions  # two layers of about 6,900 weights, thrice


def test_what_is_no_reward_model_is_refused():
    with pytest.raises(InputError, match=r"set network\.head"):
        RewardModule(tiny(), reward().text)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"heads ≥ 2"):
        reward(ScoreHead(1), bootstrap=Bootstrap())
    batch = two_pairs()
    plain = TokenBatch(batch.input_ids, batch.segments, batch.position_ids, batch.mask, batch.weights)
    with pytest.raises(InputError, match="given a TokenBatch"):
        reward().judge(torch.zeros(4, 2), plain, None)
