"""The outer loop of online methods: order, length, staleness, redraws and going on."""

import pytest
import torch

from lit_posttrain import collate
from lit_posttrain.batches import Experience, PromptBatch
from lit_posttrain.contracts import Reuse
from lit_posttrain.data.steps import Cut
from lit_posttrain.data.stream import ExperienceStream
from lit_posttrain.errors import InputError
from lit_posttrain.objectives.weights import TokenMean


def experience(index, sequences=6):
    sizes = [2 + (i + index) % 3 for i in range(sequences)]
    base = collate.from_lists([[index + 1] * n for n in sizes], [[j > 0 for j in range(n)] for n in sizes], 0)
    zeros = torch.zeros(base.input_ids.shape)
    return Experience(
        **vars(base), sampled_logprobs=zeros, old_logprobs=zeros.clone(), advantages=zeros + 1.0,
        rewards=torch.zeros(sequences), graded=torch.ones(sequences, dtype=torch.bool),
        group=torch.arange(sequences) // 2, stop=torch.zeros(sequences, dtype=torch.int64),
        policy_version=torch.full((sequences,), index), temperature=1.0,
    )  # fmt: skip


class ScriptedMethod:
    """Collects experiences by number; those in `empty` have no signal."""

    def __init__(self, reuse=Reuse(), empty=(), needs_scoring=False):
        self.reuse, self.weighting, self.needs_scoring = reuse, TokenMean(), needs_scoring
        self.empty, self.events, self.stopped = set(empty), [], None

    def collect(self, prompts, index):
        self.events.append(("collect", index))
        return None if index in self.empty else experience(index)

    def score(self, batch):
        self.events.append(("score", batch.sequences))
        batch.old_logprobs = batch.input_ids * -0.5

    def stop(self, reason):
        self.stopped = reason


def stream(method, **options):
    settings = {"cut": Cut(2), "rollouts": 3}
    return ExperienceStream(method, lambda i: PromptBatch([], []), **(settings | options))


def test_length_is_exact_and_nothing_is_collected_ahead():
    method = ScriptedMethod(Reuse(epochs=2, minibatches=3))
    one = stream(method)
    assert len(one) == 3 * 2 * 3 * 2
    for i, _ in enumerate(one):
        assert method.events == [("collect", n) for n in range(i // 12 + 1)]
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
    versions = [int(b.policy_version[0]) for b in one]
    assert versions == [2, 2, 3, 3]
    assert one.redrawn == 2


def test_nothing_to_learn_at_the_start_is_an_error_and_later_the_end():
    with pytest.raises(InputError, match="nothing to learn"):
        list(stream(ScriptedMethod(empty=range(100)), max_redraws=3))
    method = ScriptedMethod(empty=range(1, 100))
    assert len(list(stream(method, max_redraws=3))) == 2
    assert "nothing left" in method.stopped


@pytest.mark.parametrize("packed", [False, True])
def test_scores_come_from_the_micro_batches_of_the_first_pass(packed):
    method = ScriptedMethod(Reuse(epochs=2, minibatches=2), needs_scoring=True)
    batches = list(stream(method, rollouts=1, cut=Cut(2, packed, 12)))
    assert [e[0] for e in method.events] == ["collect"] + ["score"] * 4
    for batch in batches:
        real = batch.segments > 0
        assert torch.equal(batch.old_logprobs[real], batch.input_ids[real] * -0.5)


@pytest.mark.parametrize("stop", [1, 3, 4, 5, 11])
def test_going_on_gives_the_same_batches_without_collecting_again(stop):
    reuse = Reuse(epochs=2, minibatches=1)
    everything = [b.to_state() for b in stream(ScriptedMethod(reuse))]
    first = stream(ScriptedMethod(reuse))
    iterator = iter(first)
    for _ in range(stop):
        next(iterator)
    method = ScriptedMethod(reuse)
    second = stream(method)
    second.load_state_dict(first.state_dict())
    rest = [b.to_state() for b in second]
    assert len(rest) == len(everything) - stop
    for left, right in zip(rest, everything[stop:], strict=True):
        assert all(torch.equal(torch.as_tensor(left[k]), torch.as_tensor(right[k])) for k in right)
    assert ("collect", 0) not in method.events


def test_an_empty_trailing_step_is_silent():
    method = ScriptedMethod(Reuse(minibatches=8))
    batches = list(stream(method, rollouts=1, cut=Cut(1)))
    assert len(batches) == 8
    assert sum(float(b.weights.sum()) > 0 for b in batches) == 6
