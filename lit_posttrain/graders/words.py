"""Answers in words, and letters of choice."""

import re

_WORD = re.compile(r"\\text\{([^{}]*)\}|([A-Za-z][A-Za-z -]*)")
_CHOICE = re.compile(r"\(?([A-J])[).]?")
_CHOICE_AND_TEXT = re.compile(r"(?:\\text\{ *)?\(([A-J])\) *\}? *[0-9$\\A-Za-z].*")


def word(text: str) -> str | None:
    """The canonical form of an answer in words or a letter of choice; None for formulas such as `xy`."""
    labelled = _CHOICE_AND_TEXT.fullmatch(text)
    if labelled:
        return labelled[1].casefold()
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


def bare_word(text: str) -> str | None:
    """Letters that are a word only beside one: `Sue`, which alone could be a product; None for other texts."""
    return text.casefold() if re.fullmatch("[A-Za-z]{2,}", text) else None
