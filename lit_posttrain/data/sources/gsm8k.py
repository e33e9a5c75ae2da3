"""GSM8K: word problems of grade-school arithmetic."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from lit_posttrain.batches import Problem
from lit_posttrain.contracts import ProblemSource
from lit_posttrain.data.formats import Chat
from lit_posttrain.data.sources.table import Table
from lit_posttrain.errors import InputError

CALCULATOR = re.compile(r"<<[^<>]*>>")
FINAL = re.compile(r"####\s*(-?[\d.,]*\d)\s*$")


@dataclass(frozen=True)
class GSM8K(ProblemSource):
    """Word problems; the reference is the number after `####`, without thousands separators.

    The data has training and test rows; validation is held out of the former by a hash of the question.

    Args:
        path: Hub name, or a local folder with train.jsonl(.gz) and test.jsonl(.gz) or Parquet files.
        annotations: Keep the calculator annotations such as `<<3*4=12>>` in worked answers.
        validation_share: Share of the training rows that is held out for validation.

    Source: Cobbe et al. 2021, arXiv:2110.14168.
    """

    path: str = "openai/gsm8k"
    annotations: bool = False
    validation_share: float = 0.05

    def problems(self, split: str) -> list[Problem]:
        """Questions with their final number as text.

        Raises:
            InputError: if an answer does not end in `#### number`.
        """
        return [replace(p, reference=final_number(p.reference, p.uid)) for p in self._table().problems(split)]

    def chats(self, split: str) -> Iterator[Chat]:
        """Questions with their worked answers, which end in `#### number`."""
        for question, answer in self._table().chats(split):
            text = answer["content"]
            yield [question, {**answer, "content": text if self.annotations else CALCULATOR.sub("", text)}]

    def _table(self) -> Table:
        return Table(
            self.path, "question", "answer", configuration="main", held_out_share=self.validation_share
        )


def final_number(answer: str, uid: str) -> str:
    """The number after `####` at the end of a worked answer, without thousands separators.

    Raises:
        InputError: if there is none.
    """
    found = FINAL.search(answer)
    if found is None:
        raise InputError(
            f"the answer of problem {uid} must end in '#### number', but ends in {answer[-40:]!r}"
        )
    return found[1].replace(",", "")
