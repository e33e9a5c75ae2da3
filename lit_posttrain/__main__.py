"""The start of every process of a command: `lit-posttrain`, `python -m lit_posttrain`, torchrun, srun.

Of the processes of one run the first speaks for all. The others show nothing, unless one of them fails alone; and
what ends one of them ends all, so that none waits for ever for another that is gone.
"""

import contextlib
import io
import logging
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence

from lit_posttrain import cli

LAUNCHER = "LIT_POSTTRAIN_LAUNCHER"
"""Holds the process id of whoever starts further processes of the same run."""
PATIENCE_S = 5.0
"""How long a process that met bad input, or whose launcher is gone, leaves the others to end things themselves."""
STOP_S = 30.0
"""How long a process that was stopped leaves the first one to put the job back into a queue and say how to go on."""
LOOK_S = 0.2


def main(arguments: Sequence[str] | None = None) -> int:
    """One process of a command; the exit code is that of `cli.main`."""
    parent = os.getppid()
    if os.environ.get(LAUNCHER) == str(parent):
        threading.Thread(target=end_after, args=(parent,), daemon=True, name="launcher").start()
    os.environ[LAUNCHER] = str(os.getpid())
    if is_first(os.environ):
        return cli.main(arguments)
    with silence() as held_back:
        code = cli.main(arguments)
    bad_input = code == cli.EXIT_INPUT_ERROR
    if code and is_alone(parent, PATIENCE_S if bad_input else STOP_S) and bad_input:
        print(f"{place(os.environ)}: {held_back.getvalue()}", end="", file=sys.stderr)
    return code


def is_first(environment: Mapping[str, str]) -> bool:
    """Whether a process is the first of its run, by what torchrun, srun or Lightning told it."""
    if "RANK" in environment:
        return environment["RANK"] == "0"
    if "SLURM_NTASKS" in environment and environment.get("SLURM_JOB_NAME") not in ("bash", "interactive"):
        return environment.get("SLURM_PROCID", "0") == "0"
    return all(environment.get(name, "0") == "0" for name in ("NODE_RANK", "GROUP_RANK", "LOCAL_RANK"))


def place(environment: Mapping[str, str]) -> str:
    """Which process of its run this is, in words."""
    names = {"RANK": "process", "SLURM_PROCID": "process", "NODE_RANK": "node", "LOCAL_RANK": "local process"}
    found = [f"{word} {environment[name]}" for name, word in names.items() if name in environment]
    return found[0] if found[0].startswith("process") else ", ".join(found)


def end_after(parent: int) -> None:
    """Ends this process soon after the one that started it, which a dead network connection might not do."""
    while os.getppid() == parent:
        time.sleep(LOOK_S)
    time.sleep(PATIENCE_S)
    os._exit(1)


def is_alone(parent: int, patience_s: float) -> bool:
    """Whether this process failed and the first did not; else that one has spoken, and its end ends this one.

    Launchers end all processes when one fails, so that the first one must be the first to leave.
    """
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    until = time.monotonic() + patience_s
    while time.monotonic() < until:
        if os.getppid() != parent:
            return False
        time.sleep(LOOK_S)
    return True


@contextlib.contextmanager
def silence() -> Iterator[io.StringIO]:
    """Shows nothing of the block but its exceptions; gives what it would have written to standard error."""
    held_back = io.StringIO()
    logging.disable()
    with (
        open(os.devnull, "w") as nowhere,
        warnings.catch_warnings(),
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(held_back),
    ):
        warnings.simplefilter("ignore")
        try:
            yield held_back
        finally:
            logging.disable(logging.NOTSET)


if __name__ == "__main__":
    sys.exit(main())
