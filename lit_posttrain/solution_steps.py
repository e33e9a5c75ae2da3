"""Solutions in steps: where a text is cut into them, and which token speaks for a step; in training and in use.

A step reader sees the prompt, then every step followed by the separator, each step tokenised apart. So the last
token of a step is a token of its own text whatever comes next, and the ids of the first steps of a solution are
the beginning of the ids of all of it: a step has the same score in a whole solution as in a search that is still
writing it.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from lit_posttrain.encoder import Encoder
from lit_posttrain.errors import InputError
from lit_posttrain.text import ChatText

FILE = "steps.json"


@dataclass(frozen=True)
class StepFormat:
    r"""How a solution is written in steps.

    Args:
        separator: Stands behind every step, the last one too; its last token is the last token of the step.
        split_at: Regular expression at whose matches a text is cut; by default the separator itself. What it
            matches belongs to no step: put it into a lookahead to keep it, as in `\n(?=Step \d+:)`.

    Raises:
        InputError: if the separator is empty, or the expression is none, matches the empty text or has groups.
    """

    separator: str = "\n"
    split_at: str | None = None

    def __post_init__(self) -> None:
        if not self.separator:
            raise InputError("steps need a separator, such as '\\n'; got an empty text")
        try:
            pattern = re.compile(self._pattern)
        except re.error as error:
            raise InputError(f"split_at {self.split_at!r} is no regular expression: {error}") from error
        if pattern.fullmatch("") is not None:
            raise InputError(f"split_at {self.split_at!r} matches the empty text, and would cut everywhere")
        if pattern.groups:  # which would come back as pieces
            raise InputError(f"split_at {self.split_at!r} has groups; write (?:…) in place of (…)")

    @property
    def _pattern(self) -> str:
        return re.escape(self.separator) if self.split_at is None else self.split_at

    @property
    def _shown(self) -> str:
        return repr(self.separator if self.split_at is None else self.split_at)

    def split(self, text: str) -> list[str]:
        """The steps of a text without the blanks around them; of a blank text none. Never an error."""
        return [step for piece in re.split(self._pattern, text) if (step := piece.strip())]

    def join(self, steps: Sequence[str]) -> str:
        """The text of a solution: every step and its separator."""
        return "".join(step + self.separator for step in steps)

    def labelled(self, text: str, labels: Sequence[Any]) -> list[str]:
        """The steps of a text that has a label for each.

        Raises:
            InputError: if the text has no separator, or its steps are not as many as the labels.
        """
        steps = self.split(text)
        if len(steps) < 2 <= len(labels):
            raise InputError(
                f"no step separator {self._shown} was found in {text[:80]!r}, which has {len(labels)} labels; "
                "set steps.separator or steps.split_at to what its steps are divided by"
            )
        if len(steps) != len(labels):
            raise InputError(
                f"{text[:80]!r} has {len(steps)} steps (cut at {self._shown}), but {len(labels)} labels; "
                "set steps.separator or steps.split_at to what its steps are divided by"
            )
        return steps

    def holds(self, step: str) -> bool:
        """Whether a step would be cut if it stood in a text."""
        return len(self.split(step)) > 1

    def save(self, folder: str | Path) -> None:
        """Writes the settings into the folder of a network that reads steps."""
        (Path(folder) / FILE).write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path) -> "StepFormat":
        """The settings of the folder of a network that reads steps.

        Raises:
            InputError: if it has none.
        """
        place = Path(folder) / FILE
        try:
            return cls(**json.loads(place.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise InputError(
                f"no step separator found in {place} ({error}); the network there was not exported as one that "
                'reads steps: write {"separator": …} into that file, as it was trained'
            ) from error


@dataclass(frozen=True)
class TokenizedSolution:
    """A solution as ids: `ends` are the places of the last token of each step, `prompt_tokens` where it begins."""

    ids: list[int]
    ends: list[int]
    prompt_tokens: int


class StepReader:
    """Turns solutions into ids, alike in training and in use.

    Args:
        text: Tokenizer and template.
        steps: How a solution is written in steps.
    """

    def __init__(self, text: ChatText, steps: StepFormat) -> None:
        self.text, self.steps = text, steps
        self._encoder = Encoder(text.tokenizer)

    def __call__(self, messages: Sequence[Any], steps: Sequence[str]) -> TokenizedSolution:
        """The ids of a prompt and the steps behind it.

        Raises:
            InputError: if there are no steps, one has no tokens or unknown characters, or holds an end token.
        """
        if not steps:
            raise InputError("a solution without steps has nothing to score; remove it from the data")
        ids = self.text.prompt_ids(list(messages))
        start, ends = len(ids), []
        for number, step in enumerate(steps):
            ids = ids + self._step_ids(number, step)
            ends.append(len(ids) - 1)
        return TokenizedSolution(ids, ends, start)

    def _step_ids(self, number: int, step: str) -> list[int]:
        if not step.strip():
            raise InputError(f"step {number} is empty; remove it from the data")
        ids = self._encoder.continuation(step + self.steps.separator)
        if not self.text.eos_ids.isdisjoint(ids):
            raise InputError(f"step {number}, {step[:80]!r}, holds an end token; remove it from the data")
        return ids


@lru_cache(maxsize=8)
def reader_of(text: ChatText, steps: StepFormat) -> StepReader:
    """The reader of a tokenizer, made once."""
    return StepReader(text, steps)
