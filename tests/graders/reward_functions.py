"""Reward functions such as a user might write, good and bad."""

import os
import signal
import time
from pathlib import Path


def equals(completion: str, reference: object, messages: list[dict[str, str]]) -> bool:
    return completion == reference and messages[0]["role"] == "user"


def length(completion: str, **_: object) -> float:
    return float(len(completion))


def in_full(completion: str, **_: object) -> dict[str, object]:
    print("a reward function may print")
    return {
        "reward": 0.5,
        "correct": True,
        "parts": {"style": 0.25},
        "answer_key": completion,
        "note": "fine",
    }


def misbehaves(completion: str, reference: object, **_: object) -> object:
    """Does what the completion says."""
    if completion == "raise":
        raise KeyError("no such key")
    if completion == "exit":
        raise SystemExit(3)
    if completion == "hang":
        time.sleep(3600)
    if completion == "die":
        os._exit(7)
    if completion == "die once":
        marker = Path(str(reference))
        if not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
    return {"none": None, "nan": float("nan"), "text": "five", "typo": {"reword": 1.0}}.get(completion, 1.0)
