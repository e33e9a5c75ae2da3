import pytest
import torch

from lit_posttrain.batches import Completion, Problem, PromptBatch, Request, SampleKey, Sampling, StopReason
from lit_posttrain.contracts import Outcome, RolloutEngine, Strategy
from lit_posttrain.errors import InputError
from lit_posttrain.test_time import Sample, solve_all


class Echo(RolloutEngine):
    """Answers with the problem, the sample's number and the last token of the prefix."""

    def __init__(self):
        self.calls = []

    def generate(self, requests, finished=None):
        self.calls.append([request.key.uid for request in requests])
        return [[self.one(request, i) for i in range(request.n)] for request in requests]

    def one(self, request, i):
        text = f"{request.key.uid}{request.key.first_sample + i}:{request.prefix[-1]}"
        return Completion(torch.tensor([i]), torch.zeros(1), StopReason.EOS, text)


class Rounds(Strategy):
    """Asks as many times as the prompt is long, each time for what came before; then answers."""

    def solve(self, problem, prompt_ids):
        drawn = []
        for round_number in range(len(prompt_ids)):
            requests = [
                Request(
                    [*prompt_ids, round_number], SampleKey(0, problem.uid, 10 * round_number + i), Sampling()
                )
                for i in range(2)
            ]
            (first,), (second,) = yield requests
            drawn += [first, second]
        return Outcome(drawn, chosen=len(drawn) - 1)


def prompts(*lengths):
    problems = [Problem((), None, name) for name in "abc"[: len(lengths)]]
    return PromptBatch(problems, [[7] * length for length in lengths])


def test_samples_keep_problem_and_order():
    engine = Echo()
    outcomes = solve_all(Sample(n=2), prompts(1, 1), engine)
    assert [[c.text for c in outcome.completions] for outcome in outcomes] == [
        ["a0:7", "a1:7"],
        ["b0:7", "b1:7"],
    ]
    assert [outcome.chosen for outcome in outcomes] == [None, None]
    assert engine.calls == [["a", "b"]]


def test_problems_of_different_depth_share_each_round():
    engine = Echo()
    outcomes = solve_all(Rounds(), prompts(2, 0, 1), engine)
    assert engine.calls == [["a", "a", "c", "c"], ["a", "a"]]
    assert [c.text for c in outcomes[0].completions] == ["a0:0", "a1:0", "a10:1", "a11:1"]
    assert [c.text for c in outcomes[2].completions] == ["c0:0", "c1:0"]
    assert [outcome.chosen for outcome in outcomes] == [3, -1, 1]


def test_no_samples_are_refused():
    with pytest.raises(InputError, match="n is 0"):
        Sample(n=0)
