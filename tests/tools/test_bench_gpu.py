"""The GPU bench runs in miniature on a CPU, and says so where it cannot run in full."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

TOOLS = Path(__file__).parent.parent.parent / "tools"
RESULTS = TOOLS / "bench" / "results"


def written():
    return {path: path.stat().st_mtime_ns for path in RESULTS.rglob("*")}


def test_every_part_runs_in_miniature(tmp_path):
    before = written()
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    ended = subprocess.run(
        [sys.executable, str(TOOLS / "bench_gpu.py"), "--rehearse"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    text, _, page = ended.stdout.partition("\n# cpu\n")
    parts = json.loads(text)["parts"]
    assert all(row["agrees"] for row in parts["agreement"].values())
    assert {row["largest_difference"] for row in parts["agreement"].values()} == {0.0}
    assert parts["supervised"]["tokens_per_step"] == 8 * 16
    assert parts["supervised"]["checkpoint_step"] == 2
    assert parts["online"]["decoded_tokens"] > 0
    assert parts["quickstart"]["grpo_steps"] == 2
    assert page.count("\n## ") == 4
    assert "Failed" not in page
    assert written() == before
    assert not list(tmp_path.iterdir())


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(TOOLS))
    import bench_gpu

    return bench_gpu


def test_without_a_gpu_it_says_so(bench, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["bench_gpu.py"])
    monkeypatch.setattr(bench, "has_cuda", lambda: False)
    before = written()
    assert bench.main() == 0
    told = capsys.readouterr().out
    assert told.count("\n") == 1
    assert "needs a CUDA device" in told
    assert written() == before


def test_model_flops_by_hand(bench):
    from gpu_bench.clock import Step, model_flops

    class Weight:
        weight = torch.zeros(16, 8)

    class Network:
        class hf_config:
            hidden_size, num_hidden_layers = 8, 2

        class causal:
            num_parameters = staticmethod(lambda: 1128)
            get_output_embeddings = staticmethod(lambda: Weight)

    # body 1000, head 128; 20 tokens of which 10 are predicted; attention 2 * 10 * 8 * 2 = 320 per token
    assert model_flops(Network, Step(tokens=20, head_tokens=10), 10) == 3 * (20 * (2000 + 320) + 10 * 256)


def test_peak_of_a_device(bench):
    from gpu_bench.clock import peak_flops

    assert peak_flops("NVIDIA H200") == 989e12
    assert peak_flops("NVIDIA H100 PCIe") == 756e12
    assert peak_flops("NVIDIA H100 80GB HBM3") == 989e12
    assert peak_flops("NVIDIA L40S") == 362e12
    assert peak_flops("an unknown one") is None
