"""A sandbox behind a command: here a plain interpreter, which confines nothing and speaks the same protocol."""

import copy
import sys

import pytest

from lit_posttrain.errors import InputError
from lit_posttrain.graders.sandbox.external import CommandSandbox
from lit_posttrain.graders.sandbox.interface import End, Level, Limits

PYTHON = [sys.executable, "-I", "-S"]


def test_programs_are_called_and_scripts_run():
    sandbox = CommandSandbox(PYTHON)
    assert sandbox.level is Level.EXTERNAL
    with sandbox.open("def f(n): return 2 * n", Limits()) as box:
        assert box.call("f", [4]).value == 8
    assert sandbox.script("print(input())", b"in\n", Limits()).printed == b"in\n"
    assert sandbox.script("import os\nos.abort()", b"", Limits()).end is End.DIED
    assert sandbox.script("while True: pass", b"", Limits(cpu_s=1)).end is End.TIMEOUT
    assert copy.deepcopy(sandbox) == sandbox


def test_a_command_that_runs_no_python_is_refused():
    with pytest.raises(InputError, match="before Python was ready"):
        CommandSandbox(["/bin/echo"]).script("", b"", Limits())
    with pytest.raises(InputError, match="No such file"):
        CommandSandbox(["/bin/no-such-program"]).script("", b"", Limits())
    with pytest.raises(InputError, match="got none"):
        CommandSandbox([])
