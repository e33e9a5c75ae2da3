"""Which completions say the same: keys for voting, equal for equal answers, without a reference answer."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

from lit_posttrain.batches import Completion, Problem
from lit_posttrain.contracts import AnswerKey
from lit_posttrain.graders.exact import ExactMatch, NumericMatch
from lit_posttrain.graders.single import SingleGrader
from lit_posttrain.graders.stated_answers import stated_answers, voting_key
from lit_posttrain.graders.symbolic_judge import SymbolicJudge

Item = tuple[Problem, Completion]


@dataclass(frozen=True)
class MathKey(AnswerKey):
    r"""The key of the mathematical answer that a completion states, found and read as `MathAnswer` does.

    Numbers are rationals in lowest terms (`1/2`, `0.5`, `50%` and `\frac12` are all `1/2`), names such as
    `x =` are dropped, lists go element by element, sets sorted. The rest is canonicalised in worker
    processes: constants by their first digits, formulas by their values at fixed points. What has no such
    form within the limits keeps its own spelling.

    Args:
        deadline_s: CPU seconds for one symbolic form.
        workers: Worker processes, started at the first symbolic form.
        cache_size: Forms that are remembered.
    """

    deadline_s: float = 0.6
    workers: int = 2
    cache_size: int = 65_536
    judge: SymbolicJudge = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        judge = SymbolicJudge(self.deadline_s, self.workers, cache_size=self.cache_size)
        object.__setattr__(self, "judge", judge)

    def key(self, items: Sequence[Item]) -> list[str | None]:
        """The keys that `MathAnswer` gives as `answer_key`."""
        texts = list(dict.fromkeys(completion.text for _, completion in items))
        with ThreadPoolExecutor(self.workers) as threads:
            keys = dict(zip(texts, threads.map(self._key, texts), strict=True))
        return [keys[completion.text] for _, completion in items]

    def close(self) -> None:
        """Ends the worker processes; a later call starts new ones."""
        self.judge.close()

    def _key(self, text: str) -> str | None:
        return voting_key(stated_answers(text), self.judge.form)


@dataclass(frozen=True)
class NumberKey(AnswerKey):
    """The number that `NumericMatch` takes from a completion, in lowest terms.

    Args:
        grader: The rule of extraction; give it the arguments of the run's grader.
    """

    grader: NumericMatch = field(default_factory=NumericMatch)

    def key(self, items: Sequence[Item]) -> list[str | None]:
        """The `answer_key` of `NumericMatch`."""
        return _keys(self.grader, items, 0)


@dataclass(frozen=True)
class TextKey(AnswerKey):
    """The whole completion without outer blanks.

    Args:
        ignore_case: Whether capital and small letters count as the same.
    """

    ignore_case: bool = False

    def key(self, items: Sequence[Item]) -> list[str | None]:
        """The `answer_key` of `ExactMatch`."""
        return _keys(ExactMatch(self.ignore_case), items, "any")


def _keys(grader: SingleGrader, items: Sequence[Item], reference: int | str) -> list[str | None]:
    """The answer keys of a grader, none of whose keys depends on the reference."""
    blind = [(replace(problem, reference=reference), completion) for problem, completion in items]
    return [grade.answer_key for grade in grader.grade(blind)]
