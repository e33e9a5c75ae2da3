"""Checks that need no understanding: words that must occur, endings, lengths."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from lit_posttrain.batches import Completion, Grade, Problem, Verdict
from lit_posttrain.errors import InputError
from lit_posttrain.graders.single import SingleGrader, bad_reference, decided, failed


@dataclass(frozen=True)
class MustContain(SingleGrader):
    """Correct when the completion holds all required words (or phrases).

    Args:
        words: The required words; empty takes them from the reference (a text, or a list of texts).
        whole_word: Whether `cat` must stand by itself, so that `category` does not count.
        ignore_case: Whether capital and small letters count as the same.
        reward: `all` gives 1 only when every word occurs; `share` gives the share of the words that do.
    """

    words: tuple[str, ...] = ()
    whole_word: bool = True
    ignore_case: bool = True
    reward: Literal["all", "share"] = "all"

    def __post_init__(self) -> None:
        if self.reward not in ("all", "share"):
            raise InputError(f"reward={self.reward!r} is no rule; choose 'all' or 'share'.")
        if any(not word.strip() for word in self.words):
            raise InputError(f"words={self.words!r} holds a blank word; remove it.")

    def grade_one(self, problem: Problem, completion: Completion) -> Grade:
        """The note names the missing words."""
        words = self.words or _words(problem.reference)
        if not words:
            return bad_reference(problem.reference, "a word or a list of words")
        missing = [word for word in words if not self._holds(completion.text, word)]
        if not missing:
            return decided(True)
        share = 1 - len(missing) / len(words)
        verdict = Verdict.PARTIAL if self.reward == "share" and share else Verdict.INCORRECT
        return failed(verdict, "missing: " + ", ".join(missing), share if self.reward == "share" else 0.0)

    def _holds(self, text: str, word: str) -> bool:
        pattern = re.escape(word.strip())
        if self.whole_word:
            pattern = rf"(?<!\w){pattern}(?!\w)"
        return re.search(pattern, text, re.IGNORECASE if self.ignore_case else 0) is not None


@dataclass(frozen=True)
class EndsWith(SingleGrader):
    """Correct when the completion, trailing blanks apart, ends with one of these texts.

    Args:
        endings: Accepted endings.
    """

    endings: tuple[str, ...] = (".",)

    def __post_init__(self) -> None:
        if not self.endings or any(not ending.strip() for ending in self.endings):
            raise InputError(f"endings={self.endings!r} must be texts that are not blank, at least one.")

    def grade_one(self, problem: Problem, completion: Completion) -> Grade:
        """A blank completion has no answer."""
        text = completion.text.rstrip()
        return decided(text.endswith(tuple(self.endings))) if text else failed(Verdict.NO_ANSWER)


@dataclass(frozen=True)
class LengthWindow(SingleGrader):
    """Correct when the completion is neither too short nor too long.

    Args:
        minimum: Smallest accepted length.
        maximum: Largest accepted length; null for none.
        unit: `characters` of the stripped text, `words` between blanks, or `tokens` as drawn with their end.
    """

    minimum: int = 1
    maximum: int | None = None
    unit: Literal["characters", "words", "tokens"] = "words"

    def __post_init__(self) -> None:
        if self.unit not in ("characters", "words", "tokens"):
            raise InputError(f"unit={self.unit!r} is unknown; choose 'characters', 'words' or 'tokens'.")
        if self.minimum < 0 or (self.maximum is not None and self.maximum < self.minimum):
            raise InputError(f"no length lies between minimum={self.minimum} and maximum={self.maximum}.")

    def grade_one(self, problem: Problem, completion: Completion) -> Grade:
        """The note gives the length."""
        length = self._length(completion)
        fits = self.minimum <= length and (self.maximum is None or length <= self.maximum)
        return decided(fits, note=f"{length} {self.unit}")

    def _length(self, completion: Completion) -> int:
        if self.unit == "tokens":
            return int(completion.tokens.shape[0])
        text = completion.text.strip()
        return len(text) if self.unit == "characters" else len(text.split())


def _words(reference: Any) -> Sequence[str]:
    words = [reference] if isinstance(reference, str) else reference
    if not isinstance(words, list | tuple) or not all(
        isinstance(word, str) and word.strip() for word in words
    ):
        return ()
    return words
