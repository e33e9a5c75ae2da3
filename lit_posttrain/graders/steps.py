"""A process reward model as a grader: of the steps of a solution for search, of whole completions for training."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from lit_posttrain.batches import Completion, Grade, Problem, Verdict
from lit_posttrain.contracts import Grader, StepGrader
from lit_posttrain.errors import InputError
from lit_posttrain.graders.score_reader import ScoreReader
from lit_posttrain.graders.single import failed, ungraded
from lit_posttrain.ledger import Spent
from lit_posttrain.networks import stored_head
from lit_posttrain.objectives.steps import Aggregation, aggregation, solution_score
from lit_posttrain.solution_steps import StepFormat, StepReader, TokenizedSolution

Item = tuple[Problem, Sequence[str]]


@dataclass(frozen=True)
class ProcessRewardModel(StepGrader, Grader):
    """Scores steps with a reward model that was trained on labelled steps.

    The folder says how solutions are cut into steps, as they were in training. The score of a step is the chance
    that it is right: the sigmoid of the mean of the head's scores after its last token. As a grader it gives a
    completion the aggregated score of its steps, in [0, 1], and does not say what is correct.

    Args:
        path: Folder of an exported process reward model.
        aggregation: How the scores of steps become one: `minimum`, `product` (worked in log space), `last`, `mean`.
        batch_tokens: Padded tokens of one forward; a single longer solution is read by itself.
        device: Where the network runs, such as cpu or cuda:0.

    Raises:
        InputError: for a folder without a head or without its step separator, or an unknown aggregation.
    """

    path: str
    aggregation: Aggregation = "minimum"
    batch_tokens: int = 16_384
    device: str = "cpu"

    def __post_init__(self) -> None:
        aggregation(self.aggregation)
        if self.batch_tokens < 1:
            raise InputError(f"batch_tokens is {self.batch_tokens}; a forward takes at least 1 token")
        stored_head(self.path)
        StepFormat.load(self.path)

    @cached_property
    def steps(self) -> StepFormat:
        """How solutions are cut into steps."""
        return StepFormat.load(self.path)

    @cached_property
    def _network(self) -> ScoreReader:
        return ScoreReader(self.path, self.batch_tokens, self.device)

    @cached_property
    def _reader(self) -> StepReader:
        return StepReader(self._network.text, self.steps)

    def score(self, items: Sequence[Item]) -> list[list[float]]:
        """For each problem and the steps of a solution one score in [0, 1] per step; of no steps none.

        From the first step that cannot be read on (blank, with an end token or unknown characters) all are 0.

        Raises:
            InputError: if a solution is longer than the network can read.
        """
        read = [self._read(*item) for item in items]
        longest = max((len(solution.ids) for solution in read if solution is not None), default=0)
        if longest > self._network.network.max_positions:
            raise InputError(self._too_long(longest))
        scores = iter(self._chances([solution for solution in read if solution is not None]))
        chances = [[] if solution is None else next(scores).tolist() for solution in read]
        return [
            known + [0.0] * (len(steps) - len(known))
            for (_, steps), known in zip(items, chances, strict=True)
        ]

    def grade(self, items: Sequence[tuple[Problem, Completion]]) -> list[Grade]:
        """One grade per item, in order; parts are the lowest, the mean and the last score of the steps.

        `steps` has the score of each step at its end in the text, behind its separator where it has one.
        A completion without steps is `no_answer`, one that cannot be read `malformed`, both with reward 0; one that
        is longer than the network can read, or whose prompt cannot be read, could not be graded.
        """
        read = [self._readable(problem, completion) for problem, completion in items]
        chances = iter(self._chances([one for one in read if isinstance(one, TokenizedSolution)]))
        return [
            one
            if isinstance(one, Grade)
            else self._grade(next(chances), step_ends(completion.text, self.steps))
            for one, (_, completion) in zip(read, items, strict=True)
        ]

    def take_spent(self) -> Spent:
        """Of the reward model's forwards."""
        return self._network.take_spent()

    def _readable(self, problem: Problem, completion: Completion) -> TokenizedSolution | Grade:
        """The ids of prompt and solution; a grade where they cannot be scored."""
        steps = self.steps.split(completion.text)
        if not steps:
            return failed(Verdict.NO_ANSWER, "no steps")
        try:
            solution = self._read(problem, steps)
        except InputError as error:
            return ungraded(Verdict.GOLD_UNPARSEABLE, f"the prompt cannot be read: {error}")
        if solution is None or len(solution.ends) < len(steps):
            return failed(Verdict.MALFORMED, "a step holds an end token or unknown characters")
        if len(solution.ids) > self._network.network.max_positions:
            return ungraded(Verdict.GRADER_ERROR, self._too_long(len(solution.ids)))
        return solution

    def _grade(self, chances: Tensor, ends: Sequence[int]) -> Grade:
        parts = {
            "step_minimum": float(chances.min()),
            "step_mean": float(chances.mean()),
            "step_last": float(chances[-1]),
        }
        steps = tuple(zip(ends, chances.tolist(), strict=True))
        reward = solution_score(chances, self.aggregation)
        return Grade(reward, None, Verdict.PARTIAL, parts, steps=steps)

    def _chances(self, solutions: Sequence[TokenizedSolution]) -> list[Tensor]:
        """The chances (n,), float64, of the steps of each solution."""
        if not solutions:
            return []
        scores = self._network([one.ids for one in solutions], [one.ends for one in solutions])
        return [torch.sigmoid(each.double().mean(1)) for each in scores]

    def _read(self, problem: Problem, steps: Sequence[str]) -> TokenizedSolution | None:
        """The ids up to the first step that cannot be read; None where there is nothing to score."""
        for kept in range(len(steps), 0, -1):
            try:
                return self._reader(problem.messages, steps[:kept])
            except InputError:
                self._reader.text.prompt_ids(list(problem.messages))  # raises if it is the prompt
        return None

    def _too_long(self, tokens: int) -> str:
        limit = self._network.network.max_positions
        return (
            f"a solution of {tokens} tokens exceeds the {limit} positions of {self.path}; draw shorter ones"
        )


def step_ends(text: str, steps: StepFormat) -> list[int]:
    """For each step of `steps.split(text)` the number of characters up to its end, what it was cut at included."""
    pattern = re.escape(steps.separator) if steps.split_at is None else steps.split_at
    cuts = [(match.start(), match.end()) for match in re.finditer(pattern, text)]
    ends, begin = [], 0
    for at, after in [*cuts, (len(text), len(text))]:
        if text[begin:at].strip():
            ends.append(after)
        begin = after
    return ends
