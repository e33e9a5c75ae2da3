"""Short ways to make what graders read."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from lit_posttrain.batches import Completion, Grade, Problem, StopReason
from lit_posttrain.contracts import Grader


@pytest.fixture
def item() -> Callable[..., tuple[Problem, Completion]]:
    """Makes an item from a text and a reference."""

    def make(text: str, reference: Any = None, tokens: int = 3) -> tuple[Problem, Completion]:
        message = {"role": "user", "content": "What is it?"}
        drawn = Completion(torch.zeros(tokens, dtype=torch.int64), torch.zeros(tokens), StopReason.EOS, text)
        return Problem((message,), reference, "uid"), drawn

    return make


@pytest.fixture
def grade(item: Callable[..., tuple[Problem, Completion]]) -> Callable[..., Grade]:
    """Grades one text."""

    def one(grader: Grader, text: str, reference: Any = None, tokens: int = 3) -> Grade:
        return grader.grade([item(text, reference, tokens)])[0]

    return one
