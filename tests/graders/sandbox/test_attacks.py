"""Programs that attack the sandbox: none passes without the answer, none gets out, each ends as it must.

Every test runs the suite in a process of its own (`attacks/suite.py`), with a world planted around it.
"""

import functools
import json
import os
import secrets
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from attacks import PROGRAMS
from attacks.world import SECRET_NAME, interpreter_for_all

HERE = Path(__file__).parent
LIMIT_S = 600
IS_ROOT = os.geteuid() == 0
NEEDS_ROOT = pytest.mark.skipif(
    not IS_ROOT, reason="becomes an ordinary user, for which it must start as root"
)

NOBODY = {"as_nobody": True}
DOCKER = {"level": 2, "filtered": True}
QUICK = {"rows": (1, 3, 6, 10, 21, 22, 23, 24, 26, 27, 28, 29, 31, 35)}
"""Rows whose outcome may hang on the user or on what the system allows."""
SHORT = {
    "level_2": {"level": 2, "is_reduced": True},
    "level_3": {"level": 3, "is_reduced": True},
    "level_2_in_docker": {**DOCKER, **QUICK},
    "mutants": {"level": 3, "mutations": 200},
    "mutants_in_docker": {**DOCKER, "mutations": 200},
}
SHORT_AS_NOBODY = {"level_2_as_nobody": {"level": 2, **QUICK, **NOBODY}}
WEAK = {"weak": {"level": 1, "names": ("environment", "tcp")}}
FULL = {"level_2": {"level": 2}, "level_3": {"level": 3}, "level_2_in_docker": DOCKER}
FULL_AS_NOBODY = {f"{name}_as_nobody": {**setting, **NOBODY} for name, setting in FULL.items()} | {
    "mutants_as_nobody": {"level": 2, "mutations": 200, **NOBODY}
}


def test_all_rows_have_programs() -> None:
    """The list of attacks has 37 rows."""
    assert {program.row for program in PROGRAMS} == set(range(1, 38))
    assert len({program.name for program in PROGRAMS}) == len(PROGRAMS) >= 74


@pytest.mark.parametrize("name", SHORT)
def test_programs_neither_forge_nor_escape(name: str) -> None:
    """All rows at every level, but for second forms of what takes its time."""
    _assert_held(_short()[name])


@NEEDS_ROOT
@pytest.mark.parametrize("name", SHORT_AS_NOBODY)
def test_ordinary_users_are_protected_as_well(name: str) -> None:
    """Without any privilege."""
    _interpreter_for_all()
    _assert_held(_short()[name])


def test_mutants_can_pass() -> None:
    """Honest programs are among the mutants: the oracle is not that nothing passes."""
    outcome = _short()["mutants"]
    assert outcome["skipped"] or list(outcome["verdicts"].values()).count("pass") >= 20


def test_a_weak_box_is_found_out() -> None:
    """With limits of resources alone the secrets and the listeners are in reach, and the suite says so."""
    outcome = _short()["weak"]
    assert {"environment_tells", "tcp_tells"} <= {name for name, *_ in outcome["wrong"]}
    assert any("listener heard" in escape for escape in outcome["escapes"])
    assert any("environment_hands_out" in escape for escape in outcome["escapes"])


@pytest.mark.slow
@pytest.mark.parametrize("name", FULL)
def test_every_form_of_every_program(name: str) -> None:
    """What the short runs leave out as well."""
    _assert_held(_run({name: FULL[name]})[name])


@pytest.mark.slow
@NEEDS_ROOT
@pytest.mark.parametrize("name", FULL_AS_NOBODY)
def test_every_form_of_every_program_as_nobody(name: str) -> None:
    """The same for an ordinary user."""
    setting = {**FULL_AS_NOBODY[name], "interpreter": _interpreter_for_all()}
    _assert_held(_run({name: setting})[name])


def _assert_held(outcome: dict[str, Any]) -> None:
    if outcome["skipped"]:
        pytest.skip(f"this machine has no such level: {outcome['skipped']}")
    assert outcome["forged"] == []
    assert outcome["escapes"] == []
    assert outcome["wrong"] == []
    assert outcome["left"] == []
    assert outcome["programs"] > 20


@functools.cache
def _short() -> dict[str, dict[str, Any]]:
    """The outcomes of all short runs, from one process."""
    interpreter = interpreter_for_all() if IS_ROOT else None
    as_nobody = {name: {**setting, "interpreter": interpreter} for name, setting in SHORT_AS_NOBODY.items()}
    return _run(SHORT | WEAK | (as_nobody if interpreter else {}))


def _run(settings: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """What the suite says, by name; it runs in a session of its own, which is ended with it."""
    environment = {**os.environ, "PYTHONPATH": str(HERE), SECRET_NAME: f"planted-{secrets.token_hex(16)}"}
    process = subprocess.Popen(
        [sys.executable, "-m", "attacks.suite", json.dumps(list(settings.values()))],
        stdout=subprocess.PIPE,
        env=environment,
        text=True,
        start_new_session=True,
    )
    try:
        out, _ = process.communicate(timeout=LIMIT_S)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    assert process.returncode == 0
    return dict(zip(settings, json.loads(out), strict=True))


def _interpreter_for_all() -> str:
    """A Python that every user may run; skips the test where there is none."""
    found = interpreter_for_all()
    if found is None:
        pytest.skip("no Python interpreter that an ordinary user may run")
    return found
