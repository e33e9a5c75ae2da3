"""What was told of a large table, kept for runs that need not read it again, since its tokens are cached."""

import json
import os
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from lightning.pytorch.utilities.rank_zero import rank_zero_only

LARGE_ROWS = 10_000
"""From here on reading a table only to report on it is worth sparing."""


@lru_cache(maxsize=64)
def say(text: str) -> None:
    """Prints a report once, however often its table is read."""
    rank_zero_only(print)(text)


def keep(file: Path, key: str, text: str) -> None:
    """Keeps a report; `key` changes with whatever it speaks of. Without room for it, the table is read again."""
    draft = file.with_name(f"{file.name}.{os.getpid()}")
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(json.dumps({"key": key, "text": text}), encoding="utf-8")
        draft.replace(file)


def kept(file: Path, key: str) -> str | None:
    """The report that was kept under this key."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found["text"] if isinstance(found, dict) and found.get("key") == key else None
