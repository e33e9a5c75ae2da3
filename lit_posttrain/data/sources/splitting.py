"""Which split a problem belongs to, decided by the problem itself."""

import hashlib

from lit_posttrain.errors import InputError

SPLITS = ("train", "validation", "test")


def digest(text: str) -> str:
    """16 hex digits that name a text."""
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def position(text: str) -> float:
    """Where a text falls in [0, 1), by a mixing hash: the same text always alike, near texts anywhere."""
    return int(digest(text), 16) / 2**64


def split_of(text: str, held_out_share: float) -> str:
    """`validation` for this share of all texts, `test` for as much again, `train` for the rest.

    It depends on nothing but the text, so that a problem is in the same split whatever the seed or size.
    """
    place = position(text)
    if place >= 2 * held_out_share:
        return "train"
    return "validation" if place < held_out_share else "test"


def check_split(split: str) -> None:
    """
    Raises:
        InputError: for a split that does not exist.
    """
    if split not in SPLITS:
        raise InputError(f"there is no split {split!r}; choose one of {', '.join(SPLITS)}")


def check_share(held_out_share: float) -> None:
    """
    Raises:
        InputError: for a share that leaves nothing to hold out or to train on.
    """
    if not 0 < held_out_share < 0.5:
        raise InputError(
            f"held_out_share goes to validation and to test, so it is in (0, 0.5); got {held_out_share}"
        )
