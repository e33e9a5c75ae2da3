"""SFT and GRPO of a real pretrained model on real data, through the command line, reach what is promised."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from lit_posttrain.data.sources import Table
from lit_posttrain.text import TextConfig, load_text

ROOT = Path(__file__).parents[2]
TOOLS = ROOT / "tools"
INSTRUCTIONS = Path("rasbt_instruct", "instruction_data.jsonl.gz")
NUMBER = r"(-?\d+\.\d+)"

pytestmark = pytest.mark.realdata


def run(tool: str, *arguments: object, cwd: Path) -> str:
    quiet = {
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "passive",
        "MLFLOW_TRACKING_URI": "http://127.0.0.1:9",
    }
    command = [sys.executable, str(TOOLS / tool), *map(str, arguments)]
    done = subprocess.run(
        command, cwd=cwd, env=os.environ | quiet, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def numbers(pattern: str, text: str) -> list[float]:
    found = re.search(pattern, text)
    assert found is not None, f"{pattern!r} is not in:\n{text[-3000:]}"
    return [float(number) for number in found.groups()]


def test_loss_is_on_the_answer_and_its_end_only(realdata: Path, tmp_path: Path) -> None:
    run("tinystories_to_hf.py", realdata / "tinystories-llama", tmp_path / "model", cwd=tmp_path)
    config = yaml.safe_load((ROOT / "configs/sft/tinystories_instruct.yaml").read_text())
    template = config["model"]["init_args"]["text"]["template"]
    text = load_text(TextConfig(path=str(tmp_path / "model"), template=template))
    source = Table(str(realdata / INSTRUCTIONS), held_out_share=0.1)
    asked = {split: [chat[0]["content"] for chat in source.chats(split)] for split in ("train", "test")}
    assert len(asked["train"]) > 700
    assert len(asked["test"]) > 60
    assert not set(asked["train"]) & set(asked["test"])
    for question, answer in source.chats("test"):
        example = text.example([question, answer])
        first = example.mask.index(True)
        assert all(example.mask[first:])
        assert example.ids[-1] == text.end_id
        assert example.ids.count(text.end_id) == 2  # the story's start, and the answer's end
        assert text.decode(example.ids[first:]) == " " + answer["content"]
        said = text.tokenizer.decode(example.ids[1:first])
        assert said == f"Question: {question['content']}\nAnswer:"


@pytest.mark.slow
def test_training_reaches_the_promised_figures(realdata: Path, tmp_path: Path) -> None:
    told = run("real_model.py", realdata.resolve(), cwd=tmp_path)
    before, after = numbers(rf"loss, nats/token \| {NUMBER} \| {NUMBER}", told)
    assert after <= 0.6 * before
    base, reached = numbers(rf"mean reward \| {NUMBER} \| {NUMBER}", told)
    assert base < 0.3
    rise, over_prompts, over_words = numbers(
        rf"rises by {NUMBER}; standard error {NUMBER} over \d+ prompts, {NUMBER} over \d+ words", told
    )
    assert rise == pytest.approx(reached - base, abs=2e-3)
    assert rise >= max(0.15, 4 * over_prompts, 4 * over_words)
    (prompts,) = numbers(r"GRPO: (\d+) held-out prompts", told)
    assert prompts >= 256
    likelihoods = [
        numbers(rf"under {model}, nats/token \| {NUMBER} \| {NUMBER}", told)
        for model in ("the starting model", "the policy itself")
    ]
    assert likelihoods[0][0] == pytest.approx(likelihoods[1][0], abs=2e-3)  # before, they are one model
    assert likelihoods[1][1] - likelihoods[0][1] < 0.2  # KL per token: the policy has not left the language
    assert likelihoods[0][1] > likelihoods[0][0] - 0.2
    trained = yaml.safe_load((tmp_path / "runs/tinystories/grpo.yaml").read_text())
    assert trained["model"]["init_args"]["network"]["path"] == "runs/tinystories/model"  # the untouched one
    shown = [line.split()[0] for line in told.splitlines() if re.match(rf"(before|after) +{NUMBER} ", line)]
    assert shown == ["before", "after"] * 12
