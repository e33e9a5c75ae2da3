import json
import subprocess
import sys
import time

import pytest

PROGRAM = """
import json, os, sys
import lit_posttrain.graders
loaded = sorted({"math_verify", "latex2sympy2_extended"} & set(sys.modules))
from lit_posttrain.graders.symbolic_judge import SymbolicJudge
judge = SymbolicJudge(5.0, 1, tolerance=0.0)
assert judge.compare("x", "x") == "correct"
worker = next(iter(judge.pool._workers)).process.pid
children = [int(one) for one in open(f"/proc/{worker}/task/{worker}/children").read().split()]
maps = open(f"/proc/{worker}/maps").read()
print(json.dumps({"loaded": loaded, "worker": worker, "children": children, "torch": "torch" in maps}), flush=True)
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
    assert seen["children"], "answers are worked out in a child of the worker"
    stops_at = time.monotonic() + 20
    processes = [seen["worker"], *seen["children"]]
    while any(map(_is_running, processes)) and time.monotonic() < stops_at:
        time.sleep(0.02)
    assert not any(map(_is_running, processes))


def _is_running(process: int) -> bool:
    try:
        with open(f"/proc/{process}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
