"""Completions that must have a stated form, whatever they say."""

import re
from dataclasses import dataclass

from lit_posttrain.batches import Completion, Grade, Problem, Verdict
from lit_posttrain.errors import InputError
from lit_posttrain.graders.single import SingleGrader, decided, failed


@dataclass(frozen=True)
class AnswerFormat(SingleGrader):
    """Correct when a regular expression matches the whole completion, outer blanks apart.

    The expression runs in this process, so write one that cannot backtrack without bound; the length limit
    is what bounds it.

    Args:
        pattern: Regular expression; a dot also matches line breaks.
        max_characters: Longer completions are malformed without matching.
    """

    pattern: str
    max_characters: int = 16_384

    def __post_init__(self) -> None:
        try:
            re.compile(self.pattern, re.DOTALL)
        except re.error as error:
            raise InputError(
                f"pattern {self.pattern!r} is no regular expression ({error}); correct it."
            ) from error

    def grade_one(self, problem: Problem, completion: Completion) -> Grade:
        """Without an answer key: a form is nothing to vote on."""
        text = completion.text.strip()
        if not text:
            return failed(Verdict.NO_ANSWER)
        if len(text) > self.max_characters:
            return failed(Verdict.MALFORMED, f"longer than {self.max_characters} characters")
        matches = re.fullmatch(self.pattern, text, re.DOTALL) is not None
        return decided(True) if matches else failed(Verdict.MALFORMED)


@dataclass(frozen=True)
class TagFormat(SingleGrader):
    """Correct when the completion is `<think>...</think><answer>...</answer>`: each tag once, in order.

    No section is blank, and only blanks stand before, between and after them.

    Args:
        tags: Names of the sections, in order.
        first_is_open: Whether the prompt already ends with the first opening tag.
    """

    tags: tuple[str, ...] = ("think", "answer")
    first_is_open: bool = False

    def __post_init__(self) -> None:
        if not self.tags or len(set(self.tags)) != len(self.tags):
            raise InputError(f"tags={self.tags!r} must be different names, at least one.")

    def grade_one(self, problem: Problem, completion: Completion) -> Grade:
        """Without an answer key: a form is nothing to vote on."""
        text = completion.text.strip()
        if not text:
            return failed(Verdict.NO_ANSWER)
        fault = self._fault(f"<{self.tags[0]}>{text}" if self.first_is_open else text)
        return failed(Verdict.MALFORMED, fault) if fault else decided(True)

    def _fault(self, text: str) -> str:
        """What is wrong with the text, or nothing."""
        rest = text
        for tag in self.tags:
            opening, closing = f"<{tag}>", f"</{tag}>"
            if text.count(opening) != 1 or text.count(closing) != 1:
                return f"not exactly one {opening} and one {closing}"
            before, _, rest = rest.partition(opening)
            inside, closed, rest = rest.partition(closing)
            if before.strip() or not closed:
                return f"something stands outside the sections, or {opening} is out of order"
            if not inside.strip():
                return f"nothing stands in {opening}"
        return "something stands after the last section" if rest.strip() else ""
