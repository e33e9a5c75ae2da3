"""The outer loop of online methods: order, length, redraws and going on."""

import dataclasses

import pytest
import torch
from scripted_rollouts import ScriptedMethod, experience, learn, same, stream

from lit_posttrain.contracts import OnlineMethod, Reuse
from lit_posttrain.data.steps import Cut
from lit_posttrain.errors import InputError


def test_the_scripted_method_is_one():
    assert isinstance(ScriptedMethod(), OnlineMethod)


def test_length_is_exact_and_nothing_is_collected_ahead():
    method = ScriptedMethod(Reuse(epochs=2, minibatches=3))
    one = stream(method)
    assert len(one) == 3 * 2 * 3 * 2
    for i, _ in enumerate(one):
        assert method.events == [
            (what, n) for r in range(i // 12 + 1) for what, n in (("collect", r), ("settle", 6))
        ]
    assert i + 1 == len(one)


def test_every_step_has_weight_one_and_every_sequence_is_used_once_a_pass():
    method = ScriptedMethod(Reuse(epochs=1, minibatches=3))
    batches = list(stream(method, rollouts=1))
    for step in range(3):
        assert sum(float(b.weights.sum()) for b in batches[2 * step : 2 * step + 2]) == pytest.approx(
            1, abs=1e-6
        )
    assert sum(b.sequences for b in batches) == 6


def test_prompt_batches_without_signal_are_passed_over():
    method = ScriptedMethod(empty={0, 1})
    one = stream(method, rollouts=2)
    numbers = [int(b.input_ids[0, 0]) - 1 for b in one]
    assert numbers == [2, 2, 3, 3]
    assert one.collector.redrawn == 2
    assert [n for _, n in method.recorded("rollout/refill_draws")] == [3, 1]


def test_nothing_to_learn_at_the_start_is_an_error_and_later_the_end():
    with pytest.raises(InputError, match="nothing to learn"):
        list(stream(ScriptedMethod(empty=range(100)), collector={"max_redraws": 3}))
    method = ScriptedMethod(empty=range(1, 100))
    assert len(list(stream(method, collector={"max_redraws": 3}))) == 2
    assert method.stopped == "4 prompt batches in a row had nothing left to learn from"


@pytest.mark.parametrize("packed", [False, True])
def test_scores_come_from_the_micro_batches_of_the_first_pass_and_are_settled_as_a_whole(packed):
    method = ScriptedMethod(Reuse(epochs=2, minibatches=2), needs_scoring=True)
    batches = list(stream(method, rollouts=1, cut=Cut(2, packed, 12)))
    assert [e[0] for e in method.events] == ["collect", *["score"] * 4, "settle"]
    assert method.events[-1] == ("settle", 6)
    for batch in batches:
        real = batch.segments > 0
        assert torch.equal(batch.old_logprobs[real], batch.input_ids[real] * -0.5)
        assert torch.equal(batch.advantages[real], batch.input_ids[real] * 0.5)


@pytest.mark.parametrize("stop", [1, 3, 4, 5, 11])
def test_going_on_gives_the_same_batches_without_collecting_again(stop):
    reuse = Reuse(epochs=2, minibatches=1)
    method = ScriptedMethod(reuse)
    everything = learn(stream(method), method)
    method = ScriptedMethod(reuse)
    first = stream(method)
    learn(first, method, stop)
    later = ScriptedMethod(reuse)
    later.step = method.step
    second = stream(later)
    second.load_state_dict(first.state_dict())
    assert same(learn(second, later), everything[stop:])
    assert ("collect", 0) not in later.events


def test_an_empty_trailing_step_is_silent():
    method = ScriptedMethod(Reuse(minibatches=8))
    batches = list(stream(method, rollouts=1, cut=Cut(1)))
    assert len(batches) == 8
    assert sum(float(b.weights.sum()) > 0 for b in batches) == 6


def test_what_is_not_counted_has_no_weight_and_a_step_of_it_is_silent():
    class Uncounted(ScriptedMethod):
        """The second group is not counted, nor is one of the third."""

        def collect(self, prompts, index):
            counted = torch.tensor([True, True, False, False, True, False])
            collected = super().collect(prompts, index)
            return dataclasses.replace(
                collected, experience=dataclasses.replace(collected.experience, counted=counted)
            )

    batches = list(stream(Uncounted(Reuse(minibatches=3)), rollouts=1, cut=Cut(1)))
    by_group = {int(b.group[0]): b for b in batches}
    assert float(by_group[1].weights.abs().sum()) == 0
    assert int(by_group[1].mask.sum()) == int(experience(0).mask[2:4].sum())
    assert [float(by_group[g].weights.sum()) for g in (0, 2)] == pytest.approx([1, 1], abs=1e-6)
    silent = ~by_group[2].counted
    assert float(by_group[2].weights[silent].abs().sum()) == 0
    assert bool(by_group[2].mask[silent].any())


def test_a_checkpoint_of_an_older_version_is_refused_with_a_reason():
    with pytest.raises(InputError, match="written before rollouts could be drawn ahead"):
        stream(ScriptedMethod()).load_state_dict({"drawn": 1, "redrawn": 0, "rollout": 0, "pending": None})


def test_after_the_end_it_is_tried_again_when_asked_again():
    method = ScriptedMethod(empty=range(1, 5))
    one = stream(method, collector={"max_redraws": 3})
    assert len(list(one)) == 2
    assert len(list(one)) == 4
    assert [n for what, n in method.events if what == "collect"] == list(range(7))
