"""Labels from rollouts against the exact chances of a tabular policy, and the search for first errors."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
import torch

from lit_posttrain import keys
from lit_posttrain.batches import Completion, Grade, Problem, Request, Sampling, StopReason, Verdict
from lit_posttrain.contracts import Grader, RolloutEngine
from lit_posttrain.data.formats import StepwiseRow, named
from lit_posttrain.errors import InputError
from lit_posttrain.ledger import Ledger, Phase
from lit_posttrain.rollouts import (
    RolloutSettings,
    Solution,
    StepRollouts,
    StepValue,
    first_errors,
    step_values,
)
from lit_posttrain.rollouts.error_search import Finding, FirstError
from lit_posttrain.rollouts.step_values import counted
from lit_posttrain.solution_steps import StepFormat, StepReader
from lit_posttrain.text import TextConfig, load_text

TEXT = load_text(TextConfig(characters="0123=,x"))
READER = StepReader(TEXT, StepFormat(separator=","))
LENGTH = 4
MOVES = torch.tensor(
    [[0.5, 0.3, 0.2, 0.0], [0.1, 0.6, 0.2, 0.1], [0.3, 0.0, 0.4, 0.3], [0.0, 0.0, 0.0, 1.0]],
    dtype=torch.float64,
)
GOAL = 1


def exact(state: int, left: int) -> float:
    """The chance to be at the goal after this many more moves."""
    return float(torch.linalg.matrix_power(MOVES, left)[state, GOAL])


@dataclass
class Walker(RolloutEngine):
    """A tabular policy: each step of a solution is the next state; state 3 is never left."""

    ledger: Ledger
    prefixes: list[str] = field(default_factory=list)

    def generate(self, requests: Sequence[Request], finished=None) -> list[list[Completion]]:
        return [self._walks(request) for request in requests]

    def _walks(self, request: Request) -> list[Completion]:
        text = TEXT.decode(request.prefix)
        self.prefixes.append(text)
        steps = text.partition("=")[2].split(",")[:-1]
        rows = keys.row_keys([request.key], [request.n])
        states = torch.full((request.n,), int(steps[-1]) if steps else 0)
        drawn = []
        for position in range(LENGTH - len(steps)):
            moves = MOVES[states].cumsum(-1)
            states = (keys.uniforms(rows, position)[:, None] >= moves).sum(-1)
            drawn.append(states)
        self.ledger.add(generated_tokens=request.n * len(drawn))
        texts = [",".join(map(str, walk)) for walk in torch.stack(drawn, 1).tolist()]
        return [
            Completion(torch.zeros(1, dtype=torch.int64), torch.zeros(1), StopReason.EOS, one)
            for one in texts
        ]


@dataclass
class AtGoal(Grader):
    """Right where the last of all states is the goal; sees to it that whole solutions come."""

    seen: list[tuple[str, str]] = field(default_factory=list)

    def grade(self, items):
        return [self._one(problem, completion) for problem, completion in items]

    def _one(self, problem: Problem, completion: Completion) -> Grade:
        self.seen.append((problem.uid, completion.text))
        states = completion.text.strip(",").split(",")
        assert len(states) == LENGTH
        right = states[-1] == str(GOAL)
        return Grade(float(right), right, Verdict.CORRECT if right else Verdict.INCORRECT)


def rollouts(samples: int = 8, seed: int = 0, grader: Grader | None = None) -> StepRollouts:
    ledger = Ledger()
    settings = RolloutSettings(Sampling(max_new_tokens=16), samples, seed)
    return StepRollouts(Walker(ledger), grader or AtGoal(), READER, ledger, settings)


def solution(steps: str, uid: str = "walk") -> Solution:
    return Solution(Problem(({"role": "user", "content": "0="},), None, uid), tuple(steps))


def test_soft_labels_agree_with_the_exact_chances():
    walks = [solution("0121"), solution("2021"), solution("1130")]
    samples = 2500
    found = step_values(rollouts(samples), walks)
    gaps = []
    for walk, values in zip(walks, found, strict=True):
        for number, value in enumerate(values[:-1]):
            chance = exact(int(walk.steps[number]), LENGTH - number - 1)
            assert value.graded == samples
            assert value.soft is not None
            if chance in (0.0, 1.0):
                assert value.soft == chance
                continue
            error = math.sqrt(chance * (1 - chance) / samples)
            assert value.standard_error == pytest.approx(error, rel=0.1)
            gaps.append((value.soft - chance) / error)
    assert len(gaps) == 6  # three more are exactly 0
    assert max(map(abs, gaps)) < 3
    assert 0.3 < math.sqrt(sum(gap**2 for gap in gaps) / len(gaps)) < 1.6  # as wide as the errors say


def test_the_end_of_a_finished_solution_is_its_own_grade():
    right, wrong = step_values(rollouts(), [solution("0121"), solution("0122")])
    assert (right[-1], wrong[-1]) == (StepValue(1, 1), StepValue(0, 1))
    assert math.isnan(right[-1].standard_error)


def test_hard_labels_have_the_stated_bias():
    samples, draws = 4, 1500
    sampler = rollouts(samples)
    walks = [solution("0121", uid=f"walk {i}") for i in range(draws)]
    values = sampler.values([(walk, 2) for walk in walks])
    chance = exact(1, 2)
    biased = 1 - (1 - chance) ** samples
    assert biased - chance > 0.4
    hard = sum(value.hard or 0.0 for value in values) / draws
    soft = sum(value.soft or 0.0 for value in values) / draws
    assert hard == pytest.approx(biased, abs=4 * math.sqrt(biased * (1 - biased) / draws))
    assert soft == pytest.approx(chance, abs=4 * math.sqrt(chance * (1 - chance) / draws / samples))


def test_a_beginning_is_drawn_once_and_the_cost_is_booked():
    sampler = rollouts(samples=8)
    walks = [solution("0121"), solution("0111"), solution("0121")]
    step_values(sampler, walks)
    assert isinstance(sampler.engine, Walker)
    assert sorted(sampler.engine.prefixes) == ["0=0,", "0=0,1,", "0=0,1,1,", "0=0,1,2,"]
    assert sampler.drawn == 4 * 8
    spent = sampler.ledger.spent
    assert spent[Phase.ROLLOUT].generated_tokens == 8 * (3 + 2 + 1 + 1)
    assert spent[Phase.GRADING].seconds > 0
    step_values(sampler, walks)
    assert sampler.drawn == 4 * 8


def test_the_grader_sees_whole_solutions_of_the_given_problem():
    grader = AtGoal()
    rollouts(samples=2, grader=grader).values([(solution("0121"), 3), (solution("0121"), 4)])
    assert {uid for uid, _ in grader.seen} == {"walk"}
    assert all(text.startswith("0,1,2,") for _, text in grader.seen)
    assert len(grader.seen) == 3


def test_draws_do_not_depend_on_what_else_is_asked_for():
    alone = rollouts().values([(solution("0121"), 2)])
    together = rollouts().values([(solution("2021"), 1), (solution("0121"), 1), (solution("0121"), 2)])
    assert together[-1:] == alone
    others = [rollouts(64, seed).values([(solution("0121"), 2)])[0].correct for seed in range(4)]
    assert len(set(others)) > 1


def test_what_cannot_be_graded_is_in_no_count():
    gold = Grade(None, None, Verdict.GOLD_UNPARSEABLE)
    right, wrong = Grade(1.0, True, Verdict.CORRECT), Grade(0.0, False, Verdict.TIMEOUT)
    assert counted([gold, right, wrong, gold]) == StepValue(1, 2)
    assert counted([gold]).soft is counted([gold]).hard is None
    with pytest.raises(InputError, match="does not say what is correct"):
        counted([Grade(0.4, None, Verdict.PARTIAL)])


def test_a_solution_that_cannot_be_written_has_no_value(caplog):
    walk = Solution(solution("01").problem, ("0", "?", "1", "1"), finished=True)
    values = rollouts(samples=2).values([(walk, 1), (walk, 2), (walk, 3)])
    assert [value.graded for value in values] == [2, 0, 0]
    assert "2 beginnings of solutions cannot be gone on with" in caplog.text
    with pytest.raises(InputError):
        rollouts().values([(Solution(Problem(({"role": "user", "content": "?"},), None, "odd"), ("0",)), 0)])


class Recovering(Walker):
    """Never fails to reach the goal from the states 0, 1 and 2, and never reaches it from 3."""

    def _walks(self, request: Request) -> list[Completion]:
        text = TEXT.decode(request.prefix)
        self.prefixes.append(text)
        steps = text.partition("=")[2].split(",")[:-1]
        end = "3" if "3" in steps else str(GOAL)
        rest = ",".join([end] * (LENGTH - len(steps)))
        one = Completion(torch.zeros(1, dtype=torch.int64), torch.zeros(1), StopReason.EOS, rest)
        return [one] * request.n


def searching() -> StepRollouts:
    sampler = rollouts(samples=2)
    sampler.engine = Recovering(sampler.ledger)
    return sampler


@pytest.mark.parametrize(
    ("steps", "labels"),
    [
        ("3333", [0.0, None, None, None]),
        ("0333", [1.0, 0.0, None, None]),
        ("0133", [1.0, 1.0, 0.0, None]),
        ("0123", [1.0, 1.0, 1.0, 0.0]),
        ("0121", [1.0, 1.0, 1.0, 1.0]),
    ],
)
def test_halving_finds_the_first_error_wherever_it_is(steps, labels):
    (found,) = first_errors(searching(), [solution(steps)])
    assert found.labels == labels
    assert found.finding is (Finding.NO_ERROR if 0.0 not in labels else Finding.ERROR)


def test_halving_goes_on_from_few_beginnings(monkeypatch):
    monkeypatch.setitem(globals(), "LENGTH", 32)
    sampler = searching()
    walks = [solution("0" * first + "3" * (32 - first), uid=str(first)) for first in range(32)]
    assert [found.step for found in first_errors(sampler, walks)] == list(range(32))
    assert sampler.drawn <= 2 * (32 * 5 + 1)  # log2(32), and the prompt for an error in the first step
    assert sampler.drawn >= 2 * 32 * 5


def test_a_problem_that_is_too_hard_is_no_error_of_the_first_step(monkeypatch):
    sampler = searching()
    monkeypatch.setattr(
        AtGoal, "grade", lambda self, items: [Grade(0.0, False, Verdict.INCORRECT)] * len(items)
    )
    (found,) = first_errors(sampler, [solution("0123")])
    assert found.finding is Finding.TOO_HARD
    assert found.labels == [None] * 4


def test_a_search_without_grades_says_so():
    class Silent(AtGoal):
        def grade(self, items):
            return [Grade(None, None, Verdict.GOLD_UNPARSEABLE) for _ in items]

    (found,) = first_errors(rollouts(grader=Silent()), [solution("0121")])
    assert found == FirstError(Finding.UNGRADED, 4)
    assert found.labels == [None] * 4


def test_records_are_rows_of_the_stepwise_layout():
    row = solution("01").record([1.0, None])
    read = named("stepwise", list(row)).read(row)
    assert isinstance(read, StepwiseRow)
    assert (read.prompt, read.steps, read.labels) == (
        [{"role": "user", "content": "0="}],
        ["0", "1"],
        [1.0, None],
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"samples": 0}, "1 rollout behind each step"),
        ({"sampling": Sampling(temperature=0)}, "same rollout 8 times"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(InputError, match=message):
        RolloutSettings(**settings)


def test_a_solution_without_steps_is_refused():
    with pytest.raises(InputError, match="without steps"):
        first_errors(rollouts(), [solution("")])
