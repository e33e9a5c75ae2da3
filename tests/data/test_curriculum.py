"""Which problems stay: pass rates by hand, the order without those that left, and the end."""

import pytest
import torch
from scripted_rollouts import ScriptedMethod, endless, learn, same, stream

from lit_posttrain.batches import Problem, PromptBatch
from lit_posttrain.contracts import Attempt, Reuse
from lit_posttrain.data.collecting import Collector
from lit_posttrain.data.curriculum import NoPositiveResampling, PassRates, Went, by_difficulty
from lit_posttrain.data.problem_order import ProblemOrder
from lit_posttrain.errors import InputError
from lit_posttrain.keys import digest

PROBLEMS = [Problem((), None, f"p{i}") for i in range(5)]


def uids(problems):
    return [problem.uid for problem in problems]


def test_a_problem_leaves_at_the_threshold():
    rule = NoPositiveResampling()
    assert [rule.keeps(Attempt("a", 10, correct)) for correct in (0, 8, 9, 10)] == [True, True, False, False]
    assert not rule.keeps(Attempt("a", 20, 18))
    assert rule.keeps(Attempt("a", 8, 7))


@pytest.mark.parametrize("threshold", [0.0, -0.5, 1.01])
def test_a_threshold_that_means_nothing_is_refused(threshold):
    with pytest.raises(InputError, match=r"curriculum\.threshold"):
        NoPositiveResampling(threshold)


def test_history_by_hand():
    rates = PassRates()
    first = rates.observe(
        [Attempt("a", 4, 1), Attempt("b", 0, 0), Attempt("c", 2, 2)], NoPositiveResampling()
    )
    assert all(torch.tensor(one.rate_before).isnan() for one in first)
    second = rates.observe([Attempt("a", 4, 3), Attempt("a", 0, 0)], NoPositiveResampling())
    assert [one.rate_before for one in second] == [0.25, 0.75]
    assert rates.left == {"c"}
    state = rates.to_state()
    assert state["uids"] == ["a", "b", "c"]
    assert state["attempts"].tolist() == [3, 1, 1]
    assert state["judged"].tolist() == [8, 0, 2]
    assert state["correct"].tolist() == [4, 0, 2]
    assert state["rate"].nan_to_num(-1).tolist() == [0.75, -1, 1]
    assert state["left"].tolist() == [False, False, True]
    again = PassRates.from_state(state)
    assert again.left == rates.left
    assert again.to_state()["rate"].nan_to_num(-1).tolist() == [0.75, -1, 1]
    assert rates.to_state() is state
    rates.observe([Attempt("b", 1, 0)], None)
    assert rates.to_state()["attempts"].tolist() == [3, 2, 1]
    assert state["attempts"].tolist() == [3, 1, 1]


def test_without_a_curriculum_nobody_leaves():
    rates = PassRates()
    rates.observe([Attempt("a", 4, 4)], None)
    assert not rates.left
    assert rates.records["a"].rate == 1


def test_pass_rates_by_difficulty_by_hand():
    """Thirds themselves are in the middle: (1 + 3) of (4 + 4); hard 0 of 2; nothing was easy."""
    went = [
        Went(Attempt("a", 4, 1), 1 / 3),
        Went(Attempt("b", 4, 3), 2 / 3),
        Went(Attempt("c", 2, 0), 0.0),
        Went(Attempt("d", 2, 2), float("nan")),
        Went(Attempt("e", 0, 0), 1.0),
    ]
    assert by_difficulty(went) == {
        "rollout/pass_rate_middle_fraction": 0.5,
        "rollout/pass_rate_hard_fraction": 0.0,
    }
    assert by_difficulty([Went(Attempt("a", 4, 3), 0.7)]) == {"rollout/pass_rate_easy_fraction": 0.75}


def test_the_order_is_a_permutation_per_pass_keyed_by_seed_and_pass():
    order = ProblemOrder(PROBLEMS, seed=7)
    for number in (0, 1, 2):
        generator = torch.Generator().manual_seed(digest(7, "problems", number))
        expected = [f"p{i}" for i in torch.randperm(5, generator=generator).tolist()]
        assert uids(order.at(5 * number + i) for i in range(5)) == expected


def test_those_that_left_are_passed_over_and_the_others_keep_their_order():
    order = ProblemOrder(PROBLEMS, seed=3)
    row = uids(order.at(place) for place in range(20))
    left = {"p1", "p4"}
    kept = [uid for uid in row if uid not in left]
    place, seen = 0, []
    for _ in range(3):
        chosen, place = order.after(place, 4, left)
        seen += uids(chosen)
    assert seen == kept[:12]
    assert place == row.index(seen[-1], place - 1) + 1
    assert order.after(0, 3)[1] == 3


def test_one_problem_that_stays_is_found_and_none_ends():
    for seed in range(20):
        order = ProblemOrder(PROBLEMS, seed)
        assert uids(order.after(seed, 3, {"p0", "p1", "p2", "p3"})[0]) == ["p4"] * 3
    assert order.after(0, 3, {"p0", "p1", "p2", "p3", "p4"})[0] == []


def prompts(place, left, count=2):
    chosen, behind = ORDER.after(place, count, left)
    return PromptBatch(chosen, [[1]] * len(chosen)), behind


ORDER = ProblemOrder(PROBLEMS, seed=1)


class Pupil(ScriptedMethod):
    """Solves a problem in 5 of 10 when it is first drawn, in all when it is drawn for the second time."""

    def __init__(self, **options):
        super().__init__(**options)
        self.drawn = []
        self.attempts = self._go

    def _go(self, prompts, index):
        for problem in prompts.problems:
            self.drawn.append(problem.uid)
            yield Attempt(problem.uid, 10, 5 * min(2, self.drawn.count(problem.uid)))


def test_training_ends_when_all_problems_have_left():
    method = Pupil()
    one = stream(method, prompts=prompts, rollouts=99, collector={"curriculum": NoPositiveResampling()})
    learn(one, method)
    assert {uid: method.drawn.count(uid) for uid in uids(PROBLEMS)} == dict.fromkeys(uids(PROBLEMS), 2)
    assert method.stopped == "all 5 problems have left by the curriculum NoPositiveResampling(threshold=0.9)"
    retired = [n for _, n in method.recorded("rollout/retired_problems")]
    assert retired == sorted(retired)
    assert retired[-1] == 5


def test_without_a_curriculum_places_and_draws_are_as_ever():
    seen = []

    def noted(place, left):
        seen.append((place, set(left)))
        return endless(place, left)

    method = ScriptedMethod(attempts=lambda prompts, index: [Attempt(prompts.problems[0].uid, 8, 8)])
    learn(stream(method, prompts=noted), method)
    assert seen == [(0, set()), (1, set()), (2, set())]
    assert method.recorded("rollout/retired_problems") == []


def test_the_history_goes_on_after_a_stop():
    def run(method):
        return stream(
            method, prompts=prompts, rollouts=4, staleness=1, collector={"curriculum": NoPositiveResampling()}
        )

    whole = Pupil(reuse=Reuse(minibatches=2))
    everything = learn(run(whole), whole)
    for stop in range(1, len(everything)):
        before, after = Pupil(reuse=Reuse(minibatches=2)), Pupil(reuse=Reuse(minibatches=2))
        first, second = run(before), run(after)
        seen = learn(first, before, stop)
        second.load_state_dict(first.state_dict())
        after.step, after.drawn = before.step, list(before.drawn)
        assert same(seen + learn(second, after), everything)
        assert after.drawn == whole.drawn
        assert before.records + after.records == whole.records


def test_a_grader_that_tells_no_right_from_wrong_is_refused():
    method = ScriptedMethod(attempts=lambda prompts, index: [Attempt("a", 0, 0)])
    with pytest.raises(InputError, match="called none of a rollout right or wrong"):
        list(stream(method, collector={"curriculum": NoPositiveResampling()}))
    assert len(list(stream(ScriptedMethod(attempts=method.attempts)))) == 6


@pytest.mark.parametrize("now", [None, NoPositiveResampling(0.5)])
def test_another_curriculum_is_refused(now):
    then = Collector(ScriptedMethod(), endless, problems=3, curriculum=NoPositiveResampling())
    with pytest.raises(InputError, match=r"data\.curriculum NoPositiveResampling\(threshold=0\.9\)"):
        Collector(ScriptedMethod(), endless, problems=3, curriculum=now).load_state_dict(then.state_dict())
