"""A run of several processes, however it is started: the first one speaks, and all end together."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from launch_process import Starter, free_port, slurm_environments, torchrun_environments

from lit_posttrain.__main__ import is_first, place

CONFIGS = Path(__file__).parent.parent / "configs"
SFT = ["fit", "--config", str(CONFIGS / "smoke/sft.yaml")]
CPU = ["--trainer.accelerator", "cpu", "--trainer.precision", "32-true"]
LAST_LINE = re.compile(r"step 3/3  loss (\d+\.\d+)")


def overlaid(name: str, *arguments: str) -> list[str]:
    return [*SFT, "--config", str(CONFIGS / f"shared/{name}.yaml"), *CPU, *arguments]


@pytest.fixture(scope="module")
def starter():
    starter = Starter()
    yield starter
    starter.close()


@pytest.fixture(scope="module")
def loss_of_one(starter, tmp_path_factory):
    """What one process says at the end."""
    (ended,) = starter.run(tmp_path_factory.mktemp("one"), [{}], SFT)
    assert ended.code == 0, ended.err
    (loss,) = LAST_LINE.findall(ended.out)
    return loss


def environment(**more: str) -> dict[str, str]:
    inherited = {k: v for k, v in os.environ.items() if k not in ("LOCAL_RANK", "RANK", "MASTER_PORT")}
    return inherited | {"OMP_NUM_THREADS": "1", **more}


def check_one_voice(folder: Path, out: str, loss: str) -> None:
    """One run folder, one report, the loss of one process."""
    assert len(list((folder / "runs/smoke/smoke").iterdir())) == 1
    assert [line.split(":")[0] for line in out.splitlines() if "kept," in line].count("train") == 1
    assert LAST_LINE.findall(out) == [loss]


def test_lightning_starts_the_others(tmp_path, loss_of_one):
    command = [sys.executable, "-m", "lit_posttrain", *overlaid("ddp", "--trainer.devices", "2")]
    ended = subprocess.run(
        command, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=400
    )
    assert ended.returncode == 0, ended.stderr
    assert "MEMBER: 1/2" in ended.stderr
    assert "MEMBER: 2/2" not in ended.stderr
    check_one_voice(tmp_path, ended.stdout, loss_of_one)


def test_two_nodes_of_torchrun(tmp_path, loss_of_one):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc_per_node", "1"]
    torchrun += ["--rdzv_backend", "c10d", "--rdzv_endpoint", f"127.0.0.1:{free_port()}", "--rdzv_id", "two"]
    nodes = ["--trainer.num_nodes", "2", "--trainer.devices", "1"]
    command = [*torchrun, "-m", "lit_posttrain", *overlaid("fsdp", *nodes)]
    processes = [
        subprocess.Popen(
            command,
            cwd=tmp_path,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    try:
        told = [process.communicate(timeout=600) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], "\n".join(err for _, err in told)
    first, second = sorted(told, key=lambda texts: -len(texts[0]))
    check_one_voice(tmp_path, first[0], loss_of_one)
    assert second[0] == ""


def test_slurm_says_who_is_who(starter, tmp_path, loss_of_one):
    first, second = starter.run(tmp_path, slurm_environments(), overlaid("ddp", "--trainer.devices", "2"))
    assert (first.code, second.code) == (0, 0), first.err + second.err
    check_one_voice(tmp_path, first.out, loss_of_one)
    assert (second.out, second.err) == ("", "")


def test_bad_input_is_told_once(starter, tmp_path):
    wrong = [*SFT, "--trainer.devices", "2", "--trainer.strategy", "ddp", "--data.batch", "3"]
    first, second = starter.run(tmp_path, torchrun_environments(), wrong, together=True)
    assert first.code == 2
    assert first.err.startswith("lit-posttrain: error:")
    assert "'batch' is not accepted" in first.err
    assert (second.code, second.out, second.err) == (-15, "", "")
    assert not list(tmp_path.iterdir())


def test_what_one_process_alone_meets_is_told_by_it(starter, tmp_path):
    right = [*SFT, "--trainer.devices", "2", "--trainer.strategy", "ddp"]
    wrong = [*right, "--data.batch", "3"]
    first, second = starter.run(
        tmp_path, torchrun_environments(), right, wrong, together=True, patience_s=0.5
    )
    assert second.code == 2
    assert second.err.startswith("process 1: lit-posttrain: error:")
    assert first.code != 0


def signalled(folder: Path, rank: int, number: int) -> list[str]:
    """A command in which a process gets a signal."""
    callback = f"{{class_path: launch_process.Signalled, init_args: {{rank: {rank}, number: {number}}}}}"
    (folder / "signalled.yaml").write_text(f"trainer: {{callbacks: [{callback}]}}\n")
    command = overlaid("ddp", "--trainer.devices", "2", "--config", "signalled.yaml")
    return [*command, "--allow-class-path", "launch_process"]


@pytest.mark.parametrize("rank", [0, 1])
def test_none_waits_for_one_that_is_gone(starter, tmp_path, rank):
    command = signalled(tmp_path, rank, signal.SIGKILL)
    ended = starter.run(tmp_path, torchrun_environments(), command)
    assert ended[rank].code == -signal.SIGKILL
    assert ended[1 - rank].code == 1
    assert "Connection" in ended[1 - rank].err
    assert ended[1 - rank].seconds - ended[rank].seconds < 20


def test_all_stop_together_and_the_first_leaves_first(starter, tmp_path):
    command = signalled(tmp_path, 1, signal.SIGTERM)
    first, second = starter.run(tmp_path, torchrun_environments(), command, together=True)
    assert first.code == 143, first.err
    assert "Go on with:" in first.out
    assert second.code == -signal.SIGTERM
    assert second.out == ""
    assert [path.name for path in tmp_path.rglob("step-*.ckpt")] == ["step-00000002.ckpt"]


ORPHAN = """
import os, subprocess, sys, time
import lit_posttrain.__main__ as entry
if len(sys.argv) > 1:
    entry.PATIENCE_S = 0.3
    entry.cli.main = lambda arguments: time.sleep(60)
    entry.main()
else:
    entry.cli.main = lambda arguments: 0
    entry.main()
    child = subprocess.Popen([sys.executable, __file__, "child"], stdout=subprocess.DEVNULL)
    print(child.pid, flush=True)
    time.sleep(float(os.environ["LIVES_S"]))
    os._exit(9)
"""


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_none_outlives_the_process_that_started_it(tmp_path):
    (tmp_path / "orphan.py").write_text(ORPHAN)
    parent = subprocess.run(
        [sys.executable, str(tmp_path / "orphan.py")],
        env=environment(LIVES_S="2"),
        stdout=subprocess.PIPE,
        text=True,
        timeout=30,
    )
    child = int(parent.stdout)
    until = time.monotonic() + 10
    while is_running(child) and time.monotonic() < until:
        time.sleep(0.1)
    assert parent.returncode == 9
    assert not is_running(child)


@pytest.mark.parametrize(
    ("told", "first"),
    [
        ({}, True),
        ({"RANK": "0", "LOCAL_RANK": "0"}, True),
        ({"RANK": "8", "LOCAL_RANK": "0", "GROUP_RANK": "1"}, False),
        ({"SLURM_NTASKS": "4", "SLURM_PROCID": "0"}, True),
        ({"SLURM_NTASKS": "4", "SLURM_PROCID": "3", "SLURM_LOCALID": "1"}, False),
        ({"SLURM_NTASKS": "4", "SLURM_PROCID": "3", "SLURM_JOB_NAME": "interactive"}, True),
        ({"LOCAL_RANK": "0", "NODE_RANK": "0"}, True),
        ({"LOCAL_RANK": "1", "NODE_RANK": "0"}, False),
        ({"NODE_RANK": "1"}, False),
    ],
)
def test_which_process_is_the_first(told, first):
    assert is_first(told) is first


def test_a_process_is_named_by_its_place():
    assert place({"RANK": "3", "LOCAL_RANK": "1"}) == "process 3"
    assert place({"NODE_RANK": "1", "LOCAL_RANK": "2"}) == "node 1, local process 2"
