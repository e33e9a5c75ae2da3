"""What a rollout was like: shares of verdicts, counted by hand."""

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
