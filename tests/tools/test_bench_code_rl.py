"""The parts of the benchmark: servers are found among the processes, killed by number, and runs are compared fairly."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[2] / "tools"


@pytest.fixture
def parts(monkeypatch):
    """The two modules of the tool."""
    monkeypatch.syspath_prepend(str(TOOLS))
    from code_rl import fits, kills

    return fits, kills


RUN = """
import subprocess, sys, time
def start():
    return subprocess.Popen([sys.executable, sys.argv[1]])
server, died = start(), 0
print("up", flush=True)
until = time.monotonic() + 60
while died < 2 and time.monotonic() < until:
    if server.poll() is not None:
        died, server = died + 1, start()
    time.sleep(0.01)
server.kill()
server.wait()
sys.exit(died != 2)
"""


def test_servers_below_a_run_are_killed_again_and_again(parts, tmp_path):
    """A run that starts its server again and ends well once two have died; one of somebody else stays alive."""
    _, kills = parts
    server = tmp_path / "graders" / "sandbox" / "server.py"
    server.parent.mkdir(parents=True)
    server.write_text("import time\ntime.sleep(60)\n")
    bystander = subprocess.Popen([sys.executable, str(server)])
    run = subprocess.Popen([sys.executable, "-c", RUN, str(server)], stdout=subprocess.PIPE)
    try:
        assert run.stdout is not None
        assert run.stdout.readline() == b"up\n"
        done = kills.kill_servers_of(run, every_s=0.3)
        assert run.returncode == 0
        assert done.servers == done.rounds >= 2
        assert done.with_program == 0
        assert bystander.poll() is None
    finally:
        for process in (run, bystander):
            process.kill()
            process.communicate()


def test_depth_counts_generations(parts):
    _, kills = parts
    assert kills.depth(1, {1: [2, 3], 3: [4], 9: [1]}) == 2
    assert kills.depth(2, {1: [2]}) == 0


def test_clocks_are_no_part_of_the_comparison(parts, tmp_path):
    fits, _ = parts
    run = fits.Fit(tmp_path, "one", "config.yaml")
    folder = tmp_path / "runs" / "experiment" / "one"
    folder.mkdir(parents=True)
    values = {
        "reward/mean": 0.5,
        "time/rollout_seconds": 1.5,
        "scurve/device_hours": 0.1,
        "scurve/accuracy": 0.25,
    }
    lines = [{"kind": "start"}, {"kind": "metrics", "step": 3, "values": values}]
    (folder / "journal.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert run.numbers() == [(3, {"reward/mean": 0.5, "scurve/accuracy": 0.25})]
    assert run.with_metric("scurve/accuracy") == [(3, values)]
    assert run.with_metric("train/loss") == []


def test_a_finished_run_is_left_at_once(parts):
    _, kills = parts
    began = time.monotonic()
    assert kills.kill_servers_of(subprocess.Popen(["true"]), every_s=30.0).rounds == 0
    assert time.monotonic() - began < 20
