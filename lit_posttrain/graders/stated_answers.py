"""The answers that a completion states, in one notation."""

from lit_posttrain.graders.canonical import SymbolicForm, key
from lit_posttrain.graders.extraction import answer_text, boxed, is_cut, stated
from lit_posttrain.graders.notation import MAX_CHARACTERS, simplify

MAX_BOXES = 4
MAX_SPELLINGS = 32
MAX_TEXT = 4 * MAX_CHARACTERS


def stated_answers(text: str) -> list[str]:
    """The simplified answers, of those with the same key the first; empty if nothing is stated.

    More than one only where several different values are boxed.
    """
    text = answer_text(text)
    if is_cut(text):
        return []
    found = list(dict.fromkeys(boxed(text))) or [stated(text) or ""]
    if len(found) > MAX_SPELLINGS:
        return found
    answers: dict[str, str] = {}
    for content in found:
        answer = simplify(content) if len(content) <= MAX_TEXT else content
        answers.setdefault(key(answer, _no_form) if len(answer) <= MAX_TEXT else answer, answer)
    return [answer for answer in answers.values() if answer]


def voting_key(answers: list[str], symbolic: SymbolicForm) -> str | None:
    """The key of stated answers; several boxed ones make a set, too many or too long ones no key."""
    if not 0 < len(answers) <= MAX_BOXES or any(len(answer) > MAX_CHARACTERS for answer in answers):
        return None
    keys = sorted({key(answer, symbolic) for answer in answers})
    return keys[0] if len(keys) == 1 else "{" + ",".join(keys) + "}"


def _no_form(answer: str) -> None:
    return None
