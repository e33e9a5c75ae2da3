"""Labels of steps that nobody rated: how often a policy that goes on from a step comes to a right answer."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch

from lit_posttrain import interruption
from lit_posttrain.batches import Completion, Grade, Problem, PromptBatch, Sampling, StopReason
from lit_posttrain.contracts import Grader, Patience, RolloutEngine
from lit_posttrain.errors import InputError
from lit_posttrain.graders.grading import grade_all
from lit_posttrain.keys import digest
from lit_posttrain.ledger import Ledger, Phase
from lit_posttrain.ranks import Ranks
from lit_posttrain.rollouts.collect import AT_ONCE, draw
from lit_posttrain.rollouts.step_values import Solution, StepValue, counted
from lit_posttrain.solution_steps import StepReader

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RolloutSettings:
    """How the rollouts behind a step are drawn.

    Args:
        sampling: Temperature and length of what comes after the step.
        samples: n, the rollouts behind each step.
        seed: Of the draws.
        deadline_s: Seconds that grading may take; what is late is not graded.
        patience: What happens when the grader is out of order.
    """

    sampling: Sampling = field(default_factory=Sampling)
    samples: int = 8
    seed: int = 0
    deadline_s: float = 60.0
    patience: Patience = AT_ONCE

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise InputError(f"samples is {self.samples}; draw 1 rollout behind each step or more")
        if self.sampling.temperature == 0 and self.samples > 1:
            raise InputError(
                f"temperature 0 gives the same rollout {self.samples} times; set samples to 1 or raise it"
            )


class StepRollouts:
    """Draws and grades what a policy writes behind the first steps of solutions; the cost stands in the ledger.

    Of a finished solution the answer itself is graded. The same beginning of the same problem is drawn once,
    however often it is asked for, so the policy must not change meanwhile.

    Args:
        engine: Writes for the policy.
        grader: Judges the whole solution: the given steps and what was written behind them.
        reader: How steps become the policy's tokens.
        ledger: Where tokens and FLOPs are booked, under the phases rollout and grading.
        settings: How many, how warm, how long.
        ranks: Processes that share the work; all must ask for the same.
    """

    def __init__(
        self,
        engine: RolloutEngine,
        grader: Grader,
        reader: StepReader,
        ledger: Ledger,
        settings: RolloutSettings = RolloutSettings(),
        ranks: Ranks = Ranks(),
    ) -> None:
        self.engine, self.grader, self.reader = engine, grader, reader
        self.ledger, self.settings, self.ranks = ledger, settings, ranks
        self.drawn = 0
        self._known: dict[tuple[int, int], StepValue] = {}

    def values(self, places: Sequence[tuple[Solution, int]]) -> list[StepValue]:
        """The value after the first k steps of each solution; k = 0 is that of the prompt.

        A solution that holds an end token or other text that cannot be written as it stands has no grades.

        Raises:
            InputError: if the grader does not say what is correct, or a prompt cannot be read.
        """
        new = {_key(*place): place for place in places if _key(*place) not in self._known}
        ended = {key: place for key, place in new.items() if _is_end(*place)}
        self._grade(ended)
        self._draw({key: place for key, place in new.items() if key not in ended})
        return [self._known[_key(*place)] for place in places]

    def _grade(self, places: dict[tuple[int, int], tuple[Solution, int]]) -> None:
        items = [(solution.problem, self._stated(solution)) for solution, _ in places.values()]

        def work() -> list[Grade]:
            with self.ledger.phase(Phase.GRADING):
                return grade_all(self.grader, self.ranks.share(items), deadline_s=self.settings.deadline_s)

        grades = self.ranks.interleave(interruption.gather(work, self.ranks))
        self._known |= {key: counted([grade]) for key, grade in zip(places, grades, strict=True)}

    def _draw(self, places: dict[tuple[int, int], tuple[Solution, int]]) -> None:
        begun = {key: self._begun(key, *place) for key, place in places.items()}
        readable = {key: one for key, one in begun.items() if one is not None}
        if len(readable) < len(begun):
            log.warning("%d beginnings of solutions cannot be gone on with", len(begun) - len(readable))
        self._known |= dict.fromkeys(begun.keys() - readable.keys(), StepValue(0, 0))
        if readable:
            self._draw_behind(readable)

    def _draw_behind(self, readable: dict[tuple[int, int], "_Begun"]) -> None:
        prompts = PromptBatch(
            [one.asked for one in readable.values()], [one.ids for one in readable.values()]
        )
        settings = self.settings
        answers = draw(
            self.engine,
            _OfWholeSolutions(self.grader, {one.asked.uid: one for one in readable.values()}),
            prompts,
            sampling=settings.sampling,
            n=settings.samples,
            seed=settings.seed,
            ledger=self.ledger,
            deadline_s=settings.deadline_s,
            ranks=self.ranks,
            patience=settings.patience,
        )
        self.drawn += settings.samples * len(readable)
        for key, group in zip(readable, answers, strict=True):
            self._known[key] = counted([answer.grade for answer in group])

    def _begun(self, key: tuple[int, int], solution: Solution, k: int) -> "_Begun | None":
        """The first k steps as a prompt; None where they cannot be read."""
        problem, steps = solution.problem, solution.steps[:k]
        prompt = self.reader.text.prompt_ids(list(problem.messages))
        try:
            ids = self.reader(problem.messages, steps).ids if steps else prompt
        except InputError:
            return None
        asked = replace(problem, uid=f"{problem.uid}#{key[1] % 2**64:016x}")
        return _Begun(problem, asked, ids, len(prompt), self.reader.steps.join(steps))

    def _stated(self, solution: Solution) -> Completion:
        text = self.reader.steps.join(solution.steps)
        return Completion(torch.zeros(0, dtype=torch.int64), torch.zeros(0), StopReason.EOS, text)


def step_values(rollouts: StepRollouts, solutions: Sequence[Solution]) -> list[list[StepValue]]:
    """The value after each step of each solution; `soft` or `hard` of them are labels.

    Source: Wang et al. 2024 (Math-Shepherd), arXiv:2312.08935, section 3.3.
    """
    places = [(solution, k) for solution in solutions for k in range(1, len(solution.steps) + 1)]
    values = iter(rollouts.values(places))
    return [[next(values) for _ in solution.steps] for solution in solutions]


@dataclass(frozen=True)
class _Begun:
    """The beginning of a solution: `asked` is the problem under the name of this beginning, `ids` are to go on from."""

    problem: Problem
    asked: Problem
    ids: list[int]
    prompt_tokens: int
    text: str

    def whole(self, completion: Completion) -> Completion:
        """The solution with what was written behind it; the given tokens count as drawn with certainty."""
        given = torch.tensor(self.ids[self.prompt_tokens :], dtype=torch.int64)
        tokens = torch.cat([given, completion.tokens.cpu()])
        logprobs = torch.cat([torch.zeros(len(given)), completion.logprobs.cpu()])
        return Completion(tokens, logprobs, completion.stop, self.text + completion.text)


@dataclass(frozen=True)
class _OfWholeSolutions(Grader):
    """Judges what was written behind beginnings together with these."""

    grader: Grader
    begun: dict[str, _Begun]

    def grade(self, items: Sequence[tuple[Problem, Completion]]) -> list[Grade]:
        """One grade per item, in order."""
        begun = [self.begun[problem.uid] for problem, _ in items]
        return self.grader.grade(
            [(one.problem, one.whole(completion)) for one, (_, completion) in zip(begun, items, strict=True)]
        )


def _is_end(solution: Solution, k: int) -> bool:
    return solution.finished and k == len(solution.steps)


def _key(solution: Solution, k: int) -> tuple[int, int]:
    problem = solution.problem
    steps = digest(*solution.steps[:k], "finished" if _is_end(solution, k) else "")
    return digest(problem.source, problem.uid), steps
