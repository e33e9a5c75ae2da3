import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import yaml

sys.path.insert(0, str(Path(__file__).parent.parent / "tracking"))
from scripted_run import LEARNING, Questions, ScriptedMethod, fit

from lit_posttrain import interruption
from lit_posttrain.checkpoints import folder, preemption, recovery
from lit_posttrain.checkpoints.keeper import CheckpointKeeper
from lit_posttrain.checkpoints.preemption import Preemption, requeue
from lit_posttrain.checkpoints.run_state import RunState
from lit_posttrain.errors import InputError
from lit_posttrain.tracking.compute import ComputeMeter
from lit_posttrain.tracking.probe import AccuracyProbe

SIGNALS = {"SIGTERM": 143, "SIGUSR1": 143, "SIGINT": 130}
ROOT = Path(__file__).parent.parent.parent


class Signalled(ScriptedMethod):
    """Gets a signal while it fetches a batch (as in a rollout) or trains on it, and goes on until a safe point."""

    def __init__(self, name, batch, place, **settings):
        super().__init__(**settings)
        self.name, self.batch, self.place = name, batch, place
        self.steps.on_fetch = self.collect

    def signal_at(self, place, batch):
        if (place, batch) == (self.place, self.batch):
            self.place = None
            signal.raise_signal(signal.Signals[self.name])

    def collect(self):
        self.signal_at("rollout", self.steps.position)
        if self.place is None:
            interruption.safe_point()

    def training_step(self, batch, batch_idx):
        self.signal_at("step", int(batch))
        return super().training_step(batch, batch_idx)


def parts(path, **settings):
    stopped = Preemption(**settings)
    watched = AccuracyProbe(data=Questions(["a", "b", "c"]), every_n_steps=3)
    return stopped, [watched, ComputeMeter(), RunState(), stopped, CheckpointKeeper(path)]


@pytest.fixture(autouse=True)
def handlers():
    """Those of before a test are there after it."""
    before = {name: signal.getsignal(signal.Signals[name]) for name in SIGNALS}
    yield
    assert {name: signal.getsignal(signal.Signals[name]) for name in SIGNALS} == before
    assert interruption.requested() is None


@pytest.mark.parametrize("name", SIGNALS)
@pytest.mark.parametrize(("place", "batch"), [("rollout", 5), ("step", 4), ("step", 3)])
def test_a_signal_leaves_the_last_finished_step(tmp_path, capfd, name, place, batch):
    """Two batches to a step: batch 4 ends step 2, so that a signal in it still counts the step."""
    stopped, callbacks = parts(tmp_path)
    method = Signalled(name, batch, place, batches=8, accumulate=2)
    with pytest.raises(SystemExit):
        fit(method, callbacks)
    assert stopped.exit_code == SIGNALS[name]
    assert stopped.reason == name
    assert f"{name}: saving the last finished step, which may take up to 60 s" in capfd.readouterr().err
    steps = {("rollout", 5): 2, ("step", 4): 2, ("step", 3): 1}[place, batch]
    stored = folder.read(tmp_path / "last.ckpt")
    assert stored["global_step"] == steps
    assert float(stored["state_dict"]["policy.skill"]) == steps * LEARNING
    resumed = ScriptedMethod(batches=8, accumulate=2)
    fit(resumed, parts(tmp_path)[1], ckpt_path=tmp_path / "last.ckpt")
    assert resumed.trained == list(range(2 * steps + 1, 9))
    for thread in threading.enumerate():
        if thread.name == "preemption":
            thread.join(5)
            assert not thread.is_alive()


def test_a_signal_in_the_last_step_lets_the_run_end(tmp_path):
    stopped, callbacks = parts(tmp_path)
    fit(Signalled("SIGTERM", 8, "step", batches=8), callbacks)
    assert stopped.reason is None
    assert folder.read(tmp_path / "last.ckpt")["global_step"] == 8


class Left(BaseException):
    """In place of the end of the process."""


def test_a_second_signal_leaves_at_once(tmp_path, monkeypatch):
    def leave(code):
        raise Left(code)

    class Twice(CheckpointKeeper):
        """Gets the second signal while it saves; Ctrl-C, which Lightning ignores from the first on."""

        def _save(self, trainer):
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(preemption.os, "_exit", leave)
    stopped = Preemption()
    with pytest.raises(Left) as left:
        fit(Signalled("SIGTERM", 5, "rollout"), [stopped, ComputeMeter(), Twice(tmp_path)])
    assert left.value.args == (130,)
    for name in SIGNALS:  # the process would be gone
        signal.signal(
            signal.Signals[name], signal.default_int_handler if name == "SIGINT" else signal.SIG_DFL
        )
    stopped.saved()


def test_a_save_that_takes_too_long_is_given_up(tmp_path, monkeypatch, capfd):
    codes, gone = [], threading.Event()

    def leave(code):
        codes.append(code)
        gone.set()

    class Slow(CheckpointKeeper):
        def _save(self, trainer):
            assert gone.wait(10)

    monkeypatch.setattr(preemption.os, "_exit", leave)
    stopped = Preemption(save_within_s=0.2)
    with pytest.raises(SystemExit):
        fit(Signalled("SIGUSR1", 5, "rollout"), [stopped, ComputeMeter(), Slow(tmp_path)])
    assert codes == [143]
    assert "nothing could be saved within 0.2 s" in capfd.readouterr().err


def test_no_time_to_save_is_refused():
    with pytest.raises(InputError, match="save_within_s is 0"):
        Preemption(save_within_s=0)


@pytest.mark.parametrize(
    ("job", "asked"), [("123", True), ("123_4", True), ("1; rm -rf /", False), (None, False)]
)
def test_only_a_slurm_job_is_requeued(tmp_path, monkeypatch, job, asked):
    program = tmp_path / "scontrol"
    program.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/asked\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    if job is not None:
        monkeypatch.setenv("SLURM_JOB_ID", job)
    requeue()
    assert (tmp_path / "asked").exists() == asked
    if asked:
        assert (tmp_path / "asked").read_text() == f"requeue {job}\n"


def test_a_failing_requeue_is_said(monkeypatch, caplog, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    requeue()
    assert "job 7 could not be requeued" in caplog.text


@pytest.fixture
def long_run(tmp_path):
    """`fit` of the smoke config with rollouts of some seconds, in a process of its own."""
    config = yaml.safe_load((ROOT / "configs/smoke/grpo.yaml").read_text())
    config["model"]["init_args"]["rollouts"]["sampling"]["max_new_tokens"] = 400
    config["model"]["init_args"]["network"]["config"]["max_position_embeddings"] = 512
    config["trainer"] |= {"max_steps": 1000, "accelerator": "cpu", "devices": 1}
    config["trainer"]["callbacks"] = [{"class_path": "Transcripts"}]
    config["trainer"]["logger"] = {
        "class_path": "JournaledMLflowLogger",
        "init_args": {"experiment": "long", "run_name": "one"},
    }
    config["checkpoint"] = {"dirpath": "kept"}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    return tmp_path


def start(path, *arguments):
    command = [sys.executable, "-m", "lit_posttrain", "fit", "--config", "config.yaml", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MLFLOW_TRACKING_URI": "sqlite:///mlflow.db"}
    return subprocess.Popen(
        command, cwd=path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def wait_for_steps(path, count, process):
    """Until the journal tells of so many steps of training; the next rollout is under way then."""
    journal, until = path / "runs/long/one/journal.jsonl", time.monotonic() + 120
    while not journal.exists() or journal.read_text().count("train/loss") < count:
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < until
        time.sleep(0.05)
    time.sleep(0.3)


def test_a_signal_in_a_rollout_of_the_real_command(long_run):
    process = start(long_run, "--ckpt_path", "last")
    wait_for_steps(long_run, 2, process)
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    told, _ = process.communicate(timeout=300)
    assert time.monotonic() - began < 5, told
    assert process.returncode == 143, told
    assert "Stopped at step" in told
    assert folder.verify(long_run / "kept" / "last.ckpt").step >= 2
    step = folder.read(long_run / "kept" / "last.ckpt")["global_step"]

    process = start(long_run, "--ckpt_path", "last")
    wait_for_steps(long_run, step + 1, process)
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGUSR1)  # a second SIGTERM could be taken for the first
    began = time.monotonic()
    process.communicate(timeout=300)
    assert process.returncode == 143
    assert time.monotonic() - began < 2
    folder.verify(recovery.usable(long_run / "kept" / "last.ckpt"))
