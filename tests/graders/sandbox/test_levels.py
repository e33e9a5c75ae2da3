"""The level that is claimed: it falls with what is taken away, and is never more than what the canaries prove."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lit_posttrain.errors import InputError
from lit_posttrain.graders.sandbox import levels
from lit_posttrain.graders.sandbox.fork_server import base_interpreter
from lit_posttrain.graders.sandbox.interface import Level, Limits
from lit_posttrain.graders.sandbox.local import LocalSandbox

SCRIPT = Path(__file__).with_name("deprived_levels.py")


def _available() -> Level:
    proofs = [levels.prove(Level(number), base_interpreter()) for number in (3, 2)]
    return next((proof.level for proof in proofs if proof.holds), Level.LIMITED)


def _needs(level: int) -> None:
    if _available() < level:
        pytest.skip(f"this machine proves level {int(_available())} only")


def _deprived(lowest: int, *taken: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(lowest), *taken],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if "root" in taken and "PermissionError" in done.stderr:
        pytest.skip("this process may not change its user")
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_without_namespaces_level_2_is_left():
    _needs(2)
    assert _deprived(1, "namespaces") == ["2", "42"]


@pytest.mark.parametrize("taken", ["landlock", "seccomp"])
def test_without_landlock_or_seccomp_only_level_1_is_left(taken):
    assert _deprived(1, taken) == ["1", "42"]


@pytest.mark.parametrize("taken", ["landlock", "seccomp"])
def test_below_the_lowest_level_it_refuses_with_what_failed(taken):
    (line,) = _deprived(2, taken)
    assert line.startswith("refused no sandbox of level 2 or above")
    assert "level 3" in line
    assert "level 2 could not be started" in line


@pytest.mark.skipif(os.geteuid() != 0, reason="the other tests run as an ordinary user already")
@pytest.mark.parametrize(("taken", "level"), [((), "3"), (("namespaces",), "2")])
def test_an_ordinary_user_gets_the_same_levels(taken, level):
    _needs(int(level))
    assert _deprived(2, "root", *taken) == [level, "42"]


def test_a_single_canary_that_gets_through_lowers_the_level(monkeypatch):
    levels.forget()
    calls = []

    def seen(server):
        calls.append(server.level)
        return {"honest": "", "tcp": "open" if server.level == Level.ISOLATED else ""}

    monkeypatch.setattr(levels, "withstands", seen)
    try:
        assert LocalSandbox().level == Level.CONFINED
        assert calls == [Level.ISOLATED, Level.CONFINED]
        assert LocalSandbox().facts()["sandbox.canaries"] == "level 2 withstood all 2 canaries"
        assert calls == [Level.ISOLATED, Level.CONFINED], "proven once per process"
        with pytest.raises(InputError, match=r"level 3 failed the canaries tcp \(open\)"):
            LocalSandbox(min_level=3).prove()
    finally:
        levels.forget()


def test_the_canaries_get_through_a_server_that_confines_nothing(monkeypatch):
    """They must be able to fail: on level 1, the attacks of level 2 succeed."""
    from lit_posttrain.graders.sandbox import canaries
    from lit_posttrain.graders.sandbox.canary_programs import CONFINED
    from lit_posttrain.graders.sandbox.fork_server import ForkServer

    server = ForkServer(Level.LIMITED)
    monkeypatch.setattr(canaries, "attacks", lambda level: CONFINED)
    try:
        found = canaries.withstands(server)
    finally:
        server.close()
    through = {name for name, what in found.items() if what}
    assert {
        "file",
        "folder",
        "write",
        "tcp",
        "unix socket",
        "fork",
        "exec",
        "signals",
        "namespace",
    } <= through
    assert found["honest"] == ""


def test_levels_that_make_no_sense_are_refused():
    with pytest.raises(InputError, match="i_accept_unconfined_code"):
        LocalSandbox(min_level=1)
    with pytest.raises(InputError, match="1 <= min_level"):
        LocalSandbox(min_level=0)
    with pytest.raises(InputError, match="1 <= min_level"):
        LocalSandbox(min_level=3, max_level=2)


def test_an_interpreter_that_cannot_be_run_is_named(tmp_path):
    with pytest.raises(InputError, match=r"cannot run the interpreter .*no such program"):
        LocalSandbox(interpreter=str(tmp_path / "python")).prove()


def test_a_scratch_folder_needs_level_3():
    _needs(2)
    sandbox = LocalSandbox(max_level=2)
    with pytest.raises(InputError, match="scratch folder needs sandbox level 3"):
        sandbox.open("", Limits(scratch_mib=1))
    sandbox.close()
