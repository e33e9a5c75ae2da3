"""The sandbox itself goes away for a whole batch and comes back: its servers killed, its interpreter missing."""

import logging
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fakes import grpo, prompt_data, trainer

from lit_posttrain.batches import Problem, Verdict
from lit_posttrain.contracts import Grader, Patience
from lit_posttrain.errors import InputError
from lit_posttrain.graders import CodeTests
from lit_posttrain.graders.sandbox import fork_server
from lit_posttrain.graders.sandbox.fork_server import base_interpreter
from lit_posttrain.graders.sandbox.local import LocalSandbox

PROGRAM = "```python\ndef f(text):\n    return sum(letter in '02468' for letter in text) > 1\n```"


class Boxed(Grader):
    """Asks a program in a sandbox about every completion; in some of its calls the sandbox cannot run anything."""

    def __init__(self, interpreter: Path, outages: set[int]) -> None:
        self.interpreter, self.outages, self.calls = interpreter, outages, 0
        self.sandbox = LocalSandbox(servers=1, interpreter=str(interpreter))
        self.code = CodeTests(self.sandbox, patience_s=0.1, cache_size=0)
        self.verdicts: list[set[Verdict]] = []

    def grade(self, items):
        """Right where two digits or more are even."""
        self.calls += 1
        if self.calls in self.outages:
            self.take_away()
        elif not self.interpreter.exists():
            self.interpreter.symlink_to(base_interpreter())
        asked = [(self._problem(drawn.text), replace(drawn, text=PROGRAM)) for _, drawn in items]
        grades = self.code.grade(asked)
        self.verdicts.append({grade.verdict for grade in grades})
        return grades

    def take_away(self) -> None:
        """Removes the interpreter and kills the server: none can be started again."""
        self.interpreter.unlink(missing_ok=True)
        for server in self.sandbox._pool._servers:
            if server.pid is not None:
                os.kill(server.pid, signal.SIGKILL)

    def _problem(self, text: str) -> Problem:
        test = {"args": [text], "expected": True}
        return Problem((), {"kind": "function", "entry": "f", "tests": [test]}, text)


def weights_after(grader: Boxed) -> list[torch.Tensor]:
    """The weights after four steps."""
    module = grpo(grader=grader, group_size=8)
    module.rollouts = replace(module.rollouts, patience=Patience(first_wait_s=0.01))
    trainer(max_steps=4).fit(module, datamodule=prompt_data())
    grader.sandbox.close()
    assert float(module.trainer.callback_metrics["rollout/ungraded_fraction"]) == 0
    return [p.detach().clone() for p in module.policy.parameters()]


def test_a_run_whose_sandbox_was_gone_is_the_run_without_that(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(fork_server, "RESTART_LIMIT_S", 0.1)
    interpreter = tmp_path / "python"
    interpreter.symlink_to(base_interpreter())
    steady = Boxed(interpreter, set())
    try:
        steady.sandbox.prove()
    except InputError as reason:
        pytest.skip(str(reason))
    with caplog.at_level(logging.WARNING):
        undisturbed = weights_after(steady)
        assert "pauses" not in caplog.text
        assert set.union(*steady.verdicts) == {Verdict.PASS, Verdict.WRONG_ANSWER}
        middle = steady.calls // 2 + 1
        failing = Boxed(interpreter, {middle, middle + 1})
        disturbed = weights_after(failing)
    assert failing.verdicts[middle - 1] == failing.verdicts[middle] == {Verdict.SANDBOX_ERROR}
    assert "training pauses" in caplog.text
    assert "training goes on" in caplog.text
    assert all(torch.equal(a, b) for a, b in zip(undisturbed, disturbed, strict=True))
