"""Whether two answers mean the same: by text, exact numbers and lists; a symbolic judge decides the rest."""

import re
from collections.abc import Callable

from lit_posttrain.batches import Verdict
from lit_posttrain.graders.lists import FREE, split_list
from lit_posttrain.graders.notation import as_number, fault, split_name, split_unit
from lit_posttrain.graders.rational import equal
from lit_posttrain.graders.words import bare_word, word

Symbolic = Callable[[str, str], Verdict]

MAX_ELEMENTS = 16
_RELATION = re.compile(r"[=<>]|\\(?:[lg]eq?|neq?|cup|in)(?![A-Za-z])")
_SEVERITY = [
    Verdict.GOLD_UNPARSEABLE, Verdict.GOLD_TIMEOUT, Verdict.GRADER_TIMEOUT, Verdict.GRADER_ERROR,
    Verdict.INCORRECT, Verdict.MALFORMED, Verdict.TIMEOUT,
]  # fmt: skip


def compare(gold: str, answer: str, symbolic: Symbolic, tolerance: float) -> Verdict:
    """The verdict on a simplified answer, given the simplified gold one."""
    if _spaceless(gold) == _spaceless(answer):
        return Verdict.CORRECT
    gold_word = word(gold)
    if gold_word:
        return _yes(gold_word in (word(answer), bare_word(answer)))
    if fault(answer):
        return Verdict.MALFORMED
    if fault(gold):
        return Verdict.GOLD_UNPARSEABLE
    gold, answer = _unnamed(gold, answer)
    (gold_body, gold_unit), (body, unit) = split_unit(gold), split_unit(answer)
    if gold_unit and unit and gold_unit != unit:
        return Verdict.INCORRECT
    gold_number, number = as_number(gold), as_number(answer)
    if gold_number and number:
        return _yes(equal(gold_number, number, tolerance))
    gold_list, answer_list = split_list(gold), split_list(answer)
    is_symbolic_set = not (gold_list and answer_list) and _RELATION.search(gold + answer)
    if (gold_list or answer_list) and not is_symbolic_set:
        return _compare_lists(gold_list, answer_list, symbolic, tolerance)
    return symbolic(gold_body, body)


def _compare_lists(
    gold: tuple[str, list[str]] | None,
    answer: tuple[str, list[str]] | None,
    symbolic: Symbolic,
    tolerance: float,
) -> Verdict:
    if gold is None or answer is None:
        return Verdict.INCORRECT
    is_free = gold[0] in FREE
    if (answer[0] in FREE) != is_free or (not is_free and gold[0] != answer[0]):
        return Verdict.INCORRECT
    if len(gold[1]) != len(answer[1]) or len(gold[1]) > MAX_ELEMENTS or not all([*gold[1], *answer[1]]):
        return Verdict.INCORRECT
    if is_free:
        return _compare_free(gold[1], list(answer[1]), symbolic, tolerance)
    verdicts = [compare(g, a, symbolic, tolerance) for g, a in zip(gold[1], answer[1], strict=True)]
    return worst(verdicts)


def _compare_free(gold: list[str], answers: list[str], symbolic: Symbolic, tolerance: float) -> Verdict:
    """Elements in any order: each gold element takes the first equal one that is left."""
    for element in gold:
        seen = list[Verdict]()
        for answer in answers:
            seen.append(compare(element, answer, symbolic, tolerance))
            if seen[-1] is Verdict.CORRECT:
                answers.remove(answer)
                break
        else:
            return worst(seen)
    return Verdict.CORRECT


def worst(verdicts: list[Verdict]) -> Verdict:
    """The verdict on the whole, given those on its parts: what is not the model's fault first."""
    return next((verdict for verdict in _SEVERITY if verdict in verdicts), Verdict.CORRECT)


def _unnamed(gold: str, answer: str) -> tuple[str, str]:
    """Drops `x =` where only one side has it, or both have the same."""
    (gold_name, gold_value), (name, value) = split_name(gold), split_name(answer)
    if gold_name and name:
        return (gold_value, value) if gold_name == name else (gold, answer)
    if name and not _RELATION.search(gold):
        return gold, value
    if gold_name and not _RELATION.search(answer):
        return gold_value, answer
    return gold, answer


def _spaceless(text: str) -> str:
    return re.sub(r"\s+", "", text)


def _yes(is_correct: bool) -> Verdict:
    return Verdict.CORRECT if is_correct else Verdict.INCORRECT
