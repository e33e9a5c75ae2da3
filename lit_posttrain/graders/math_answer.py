"""Grades mathematical answers: exact numbers here, symbolic ones by math-verify in worker processes."""

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, TypeVar

from lit_posttrain.batches import UNGRADED_VERDICTS, Completion, Grade, Problem, Verdict
from lit_posttrain.contracts import Grader
from lit_posttrain.errors import InputError
from lit_posttrain.graders.equivalence import compare, worst
from lit_posttrain.graders.extraction import boxed
from lit_posttrain.graders.lists import is_set
from lit_posttrain.graders.notation import fault, simplify
from lit_posttrain.graders.single import bad_reference, decided, failed, ungraded
from lit_posttrain.graders.stated_answers import MAX_BOXES, stated_answers, voting_key
from lit_posttrain.graders.symbolic_judge import Remembered, SymbolicJudge
from lit_posttrain.graders.verdict_cache import NeedsWorker

DISAGREEMENT = "second_opinion_disagreement"
"""The part of a grade that was given to a second grader too: 1 where that one judged otherwise, else 0."""

Pair = tuple[str | None, str]
T = TypeVar("T")


@dataclass(frozen=True)
class MathAnswer(Grader):
    r"""Correct when the stated answer is mathematically equal to the reference.

    The answer is the last balanced `\boxed{...}`, else the last stated one (`#### x`, `A: x`, `The answer is
    x`), else the last number; where the text has `</think>`, only what follows it counts. Several different
    boxed values are correct only if every one is, or if the reference is a set that they list.

    Integers and rationals are compared exactly in this process, lists element by element, the rest
    symbolically by math-verify in worker processes, which are killed when they take too long. Model text is
    never evaluated as code, and not parsed beyond 512 characters, 12 levels of nesting, 64 digits in a row,
    or powers and factorials of 10,000.

    The reference is a number or a text, LaTeX or plain; of a worked answer the boxed part or what follows
    `####`. One that cannot be used leaves the completion ungraded.

    Args:
        deadline_s: CPU seconds for parsing the reference, and again for parsing the answer and comparing.
            An answer that exceeds them is wrong (`timeout`); it is left ungraded if the machine was too busy
            to give them within fifteen times as many seconds.
        workers: Worker processes, started at the first symbolic comparison.
        tolerance: Relative error allowed where the reference is written as a decimal.
        cache_size: Pairs of reference and answer whose verdict is remembered.
        second_opinion: Share of graded completions, chosen by their content, that math-verify judges once
            more by its own rules of extraction. The reward stays; the part `second_opinion_disagreement` of
            the grade, and so the metric `reward/second_opinion_disagreement`, says how often it differs.
    """

    deadline_s: float = 0.6
    workers: int = 2
    tolerance: float = 1e-5
    cache_size: int = 65_536
    second_opinion: float = 0.0
    judge: SymbolicJudge = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not 0 <= self.second_opinion <= 1:
            raise InputError(f"got second_opinion={self.second_opinion}; set a share between 0 and 1.")
        judge = SymbolicJudge(self.deadline_s, self.workers, self.tolerance, self.cache_size)
        object.__setattr__(self, "judge", judge)

    def grade(self, items: Sequence[tuple[Problem, Completion]]) -> list[Grade]:
        """One grade per item, in order; the answer key is that of `MathKey`."""
        pairs = [(_gold_text(problem.reference), completion.text) for problem, completion in items]
        here = {pair: self._grade_here(*pair) for pair in dict.fromkeys(pairs)}
        grades = {pair: grade for pair, grade in here.items() if grade is not None}
        grades |= self._in_threads(self._grade_there, [pair for pair, grade in here.items() if grade is None])
        sampled = [
            pair for pair, grade in grades.items() if grade.reward is not None and self._is_sampled(*pair)
        ]
        grades |= self._in_threads(lambda pair: self._with_opinion(pair, grades[pair]), sampled)
        return [grades[pair] for pair in pairs]

    def close(self) -> None:
        """Ends the worker processes; a later call starts new ones."""
        self.judge.close()

    def _grade_here(self, gold: str | None, text: str) -> Grade | None:
        """The grade, or None if it takes a worker."""
        try:
            return self._grade_one(gold, text, Remembered(self.judge))
        except NeedsWorker:
            return None

    def _grade_there(self, pair: Pair) -> Grade:
        return self._grade_one(*pair, self.judge)

    def _in_threads(self, task: Callable[[Pair], Grade], pairs: list[Pair]) -> dict[Pair, Grade]:
        if not pairs:
            return {}
        with ThreadPoolExecutor(min(self.workers, len(pairs))) as threads:
            return dict(zip(pairs, threads.map(task, pairs), strict=True))

    def _grade_one(self, gold: str | None, text: str, judge: SymbolicJudge | Remembered) -> Grade:
        if not gold:
            return bad_reference(gold or "", "a number or a text that states an answer")
        answers = stated_answers(text)
        if not answers:
            return failed(Verdict.NO_ANSWER)
        if len(answers) > MAX_BOXES:
            return failed(Verdict.INCORRECT, f"{len(answers)} different boxed answers")
        alternatives = _as_set(answers) if is_set(gold) else answers
        verdict = worst([compare(gold, answer, judge.compare, self.tolerance) for answer in alternatives])
        return _grade(verdict, answers, judge)

    def _is_sampled(self, gold: str | None, text: str) -> bool:
        digest = hashlib.sha256(f"{gold}\0{text}".encode(errors="backslashreplace")).digest()
        return int.from_bytes(digest[:8], "big") < self.second_opinion * 2**64

    def _with_opinion(self, pair: Pair, grade: Grade) -> Grade:
        gold, text = pair
        opinion = self.judge.opinion(gold or "", text)
        if opinion is None:
            return grade
        return replace(grade, parts={**grade.parts, DISAGREEMENT: float(opinion is not grade.correct)})


def _as_set(answers: list[str]) -> list[str]:
    """Several boxed elements as one set, where each is one element."""
    is_listed = len(answers) > 1 and not any("," in answer for answer in answers)
    return [",".join(answers)] if is_listed else answers


@lru_cache(maxsize=16_384)
def _simplified_gold(text: str) -> str:
    boxes = boxed(text)
    return simplify(boxes[-1] if boxes else text.rpartition("####")[2])


def _gold_text(reference: Any) -> str | None:
    """The simplified gold answer; None if the reference is no number and no text."""
    if isinstance(reference, bool) or not isinstance(reference, str | int | float):
        return None
    return _simplified_gold(str(reference))


def _grade(verdict: Verdict, answers: list[str], judge: SymbolicJudge | Remembered) -> Grade:
    if verdict in UNGRADED_VERDICTS:
        return ungraded(verdict)
    if verdict in (Verdict.CORRECT, Verdict.INCORRECT):
        note = f"{len(answers)} different boxed answers" if len(answers) > 1 else ""
        return decided(verdict is Verdict.CORRECT, voting_key(answers, judge.form), note)
    return failed(verdict, fault(answers[-1]), answer_key=voting_key(answers, lambda answer: None))
