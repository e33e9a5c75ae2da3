"""A reward that is graded in worker processes."""

from typing import Any


def leading_characters(completion: str, reference: Any, **_: Any) -> float:
    """How many characters stand right before the first wrong one; often 0, so that some rollouts teach nothing."""
    right = 0
    for written, wanted in zip(completion, str(reference), strict=False):
        if written != wanted:
            break
        right += 1
    return float(right)
