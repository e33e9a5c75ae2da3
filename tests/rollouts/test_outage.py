"""Graders that are out of order: the run pauses, learns nothing meanwhile, and goes on as if nothing had been."""

import logging
import threading
from dataclasses import replace

import pytest
import torch
from fakes import TEXT, DigitCount, grpo, prompt_data, prompts, trainer

from lit_posttrain.batches import Completion, Grade, Problem, Sampling, StopReason, Verdict
from lit_posttrain.contracts import Patience, RolloutEngine
from lit_posttrain.errors import InputError
from lit_posttrain.interruption import Interrupted
from lit_posttrain.ledger import Ledger
from lit_posttrain.rollouts import draw
from lit_posttrain.rollouts.outage import outlast
from lit_posttrain.text import load_text

DOWN = Grade(None, None, Verdict.SANDBOX_ERROR, note="the fork server does not start")
GOOD = Grade(1.0, True, Verdict.PASS)
BRIEF = Patience(first_wait_s=0.01)


class Failing(DigitCount):
    """Gives this grade to everything in the calls of these numbers, in place of its own."""

    def __init__(self, calls: set[int], instead: Grade = DOWN) -> None:
        self.calls, self.instead, self.count = calls, instead, 0

    def grade(self, items):
        self.count += 1
        return [self.instead] * len(items) if self.count in self.calls else super().grade(items)


def test_only_what_is_out_is_asked_for_again():
    asked = []

    def again(places):
        asked.append(list(places))
        return [GOOD if len(asked) > 1 or place == 1 else DOWN for place in places]

    wrong = Grade(0.0, False, Verdict.WRONG_ANSWER)
    grades = outlast([wrong, DOWN, DOWN, GOOD], again, BRIEF)
    assert asked == [[1, 2], [2]]
    assert grades == [wrong, GOOD, GOOD, GOOD]


def test_a_small_share_is_masked_without_a_pause():
    grades = [DOWN, *[GOOD] * 19]
    assert outlast(grades, lambda places: pytest.fail("asked again"), BRIEF) == grades


def test_what_the_gold_answer_or_a_faulty_grader_causes_is_no_outage():
    grades = [replace(DOWN, verdict=v) for v in (Verdict.GOLD_UNPARSEABLE, Verdict.GRADER_ERROR)]
    assert outlast(grades, lambda places: pytest.fail("asked again"), BRIEF) == grades


def test_giving_up_ends_the_run_with_the_reason():
    with pytest.raises(Interrupted, match=r"2 of 2 answers could not be graded.*does not start.*gave up"):
        outlast([DOWN, DOWN], lambda places: [DOWN] * len(places), Patience(0.05, 0.01, 0.1))


def weights_after(grader, caplog):
    with caplog.at_level(logging.WARNING):
        module = grpo(grader=grader, group_size=8)
        module.rollouts = replace(module.rollouts, patience=BRIEF)
        trainer(max_steps=3).fit(module, datamodule=prompt_data())
    return module, [p.detach().clone() for p in module.policy.parameters()]


def test_a_run_through_an_outage_is_the_run_without_it(caplog):
    module, undisturbed = weights_after(Failing(set()), caplog)
    assert "pauses" not in caplog.text
    calls = module.grader.count
    other, disturbed = weights_after(Failing({1, 2, calls // 3 + 3, calls // 3 + 4}), caplog)
    assert "training pauses" in caplog.text
    assert "training goes on" in caplog.text
    assert other.grader.count > calls
    assert float(other.trainer.callback_metrics["rollout/ungraded_fraction"]) == 0
    assert all(torch.equal(a, b) for a, b in zip(undisturbed, disturbed, strict=True))


def test_a_grader_that_always_raises_stops_the_run_with_what_it_said():
    class Faulty(DigitCount):
        def grade(self, items):
            raise ZeroDivisionError("division by zero")

    with pytest.raises(InputError, match="ZeroDivisionError: division by zero"):
        trainer(max_steps=2).fit(grpo(grader=Faulty()), datamodule=prompt_data())


class Slow(RolloutEngine):
    """Tells of 64 completions and waits until one of them is graded before it writes the others."""

    def __init__(self, graded: threading.Event) -> None:
        self.graded, self.waited = graded, False

    def generate(self, requests, finished=None):
        groups = []
        for place, request in enumerate(requests):
            group = [
                Completion(torch.tensor([5]), torch.zeros(1), StopReason.LENGTH, str(i))
                for i in range(request.n)
            ]
            groups.append(group)
            for number in reversed(range(request.n) if place < 64 // request.n else []):
                finished(place, number, group[number])
        self.waited = self.graded.wait(20)
        return groups


class Noting(DigitCount):
    """Rewards every completion with its number and its problem's place."""

    def __init__(self) -> None:
        self.graded = threading.Event()

    def grade(self, items: list[tuple[Problem, Completion]]) -> list[Grade]:
        self.graded.set()
        return [Grade(float(c.text) + 100 * int(p.uid), True, Verdict.CORRECT) for p, c in items]


def test_grading_begins_while_completions_are_written_and_keeps_their_places():
    grader, batch = Noting(), prompts(load_text(TEXT), 20)
    problems = [replace(p, uid=str(i)) for i, p in enumerate(batch.problems)]
    engine = Slow(grader.graded)
    answers = draw(
        engine,
        grader,
        replace(batch, problems=problems),
        sampling=Sampling(max_new_tokens=1),
        n=8,
        seed=0,
        ledger=Ledger(),
    )
    assert engine.waited, "nothing was graded before the engine had written all"
    assert [[a.grade.reward for a in group] for group in answers] == [
        [100.0 * place + number for number in range(8)] for place in range(20)
    ]
