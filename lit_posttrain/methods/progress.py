"""Lightning's counters of batches, for a run that goes on with another number of micro-batches a step."""

from collections.abc import Mapping
from typing import Any

COUNTERS = ("ready", "started", "processed", "completed")


def rescaled(fit_loop: Mapping[str, Any], before: int, now: int) -> dict[str, Any]:
    """The state of a fit loop that counted `before` micro-batches a step, counting `now` of them.

    Steps are whole: what lacks to the last micro-batch of a step (some counters are one behind while a
    callback saves) stays the same.
    """
    state = dict(fit_loop)
    if before == now:
        return state
    progress = dict(state["epoch_loop.batch_progress"])
    for scope in ("total", "current"):
        counts = progress[scope]
        steps = counts["ready"] // before
        progress[scope] = counts | {
            name: steps * now - (counts["ready"] - counts[name]) for name in COUNTERS if name in counts
        }
    state["epoch_loop.batch_progress"] = progress
    return state
