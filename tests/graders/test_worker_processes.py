import json
import subprocess
import sys
import time

import pytest

PROGRAM = """
import json, os, sys
import lit_posttrain.graders
loaded = sorted({"sympy", "math_verify", "lightning"} & set(sys.modules))
from lit_posttrain.graders.worker_pool import WorkerPool
pool = WorkerPool("math_worker.py", 1, 60, options={"tolerance": 0.0})
assert pool.ask({"gold": "x", "answer": "x"}).value == "correct"
worker = next(iter(pool._workers)).process.pid
maps = open(f"/proc/{worker}/maps").read()
print(json.dumps({"loaded": loaded, "worker": worker, "torch": "torch" in maps}), flush=True)
os.kill(os.getpid(), 9)
"""


@pytest.fixture(scope="module")
def seen():
    """What a program saw that started a math worker and was killed."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert done.returncode == -9, done.stderr
    return json.loads(done.stdout)


def test_importing_graders_loads_no_symbolic_library(seen):
    assert seen["loaded"] == []


def test_a_math_worker_loads_no_torch(seen):
    assert seen["torch"] is False


def test_workers_die_with_their_parent(seen):
    stops_at = time.monotonic() + 10
    while _is_running(seen["worker"]) and time.monotonic() < stops_at:
        time.sleep(0.02)
    assert not _is_running(seen["worker"])


def _is_running(process: int) -> bool:
    try:
        with open(f"/proc/{process}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
