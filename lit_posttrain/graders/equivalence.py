"""Whether two answers mean the same: by text, exact numbers and lists; a symbolic judge decides the rest."""

import re
from collections.abc import Callable

from lit_posttrain.batches import Verdict
from lit_posttrain.graders.notation import as_number, fault, split_unit
from lit_posttrain.graders.rational import equal

Symbolic = Callable[[str, str], Verdict]

MAX_ELEMENTS = 16
_CLOSING = {"(": ")", "[": "]", "{": "}"}
_WORD = re.compile(r"\\text\{([^{}]*)\}|([A-Za-z][A-Za-z -]*)")
_CHOICE = re.compile(r"\(?([A-J])[).]?")
_PLUS_MINUS = re.compile(r" *\\pm(?![A-Za-z]) *")
_NAMED = re.compile(r"([A-Za-z](?:_\{?[0-9a-z]\}?)?) *(?:=|\\in(?![A-Za-z])) *([^=<>]+)")
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
        return _yes(gold_word == word(answer))
    if fault(answer):
        return Verdict.MALFORMED
    if fault(gold):
        return Verdict.GOLD_UNPARSEABLE
    gold, answer = _unnamed(gold, answer)
    gold_number, number = as_number(gold), as_number(answer)
    if gold_number and number:
        gold_unit, unit = split_unit(gold)[1], split_unit(answer)[1]
        same_unit = not gold_unit or not unit or gold_unit == unit
        return _yes(same_unit and equal(gold_number, number, tolerance))
    gold_list, answer_list = split_list(gold), split_list(answer)
    if gold_list or answer_list:
        return _compare_lists(gold_list, answer_list, symbolic, tolerance)
    return symbolic(split_unit(gold)[0], split_unit(answer)[0])


def is_set(gold: str) -> bool:
    """Whether a gold answer has several elements in any order."""
    found = None if as_number(gold) else split_list(gold)
    return found is not None and found[0] in ("{}", "") and len(found[1]) > 1


def key(answer: str) -> str:
    """One text for answers that are the same number, word or list; others keep their own spelling."""
    number = as_number(answer)
    if number:
        return number.key + ("%" if number.is_percent else "")
    found = split_list(answer)
    if found:
        kind, parts = found
        keys = [key(part) for part in parts]
        return f"{kind[:1]}{','.join(sorted(keys) if kind in ('{}', '') else keys)}{kind[1:]}"
    return word(answer) or _spaceless(answer)


def word(text: str) -> str | None:
    """The canonical form of an answer in words or a letter of choice; None for formulas such as `xy`."""
    match = _WORD.fullmatch(text)
    inside = text if match is None else match[1] if match[1] is not None else match[2]
    choice = _CHOICE.fullmatch(inside.strip())
    if choice:
        return choice[1].casefold()
    is_text = match is not None and (
        match[1] is not None or re.search("[A-Za-z]{4}", text) or " " in text.strip()
    )
    is_word = is_text or text.casefold() in ("yes", "no", "odd")
    return " ".join(inside.casefold().split()).rstrip(".") if is_word and inside.strip() else None


def split_list(text: str) -> tuple[str, list[str]] | None:
    """The kind of brackets (empty for none) and the elements of a list, tuple, interval or set."""
    text = text.replace(r"\{", "\x01").replace(r"\}", "\x02")
    kind, inside = "", text
    if text[:1] in ("(", "[", "\x01") and text[-1:] in (")", "]", "\x02") and _closes_at_end(text):
        kind, inside = (text[0] + text[-1]).replace("\x01", "{").replace("\x02", "}"), text[1:-1]
    if not kind and _PLUS_MINUS.search(text):
        return "", [_PLUS_MINUS.sub(sign, text).removeprefix("+") for sign in "+-"]
    parts = _split_commas(inside if kind else re.sub(r",? (?:and|or) ", ",", inside))
    if len(parts) < 2 and kind != "{}":
        return None
    return kind, [part.replace("\x01", r"\{").replace("\x02", r"\}").strip() for part in parts]


def _closes_at_end(text: str) -> bool:
    depth = 0
    for position, char in enumerate(text):
        depth += (char in "([{\x01") - (char in ")]}\x02")
        if depth == 0:
            return position == len(text) - 1
    return False


def _split_commas(text: str) -> list[str]:
    parts, depth, start = list[str](), 0, 0
    for position, char in enumerate(text):
        depth += (char in "([{\x01") - (char in ")]}\x02")
        if char == "," and depth == 0:
            parts.append(text[start:position])
            start = position + 1
    return [*parts, text[start:]]


def _compare_lists(
    gold: tuple[str, list[str]] | None,
    answer: tuple[str, list[str]] | None,
    symbolic: Symbolic,
    tolerance: float,
) -> Verdict:
    if gold is None or answer is None:
        return Verdict.INCORRECT
    is_free = gold[0] in ("{}", "")
    if (answer[0] in ("{}", "")) != is_free or (not is_free and gold[0] != answer[0]):
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
    gold_name, name = _NAMED.fullmatch(gold), _NAMED.fullmatch(answer)
    if gold_name and name and gold_name[1] != name[1]:
        return gold, answer
    has_relation = re.search(r"[=<>]|\\[lg]eq?(?![A-Za-z])", gold) and not gold_name
    if name and not has_relation:
        answer = name[2].strip()
    if gold_name and (name or not re.search(r"[=<>]|\\[lg]eq?(?![A-Za-z])", answer)):
        gold = gold_name[2].strip()
    return gold, answer


def _spaceless(text: str) -> str:
    return re.sub(r"\s+", "", text)


def _yes(is_correct: bool) -> Verdict:
    return Verdict.CORRECT if is_correct else Verdict.INCORRECT
