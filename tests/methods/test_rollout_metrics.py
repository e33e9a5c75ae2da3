"""What a rollout was like: shares of verdicts, lengths and rewards, counted by hand."""

from dataclasses import replace

import pytest
import torch

from lit_posttrain.batches import OUTAGE_VERDICTS, Answer, Completion, Grade, Problem, StopReason, Verdict
from lit_posttrain.methods.rollout_metrics import rollout_metrics, verdict_fractions
from lit_posttrain.names import known

PROBLEM = Problem(({"role": "user", "content": "double n"},), None, "double")
COMPLETION = Completion(torch.tensor([1, 2]), torch.zeros(2), StopReason.EOS, "n+n")


def answer(verdict: Verdict, reward: float | None = 0.0) -> Answer:
    correct = None if reward is None else reward == 1
    return Answer(PROBLEM, COMPLETION, Grade(reward, correct, verdict))


def test_verdict_fractions_by_hand():
    """Of eight completions three pass, two are wrong, one raises, one runs too long, one was lost by us."""
    answers = [answer(Verdict.PASS, 1.0)] * 3 + [answer(Verdict.WRONG_ANSWER)] * 2
    answers += [answer(Verdict.RUNTIME_ERROR), answer(Verdict.TIMEOUT), answer(Verdict.SANDBOX_ERROR, None)]
    assert verdict_fractions(answers) == {
        "grading/pass_fraction": 0.375,
        "grading/wrong_answer_fraction": 0.25,
        "grading/runtime_error_fraction": 0.125,
        "grading/timeout_fraction": 0.125,
        "grading/sandbox_error_fraction": 0.125,
        "grading/grader_error_fraction": 0.0,
        "grading/grader_timeout_fraction": 0.0,
    }


def test_failures_of_ours_are_told_even_where_there_are_none():
    told = verdict_fractions([answer(Verdict.CORRECT, 1.0)])
    assert told.pop("grading/correct_fraction") == 1
    assert told == {f"grading/{verdict}_fraction": 0.0 for verdict in OUTAGE_VERDICTS}


@pytest.mark.parametrize("verdict", Verdict)
def test_every_verdict_has_a_metric_name(verdict):
    for name in verdict_fractions([answer(verdict)]):
        known(name)


def test_rollout_metrics_hold_the_verdicts_of_all_groups():
    groups = [
        [answer(Verdict.PASS, 1.0), answer(Verdict.REJECTED)],
        [answer(Verdict.SANDBOX_ERROR, None), answer(Verdict.PASS, 1.0)],
    ]
    rewards, graded = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[True, True], [False, True]])
    told = rollout_metrics(groups, rewards, graded, lowest=0.0)
    assert told["grading/pass_fraction"] == 0.5
    assert told["grading/rejected_fraction"] == 0.25
    assert told["grading/sandbox_error_fraction"] == told["rollout/ungraded_fraction"] == 0.25
    shares = [value for name, value in told.items() if name.startswith("grading/")]
    assert sum(shares) == pytest.approx(1, abs=1e-6)


def of(
    tokens: int, *, stop=StopReason.EOS, injected: bool = False, advantage: float | None = None, **grade
) -> Answer:
    marks = torch.tensor([False] * (tokens - 1) + [True]) if injected else None
    drawn = Completion(torch.zeros(tokens, dtype=torch.int64), torch.zeros(tokens), stop, "n", marks)
    told = {"reward": 0.0, "correct": None, "verdict": Verdict.PARTIAL} | grade
    return Answer(PROBLEM, drawn, Grade(**told), advantage)


def metrics_of(groups: list[list[Answer]]) -> dict[str, float]:
    rewards = torch.tensor([[a.grade.reward or 0.0 for a in group] for group in groups])
    graded = torch.tensor([[a.grade.reward is not None for a in group] for group in groups])
    told = rollout_metrics(groups, rewards, graded, lowest=0.0)
    assert [known(name) for name in told] == list(told)
    return told


def test_lengths_of_all_and_of_those_that_ended_by_themselves():
    """Of 3, 5, 4, 9 and 6 tokens 9 were cut and 6 interrupted: 3, 5 and 4 are left."""
    told = metrics_of(
        [
            [of(3), of(5, stop=StopReason.STOP_STRING), of(4), of(9, stop=StopReason.LENGTH)],
            [of(6, injected=True), of(3), of(5), of(4)],
        ]
    )
    wanted = {
        "rollout/length_mean_tokens": 39 / 8,
        "rollout/length_min_tokens": 3,
        "rollout/length_max_tokens": 9,
        "rollout/finished_length_mean_tokens": 4,
        "rollout/finished_length_min_tokens": 3,
        "rollout/finished_length_max_tokens": 5,
        "rollout/truncated_fraction": 1 / 8,
        "rollout/interrupted_fraction": 1 / 8,
    }
    assert {name: told[name] for name in wanted} == pytest.approx(wanted, abs=1e-9)


def test_where_none_ended_by_itself_there_is_no_such_length():
    told = metrics_of([[of(9, stop=StopReason.LENGTH), of(6, injected=True)]])
    assert not any("finished" in name for name in told)
    nothing_put_in = replace(of(3).completion, injected=torch.zeros(3, dtype=torch.bool))
    told = metrics_of([[replace(of(3), completion=nothing_put_in), of(3)]])
    assert told["rollout/interrupted_fraction"] == 0
    assert told["rollout/finished_length_mean_tokens"] == 3


def test_deviations_of_rewards_and_of_their_parts():
    """The rewards 1, 3 have the deviation sqrt 2, the rewards 2, 2 none, and one alone is no group to compare; the
    part 2, 4, 0, 6, 3 has the mean 3 and, 20 / 5 being its variance, the deviation 2."""
    groups = [
        [of(1, reward=1.0, parts={"a": 2.0}), of(1, reward=3.0, parts={"a": 4.0})],
        [of(1, reward=2.0, parts={"a": 0.0}), of(1, reward=2.0, parts={"a": 6.0, "b": 5.0})],
        [of(1, reward=None, parts={"a": 100.0}), of(1, reward=7.0, parts={"a": 3.0})],
    ]
    told = metrics_of(groups)
    assert told["reward/group_standard_deviation"] == pytest.approx(2**0.5 / 2, abs=1e-6)
    assert told["reward/mean"] == pytest.approx(3.0, abs=1e-6)
    assert told["reward/standard_deviation"] == pytest.approx((22 / 5) ** 0.5, abs=1e-6)
    assert (told["reward/a"], told["reward/b"]) == (3.0, 5.0)
    assert told["reward/a_standard_deviation"] == pytest.approx(2.0, abs=1e-9)
    assert told["reward/b_standard_deviation"] == 0


def test_without_a_grade_there_are_no_deviations():
    told = metrics_of([[of(1, reward=None), of(1, reward=None)]])
    assert not any(name.startswith("reward/") for name in told)
    assert told["rollout/ungraded_fraction"] == 1


def test_effective_samples_are_those_of_the_advantages_that_are_known():
    """(3 + 1)^2 / (9 + 1) is 1.6; a completion that teaches nothing changes nothing."""
    groups = [[of(1, advantage=3.0), of(1, advantage=-1.0)], [of(1, advantage=0.0), of(1, advantage=0.0)]]
    assert metrics_of(groups)["rollout/effective_samples"] == pytest.approx(1.6, abs=1e-6)
    assert "rollout/effective_samples" not in metrics_of([[of(1), of(1)]])
