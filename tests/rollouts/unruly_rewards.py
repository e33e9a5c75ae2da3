"""A reward function that fails on one completion, each in its own way."""

import time


def raises(completion: str, **_: object) -> float:
    return float(completion)


def hangs(completion: str, **_: object) -> float:
    if completion == "odd":
        time.sleep(3600)
    return float(completion)


def says_none(completion: str, **_: object) -> float | None:
    return None if completion == "odd" else float(completion)
