"""What MLflow takes (seen with 3.17): longer values it would cut without a word, larger calls it refuses."""

import json
import re
from collections.abc import Iterator, Sequence
from hashlib import sha256
from typing import Any

METRICS_A_CALL = 1000
PARAMS_A_CALL = 100
CHARACTERS_A_CALL = 300_000
PARAM_CHARACTERS = 6000
TAG_CHARACTERS = 8000
NAME_CHARACTERS = 250
DIGEST_CHARACTERS = 36


def fitting_name(name: str) -> str:
    """A name that MLflow takes; a change of a long one is told apart by its digest."""
    clean = re.sub(r"[^\w.\-/: ]", "_", name)
    clean = "/".join(part for part in clean.split("/") if part not in ("", ".", "..")) or "_"
    if len(clean) <= NAME_CHARACTERS:
        return clean
    return f"{clean[: NAME_CHARACTERS - 17]}_{sha256(name.encode()).hexdigest()[:16]}"


def in_calls(items: Sequence[Any]) -> Iterator[list[Any]]:
    """Parameters or tags (with `key` and `value`) in lists that fit into one call each."""
    chunk: list[Any] = []
    size = 0
    for item in items:
        length = len(json.dumps([item.key, item.value]))
        if chunk and (len(chunk) == PARAMS_A_CALL or size + length > CHARACTERS_A_CALL):
            yield chunk
            chunk, size = [], 0
        chunk.append(item)
        size += length
    if chunk:
        yield chunk
