"""What programs may leave behind: processes, descriptors."""

import os
import time
from contextlib import suppress
from pathlib import Path

PATIENCE_S = 2.0
"""For processes that were killed to be gone."""


def children() -> list[int]:
    """Processes that this one started, or that became orphans where it is their reaper."""
    tasks = list(Path("/proc/self/task").iterdir())
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


def descriptors() -> set[str]:
    """Numbers of open descriptors and what they are open on."""
    found = set()
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # the listing's own
            found.add(f"{descriptor.name} {os.readlink(descriptor)}")
    return found


def processes_left(known: set[int]) -> list[str]:
    """Other children than these that do not go away; those that went are reaped."""
    stops_at = time.monotonic() + PATIENCE_S
    while True:
        left = [child for child in children() if child not in known and os.waitpid(child, os.WNOHANG)[0] == 0]
        if not left or time.monotonic() > stops_at:
            return [f"process {child} {command(child)}" for child in left]
        time.sleep(0.05)


def command(process: int) -> str:
    """The command line of a process, empty when it is gone."""
    with suppress(OSError):
        line = Path(f"/proc/{process}/cmdline").read_bytes().replace(b"\0", b" ")
        return ascii(line.decode(errors="replace"))[:200]
    return ""
