"""The Python example runs as it stands, and the README shows a part of it."""

import re
import runpy
import sys
from pathlib import Path

from lit_posttrain.checkpoints import folder

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / "tools" / "python_example.py"
STEPS = 3


def test_example_trains_a_model_and_improves_it(tmp_path, monkeypatch, capsys):
    steps = ["--sft_steps", str(STEPS), "--grpo_steps", str(STEPS)]
    monkeypatch.setattr(sys, "argv", [str(EXAMPLE), "--folder", str(tmp_path), *steps])
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    assert folder.read(tmp_path / "sft.ckpt")["global_step"] == STEPS
    assert (tmp_path / "model" / "model.safetensors").exists()
    told = capsys.readouterr().out.rpartition("held-out accuracy: ")[2].split()
    assert len(told) == 2  # as it came, and at the end
    assert all(0 <= float(value) <= 1 for value in told)


def test_readme_shows_the_example():
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert blocks
    for block in blocks:
        for part in block.strip().split("\n\n\n"):
            assert part in EXAMPLE.read_text()
