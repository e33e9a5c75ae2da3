"""Pairs of graded candidates, and the rounds in which they are drawn and learned from."""

import pytest
import torch
from fakes import TEXT, DigitCount, Numbers, grpo, tiny, trainer
from preference_parts import dpo, pairs, preference_rounds

from lit_posttrain.batches import (
    Answer,
    Completion,
    Grade,
    Problem,
    PromptBatch,
    Sampling,
    StopReason,
    Verdict,
)
from lit_posttrain.candidates import Candidate, Cost, Origin
from lit_posttrain.contracts import Drawing, DrawingMethod
from lit_posttrain.data import ChatData
from lit_posttrain.data.pairing import BestWithWorst, ByMargin, pair
from lit_posttrain.data.preference_stream import PairRounds, PreferenceStream, PreferringMethod
from lit_posttrain.data.steps import Cut
from lit_posttrain.errors import InputError
from lit_posttrain.methods import SFTModule

DRAWING = Drawing(DigitCount(), Sampling(max_new_tokens=6), samples=4)


def candidate(reward, *, problem="a", sample=0, tokens=None):
    """A completion of the prompt 3, 4; its log-probs are -1, -2 …"""
    asked = Problem(({"role": "user", "content": "1"},), "1", problem, "s")
    ids = torch.tensor(tokens or [10 + sample])
    completion = Completion(ids, -torch.arange(1.0, len(ids) + 1), StopReason.EOS, "x")
    grade = Grade(reward, None, Verdict.CORRECT if reward is not None else Verdict.GRADER_ERROR)
    return Candidate(Answer(asked, completion, grade), [3, 4], Origin("p"), Cost(1), sample)


def of_problem(rewards, problem="a"):
    return [candidate(reward, problem=problem, sample=i) for i, reward in enumerate(rewards)]


def numbers(pairs):
    return [(one.chosen.sample, one.rejected.sample, one.margin) for one in pairs]


def test_best_goes_with_worst_and_among_equals_the_first():
    assert numbers(BestWithWorst()(of_problem([0.5, 2.0, 0.0, 2.0, 0.0]))) == [(1, 2, 2.0)]
    assert BestWithWorst()(of_problem([1.0, 1.0])) == []


def test_pairs_by_margin_come_largest_first():
    group = of_problem([0.5, 2.0, 0.0, 2.0])
    assert numbers(ByMargin()(group)) == [(1, 2, 2.0), (3, 2, 2.0), (1, 0, 1.5), (3, 0, 1.5), (0, 2, 0.5)]
    assert numbers(ByMargin(minimum=1.5)(group)) == [(1, 2, 2.0), (3, 2, 2.0), (1, 0, 1.5), (3, 0, 1.5)]
    assert numbers(ByMargin(most=1)(group)) == [(1, 2, 2.0)]
    assert ByMargin(minimum=3.0)(group) == []
    for wrong in ({"minimum": -1.0}, {"most": -1}):
        with pytest.raises(InputError, match="0 or more"):
            ByMargin(**wrong)


def test_ties_ungraded_and_equal_tokens_are_counted():
    candidates = [
        *of_problem([1.0, None, 0.0, 1.0], "a"),
        *of_problem([1.0, 1.0, None], "tied"),
        *of_problem([None, None], "ungraded"),
        *of_problem([1.0, 0.5], "near"),
        candidate(1.0, problem="alike", tokens=[7]),
        candidate(0.0, problem="alike", tokens=[7]),
    ]
    found = pair(candidates, ByMargin(minimum=0.75))
    assert numbers(found.pairs) == [(0, 2, 1.0), (3, 2, 1.0)]
    assert (found.came, found.problems, found.ungraded) == (13, 5, 4)
    assert (found.tied, found.other, found.alike) == (2, 2, 1)
    assert found.metrics() == {
        "rollout/pairs": 2.0,
        "rollout/paired_fraction": pytest.approx(0.2),
        "rollout/tied_fraction": 0.4,
    }
    assert "2 problems with one and the same reward" in found.in_words("round 0")


class ScriptedMethod:
    """Draws four completions for each of five problems: tokens tell round, problem and sample."""

    reference_as_drawn = False

    def __init__(self, empty=()):
        self.empty, self.events, self.stopped, self.recorded = set(empty), [], None, []

    def draw(self, prompts, drawing, index, seed):
        self.events.append(("draw", index, seed))
        return [
            candidate(
                0.0 if index in self.empty else float(i % 2),
                problem=f"{p}",
                sample=i,
                tokens=[20 + index] * (1 + p) + [40 + i],
            )
            for p in range(5)
            for i in range(4)
        ]

    def begin_round(self, number):
        self.events.append(("begin", number))

    def record(self, values):
        self.recorded.append(values)

    def stop(self, reason):
        self.stopped = reason


def stream(method, *, cut=Cut(2), **settings):
    rounds = PairRounds(**({"count": 3, "problems": 5, "steps": 4} | settings))
    return PreferenceStream(method, lambda i: PromptBatch([], []), DRAWING, rounds, cut=cut, pad_id=0)


def rows(batch):
    """Ids of both sides of each pair that counts."""
    chosen, rejected = batch.sides()
    lengths = (batch.segments > 0).sum(1)
    return [
        tuple(batch.input_ids[row, : lengths[row]].tolist() for row in two)
        for two in zip(chosen.tolist(), rejected.tolist(), strict=True)
        if batch.share[two[0]] > 0
    ]


def test_length_is_exact_and_each_round_is_drawn_when_it_begins():
    method = ScriptedMethod()
    one = stream(method, batch_pairs=3)
    assert len(one) == 3 * 4 * 2
    for i, _ in enumerate(one):
        begun = i // 8 + 1
        assert [e[:2] for e in method.events] == [
            (kind, n) for n in range(begun) for kind in ("draw", "begin")
        ]
    assert i + 1 == len(one)
    assert len({e[2] for e in method.events if e[0] == "draw"}) == 3  # seeds
    assert [values["rollout/pairs"] for values in method.recorded] == [5.0] * 3


def test_pairs_are_learned_from_as_they_were_drawn():
    batches = list(stream(ScriptedMethod(), count=1, steps=2))
    seen = [two for batch in batches for two in rows(batch)]
    expected = [([3, 4] + [20] * (1 + p) + [41], [3, 4] + [20] * (1 + p) + [40]) for p in range(5)]
    assert sorted(seen) == sorted(expected)  # each once
    for step in (0, 1):
        both = batches[2 * step : 2 * step + 2]
        assert sum(float(b.share[b.chosen].sum()) for b in both) == pytest.approx(1, abs=1e-6)
        assert sum(float(b.weights.sum()) for b in both) == pytest.approx(1, abs=1e-6)
    assert all(float(margin) == 1 for b in batches for margin in b.margin)


def test_steps_of_a_fixed_size_take_pairs_again_or_leave_some_out():
    again = [two for batch in stream(ScriptedMethod(), count=1, batch_pairs=5) for two in rows(batch)]
    assert sorted(map(str, again)) == sorted([str(two) for two in {str(t): t for t in again}.values()] * 4)
    few = [two for batch in stream(ScriptedMethod(), count=1, steps=1, batch_pairs=2) for two in rows(batch)]
    assert len(few) == 2


def test_a_step_without_pairs_changes_nothing():
    batches = list(stream(ScriptedMethod(), count=1, steps=7))
    assert len(batches) == 14
    counts = [sum(len(rows(b)) for b in batches[2 * i : 2 * i + 2]) for i in range(7)]
    assert counts == [1] * 5 + [0] * 2
    assert all(float(b.weights.abs().sum() + b.share.abs().sum()) == 0 for b in batches[10:])


def test_log_probs_as_drawn_stand_where_their_tokens_stand():
    method = ScriptedMethod()
    method.reference_as_drawn = True
    for packed in (False, True):
        for batch in stream(method, count=1, steps=2, cut=Cut(1, packed, 20)):
            first = batch.reference_logprobs[batch.mask]
            place = (batch.position_ids[batch.mask] - 1).float()  # prompts have two tokens
            assert torch.equal(first, -place)
            assert float(batch.reference_logprobs[~batch.mask].abs().sum()) == 0


def test_rounds_without_pairs_are_drawn_again_until_there_is_no_hope():
    method = ScriptedMethod(empty={1, 2})
    assert len(list(stream(method))) == 24
    assert [e[:2] for e in method.events] == [
        ("draw", 0), ("begin", 0), ("draw", 1), ("draw", 2), ("draw", 3), ("begin", 1), ("draw", 4), ("begin", 2),
    ]  # fmt: skip
    method = ScriptedMethod(empty={1, 2})
    assert len(list(stream(method, max_redraws=1))) == 8
    assert "2 drawings in a row gave no pair" in method.stopped
    with pytest.raises(
        InputError, match=r"nothing to learn from: round 0: 20 candidates.*\n.*5 problems with one"
    ):
        list(stream(ScriptedMethod(empty={0, 1}), max_redraws=1))


@pytest.mark.parametrize("stop", [1, 7, 8, 9, 17, 23])
@pytest.mark.parametrize("packed", [False, True])
def test_going_on_gives_the_same_batches_without_drawing_again(stop, packed):
    cut, drawn = Cut(2, packed, 20), ScriptedMethod()
    drawn.reference_as_drawn = packed
    everything = [b.to_state() for b in stream(drawn, cut=cut)]
    first = stream(drawn, cut=cut)
    iterator = iter(first)
    for _ in range(stop):
        next(iterator)
    method = ScriptedMethod()
    method.reference_as_drawn = packed
    second = stream(method, cut=cut)
    second.load_state_dict(first.state_dict())
    rest = [b.to_state() for b in second]
    assert len(rest) == len(everything) - stop
    for left, right in zip(rest, everything[stop:], strict=True):
        assert all(torch.equal(left[k], right[k]) for k in right)
    assert [e[1] for e in method.events if e[0] == "begin"] == list(range(-(-stop // 8), 3))


def test_settings_that_make_no_sense_are_refused():
    for wrong in ({"count": 0}, {"problems": 0}, {"steps": 0}):
        with pytest.raises(InputError, match="at least 1"):
            PairRounds(**wrong)
    with pytest.raises(InputError, match="0 or more"):
        PairRounds(batch_pairs=-1)
    with pytest.raises(InputError, match="samples >= 2"):
        preference_rounds(drawing=Drawing(DigitCount(), samples=1))


@pytest.mark.filterwarnings(
    "ignore:You passed in a `val_dataloader`", "ignore:You defined a `validation_step`"
)
def test_methods_and_data_that_do_not_belong_together_are_refused():
    assert isinstance(dpo(), PreferringMethod)
    assert not isinstance(dpo(), DrawingMethod)
    assert not isinstance(SFTModule(tiny(), TEXT), PreferringMethod)
    for other in (grpo(), SFTModule(tiny(), TEXT)):
        with pytest.raises(InputError, match="does not learn from pairs of its own"):
            trainer(max_steps=1).fit(other, datamodule=preference_rounds())
    with pytest.raises(InputError, match="learns from pairs or single completions"):
        trainer(max_steps=1).fit(dpo(), datamodule=ChatData(Numbers(), validation_split=None))
    with pytest.raises(InputError, match="draws its own answers"):
        trainer(max_steps=1).fit(grpo(), datamodule=pairs())


def test_one_round_after_the_other_is_one_run():
    """Three rounds of an epoch are three epochs of one round."""
    ends = []
    for rounds in ({"count": 3}, {"count": 1}):
        module = dpo()
        trainer(max_steps=6).fit(module, datamodule=preference_rounds(**rounds))
        ends.append([p.detach().clone() for p in module.policy.parameters()])
    assert all(torch.equal(left, right) for left, right in zip(*ends, strict=True))
