"""Fork servers that are killed again and again lose nothing: every honest program still passes."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from attacks.grading import PATIENT, grades
from attacks.honest import RIGHT
from attacks.program import PASS, Program
from attacks.remains import children, command

from lit_posttrain.graders.sandbox.local import LocalSandbox

PROGRAMS_COUNT = 200
KILL_EVERY_S = 0.3


def test_killed_servers_lose_no_sample() -> None:
    """Every 0.3 s one of the two is killed from outside, also while it starts."""
    texts = [RIGHT["plain"], RIGHT["recursion"], RIGHT["noisy"]]
    programs = [
        Program(1, f"honest_{number}", f"# {number}\n{texts[number % len(texts)]}", PASS)
        for number in range(PROGRAMS_COUNT)
    ]
    sandbox = LocalSandbox(servers=2)
    sandbox.facts()  # the self-test is not what is disturbed here
    try:
        with _killing() as killed:
            found = grades(programs, sandbox, None, PATIENT)
    finally:
        sandbox.close()
    assert [grade.verdict for grade in found] == ["pass"] * PROGRAMS_COUNT
    assert [grade.reward for grade in found] == [1.0] * PROGRAMS_COUNT
    assert len(killed) >= 3


@contextmanager
def _killing() -> Iterator[list[int]]:
    killed: list[int] = []
    stop = threading.Event()

    def kill() -> None:
        while not stop.wait(KILL_EVERY_S):
            servers = [server for server in _servers() if server not in killed] or _servers()
            with suppress(ProcessLookupError, IndexError):
                os.kill(servers[0], signal.SIGKILL)
                killed.append(servers[0])

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield killed
    finally:
        stop.set()
        thread.join()


def _servers() -> list[int]:
    """Fork servers that this process started."""
    return [child for child in children() if "server.py" in command(child)]
