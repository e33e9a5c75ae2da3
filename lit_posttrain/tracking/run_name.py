"""What a run is called on disk and in MLflow."""

import re
import secrets
import time

from lit_posttrain.errors import InputError

_MANNERS = (
    "brisk", "calm", "deft", "eager", "fair", "glad", "keen", "late", "mild", "neat", "proud", "quick"
)  # fmt: skip
_BIRDS = (
    "crane", "crow", "dove", "eagle", "finch", "goose", "heron", "ibis", "jay", "kite", "lark", "merlin"
)  # fmt: skip


def new_name() -> str:
    """A time, so that names sort, and two words and a number, so that they are told apart in talk."""
    words = f"{secrets.choice(_MANNERS)}-{secrets.choice(_BIRDS)}-{secrets.randbelow(100)}"
    return f"{time.strftime('%Y%m%d-%H%M%S')}-{words}"


def folder_name(argument: str, name: str) -> str:
    """The name itself.

    Raises:
        InputError: if it cannot be that of a folder; the message calls it `argument`.
    """
    if not re.fullmatch(r"[^\s./\\][^/\\\n]*", name):
        raise InputError(
            f"{argument} is also the name of a folder: no / or \\, no leading dot or space; got {name!r}"
        )
    return name
