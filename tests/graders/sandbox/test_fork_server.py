"""Fork servers: what children get, how they end, and that a dead server costs nothing but time."""

import os
import signal
import time

import pytest

from lit_posttrain.graders.sandbox.box import run_script
from lit_posttrain.graders.sandbox.fork_server import ForkServer, SandboxFailure
from lit_posttrain.graders.sandbox.interface import End, Level, Limits

LIMITS = Limits(cpu_s=1, wall_s=10)


@pytest.fixture
def server():
    made = ForkServer(Level.LIMITED, recycle_after=3)
    yield made
    made.close()


def run(server, source, limits=LIMITS):
    return run_script(server.spawn(limits, with_stdin=True), source, b"", limits)


def test_a_child_has_four_descriptors_and_no_environment(server):
    # LC_CTYPE is the interpreter's own doing, in the C locale
    source = "import os\nprint(sorted(map(int, os.listdir('/proc/self/fd')))[:4], len(os.listdir('/proc/self/fd')))"
    assert run(server, source).printed == b"[0, 1, 2, 3] 5\n"  # the fifth lists the folder
    assert run(server, "import os\nprint(set(os.environ) - {'LC_CTYPE'})").printed == b"set()\n"


def test_packages_of_others_cannot_be_imported(server):
    assert run(server, "import numpy").error == "ModuleNotFoundError"


def test_exit_tells_code_and_signal(server):
    child = server.spawn(LIMITS)
    child.channel.close()
    assert child.wait(5).code == 0
    child.close()
    child = server.spawn(LIMITS)
    with pytest.raises(TimeoutError, match=r"within 0\.05 s"):
        child.wait(0.05)
    child.kill()
    child.kill()
    assert child.wait(5).signal == signal.SIGKILL
    assert child.wait(5).code is None
    child.close()
    child.close()


def test_time_is_up_for_a_program_that_ignores_its_first_signal(server):
    source = "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass"
    assert run(server, source).end is End.TIMEOUT


def test_memory_ends(server):
    assert run(server, "x = bytearray(600 << 20)").end is End.MEMORY_LIMIT


def test_it_is_replaced_after_so_many_programs_and_those_that_run_go_on(server):
    old = server.spawn(LIMITS)
    first = server.pid
    for _ in range(3):
        assert run(server, "print(1)").printed == b"1\n"
    assert server.pid != first
    old.channel.close()
    assert old.wait(5).code == 0
    old.close()


def test_a_killed_server_is_replaced_and_its_children_are_gone(server):
    child = server.spawn(LIMITS)
    first = server.pid
    os.kill(first, signal.SIGKILL)
    with pytest.raises(SandboxFailure, match=r"died|is gone"):  # the program may have seen it first
        child.wait(5)
    assert child.channel.recv(1) == b"", "the program is gone too"
    child.close()
    assert run(server, "print(2)").printed == b"2\n"
    assert server.pid != first


def test_an_unconfinable_program_is_our_failure_not_its(server):
    child = server.spawn(Limits(scratch_mib=1))
    with pytest.raises(SandboxFailure, match="scratch folder needs level 3"):
        child.wait(5)
    child.close()


def test_what_cannot_be_started_says_why(tmp_path):
    with pytest.raises(SandboxFailure, match="cannot run"):
        ForkServer(Level.LIMITED, str(tmp_path / "python")).start()
    with pytest.raises(SandboxFailure, match="before it said anything"):
        ForkServer(Level.LIMITED, "/bin/true").spawn(LIMITS)


def test_closing_leaves_no_process_and_no_descriptor(server):
    server.start()
    before = len(os.listdir("/proc/self/fd"))
    children = [server.spawn(LIMITS) for _ in range(3)]
    pid = server.pid
    for child in children:
        child.close()
    assert len(os.listdir("/proc/self/fd")) == before
    server.close()
    stops_at = time.monotonic() + 5
    while os.path.exists(f"/proc/{pid}") and time.monotonic() < stops_at:
        time.sleep(0.01)
    assert not os.path.exists(f"/proc/{pid}")
