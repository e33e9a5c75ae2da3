"""A wish to stop, from a signal to the places where work can be left without loss.

A signal handler calls `request`. Long loops (writing tokens, waiting for grades) call `safe_point`, which then
raises; where processes must leave together, all of them call `joint_safe_point`. A process that got no signal
learns of the wish of another through `share`.
"""

import time
from collections.abc import Callable
from typing import Any, TypeVar

from lit_posttrain.ranks import Ranks, anywhere

T = TypeVar("T")

POLL_S = 0.5
"""How often a process asks whether another one was told to stop."""
KEY = "lit_posttrain/interruption"


class Interrupted(KeyboardInterrupt):
    """Raised at a safe point after a stop was asked for; the step in progress is drawn again after a resume."""


class _Wish:
    def __init__(self) -> None:
        self.reason: str | None = None
        self.store: Any = None
        self.asked_at = 0.0


_wish = _Wish()


def request(reason: str) -> None:
    """Asks to stop at the next safe point; may be called from a signal handler."""
    _wish.reason = reason


def requested() -> str | None:
    """Why to stop, or None; asks the other processes at most every `POLL_S`."""
    if _wish.store is None:
        return _wish.reason
    now = time.monotonic()
    if now - _wish.asked_at >= POLL_S:
        _wish.asked_at = now
        if _wish.reason is not None:
            _wish.store.set(KEY, _wish.reason)
        elif _wish.store.check([KEY]):
            _wish.reason = _wish.store.get(KEY).decode()
    return _wish.reason


def clear(store: Any = None) -> None:
    """Forgets any wish; `store`, a torch.distributed store, is where several processes tell each other of one."""
    _wish.reason, _wish.store, _wish.asked_at = None, store, 0.0


def safe_point() -> None:
    """Raises:
    Interrupted: in this process, once a stop was asked for.
    """
    reason = requested()
    if reason is not None:
        raise Interrupted(reason)


def joint_safe_point(device: Any = "cpu") -> None:
    """The same for all processes together; collective.

    Raises:
        Interrupted: in every process, once one of them was asked to stop.
    """
    if anywhere(requested() is not None, device):
        raise Interrupted(requested() or "another process was told to stop")


def gather(work: Callable[[], T], ranks: Ranks) -> list[T]:
    """Does `work` in every process and gives the results of all indices; collective.

    Raises:
        Interrupted: in every process, if the work of one was interrupted.
    """
    if ranks.alone:
        return [work()]
    mine: tuple[bool, T | str]
    try:
        mine = True, work()
    except Interrupted as stop:
        mine = False, str(stop)
    everyone = ranks.gather_all(mine)
    for _, (done, result) in everyone:
        if not done:
            raise Interrupted(result)
    by_index = {index: result for index, (_, result) in reversed(everyone)}
    return [by_index[index] for index in range(ranks.count)]  # type: ignore[misc]
