"""Every shipped YAML parses against the code, the smoke twins train, and the large ones run on a small network."""

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from command_line import training_parser
from transformers import Qwen2Config, Qwen2ForCausalLM

from lit_posttrain import methods
from lit_posttrain.checkpoints import folder
from lit_posttrain.cli import main
from lit_posttrain.errors import InputError
from lit_posttrain.graders.sandbox.local import LocalSandbox
from lit_posttrain.networks import NetworkConfig, build
from lit_posttrain.text import character_tokenizer

ROOT = Path(__file__).parent.parent
CONFIGS = ROOT / "configs"
EVERY = sorted(path.relative_to(CONFIGS).as_posix() for path in CONFIGS.rglob("*.yaml"))
OVERLAYS = [name for name in EVERY if name.startswith("shared/")]
SMOKE = [name for name in EVERY if name.startswith("smoke/")]
LARGE = [name for name in EVERY if "gsm8k" in name and name.startswith(("sft/gsm8k", "grpo/", "ppo/"))]
RUNNABLE = [name for name in EVERY if name not in OVERLAYS]
MOST_LINES = 60


@pytest.fixture(scope="module")
def parser():
    return training_parser()


@pytest.fixture(autouse=True)
def own_arguments(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["lit-posttrain"])
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")  # nothing may reach a real store


def read(name: str) -> dict[str, Any]:
    return yaml.safe_load((CONFIGS / name).read_text())


def skip_without_packages(name: str) -> None:
    """Skips a config whose optional package is not installed."""
    network = read(name)["model"]["init_args"]["network"]
    if "quantisation" in network and importlib.util.find_spec("bitsandbytes") is None:
        pytest.skip("bitsandbytes is not installed (extra `quant`)")


def skip_without_sandbox(name: str) -> None:
    """Skips a config that runs programs, where this machine cannot confine them."""
    if "CodeTests" in (CONFIGS / name).read_text():
        try:
            LocalSandbox().prove()
        except InputError as error:
            pytest.skip(str(error))


def command(name: str) -> str:
    return "test" if name.startswith("test_time/") else "fit"


def checkpoint(root: Path) -> dict[str, Any]:
    (path,) = root.rglob("last.ckpt")
    return folder.read(path)


def changed(content: dict[str, Any]) -> list[str]:
    """The parameters of a checkpoint that are not those of the network it started from."""
    start = build(NetworkConfig.from_dict(content["lit_posttrain"]["network"])).state_dict()
    stored = content["state_dict"].items()  # a reference that moved beside the policy
    now = {key.removeprefix("policy."): value for key, value in stored if key.startswith("policy.")}
    return [key for key, value in now.items() if not torch.equal(value, start[key])]


@pytest.mark.parametrize("name", EVERY)
def test_is_short(name):
    assert len((CONFIGS / name).read_text().splitlines()) <= MOST_LINES


@pytest.mark.parametrize("name", RUNNABLE)
def test_parses(name, parser):
    parsed = parser.parse_args([command(name), "--config", str(CONFIGS / name)])
    assert parsed[command(name)].model.class_path.startswith("lit_posttrain.")


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_overlay_wins_over_what_stands_before_it(overlay, parser):
    both = ["fit", "--config", str(CONFIGS / "grpo/gsm8k_0.5b.yaml"), "--config", str(CONFIGS / overlay)]
    trainer = parser.parse_args(both).fit.trainer
    assert trainer.max_steps == 400  # kept from the first
    (given,) = read(overlay).values()
    for key, value in given.items():
        if key == "logger":
            assert trainer.logger.init_args.experiment == "gsm8k-grpo"
            assert trainer.logger.init_args.tracking_uri == value["init_args"]["tracking_uri"]
        else:
            assert holds(trainer[key], value)


def holds(parsed, given):
    """Whether what is parsed says what is given, and possibly more."""
    if isinstance(given, dict):
        return all(holds(parsed[key], value) for key, value in given.items())
    return str(parsed) == str(given)


def test_a_mistyped_key_does_not_parse(parser, tmp_path):
    config = read("smoke/sft.yaml")
    config["model"]["init_args"]["wieghting"] = {"class_path": "TokenMean"}
    (tmp_path / "wrong.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(InputError, match="wieghting"):
        parser.parse_args(["fit", "--config", str(tmp_path / "wrong.yaml")])


def test_every_method_has_a_smoke_twin():
    tried = {read(name)["model"]["class_path"] for name in SMOKE}
    assert {name for name in methods.__all__ if name.endswith("Module")} <= tried


@pytest.mark.parametrize("name", SMOKE)
def test_smoke_config_trains(name, tmp_path):
    skip_without_packages(name)
    skip_without_sandbox(name)
    arguments = ["--trainer.logger.init_args.root", str(tmp_path)]
    assert main(["fit", "--config", str(CONFIGS / name), *arguments]) == 0
    content = checkpoint(tmp_path)
    assert content["global_step"] == 3
    assert content["skipped_steps"] == 0
    trained = changed(content)
    assert trained
    if content["lit_posttrain"]["network"]["lora"] is not None:
        assert all("lora_" in key for key in trained)


def test_resolved_config_gives_the_same_network(tmp_path):
    first, again = tmp_path / "first", tmp_path / "again"
    given = str(CONFIGS / "smoke/grpo.yaml")
    assert main(["fit", "--config", given, "--trainer.logger.init_args.root", str(first)]) == 0
    (resolved,) = first.rglob("config.yaml")
    assert main(["fit", "--config", str(resolved), "--trainer.logger.init_args.root", str(again)]) == 0
    left, right = checkpoint(first)["state_dict"], checkpoint(again)["state_dict"]
    assert left.keys() == right.keys()
    assert all(torch.equal(left[key], right[key]) for key in left)


@pytest.fixture(scope="module")
def small_model(tmp_path_factory) -> Path:
    """A random Qwen2 of the architecture that the large configs load, with a tokenizer of 15 characters."""
    folder = tmp_path_factory.mktemp("qwen2")
    tokenizer = character_tokenizer("0123456789+=# \n")
    shape = Qwen2Config(
        vocab_size=32,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(0)
    Qwen2ForCausalLM(shape).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def small_gsm8k(tmp_path_factory) -> Path:
    """Sums in the columns of GSM8K; every answer has one digit, so that a random network is right at times."""
    folder = tmp_path_factory.mktemp("gsm8k")
    rows = [
        {"question": f"{a}+{b}+{c}=", "answer": f"{a}+{b}=<<{a}+{b}={a + b}>>{a + b}\n#### {a + b + c}"}
        for a in range(4)
        for b in range(4)
        for c in range(4)
        if a + b + c < 10
    ]
    for split, part in (("train", rows[8:]), ("test", rows[:8])):
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    return folder


def shrunk(config: dict[str, Any], model: Path, data: Path) -> dict[str, Any]:
    """The same experiment on a small network and table: two optimiser steps on the CPU."""
    config["model"]["init_args"]["network"]["path"] = str(model)
    probe = config["trainer"]["callbacks"][0]["init_args"]
    for source in (config["data"], probe.get("data")):
        if source is not None:
            source["init_args"]["source"]["init_args"] |= {"path": str(data), "validation_share": 0.2}
    probe["problems"] = 4
    for part in (config["model"]["init_args"].get("rollouts"), probe):
        if part is not None and "sampling" in part:
            part["sampling"]["max_new_tokens"] = 3
    rollouts = config["model"]["init_args"].get("rollouts", {})
    if "overlong" in rollouts:
        rollouts["sampling"]["max_new_tokens"] = 4
        rollouts["overlong"]["init_args"] = {"text": "=", "after_tokens": [1, 2], "answer_tokens": 1}
    if "value" in config["model"]["init_args"]:
        config["model"]["init_args"]["value"]["warmup_steps"] = 0
    if "problems_per_rollout" in config["data"]["init_args"]:
        config["data"]["init_args"]["problems_per_rollout"] = 8
    else:
        config["data"]["init_args"]["batch_sequences"] = 8
    config["trainer"] |= {"accelerator": "cpu", "max_steps": 2, "accumulate_grad_batches": 2}
    if "val_check_interval" in config["trainer"]:
        config["trainer"]["val_check_interval"] = 2
    return config


@pytest.mark.parametrize("name", LARGE)
def test_large_config_runs_on_a_small_network(name, small_model, small_gsm8k, tmp_path):
    skip_without_packages(name)
    config = shrunk(read(name), small_model, small_gsm8k)
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(config))
    root = tmp_path / "runs"
    arguments = ["--trainer.logger.init_args.root", str(root), "--trainer.logger.init_args.upload", "false"]
    assert main(["fit", "--config", str(tmp_path / "small.yaml"), *arguments]) == 0
    content = checkpoint(root)
    assert content["global_step"] == 2
    assert changed(content)


def test_test_time_config_runs_on_an_exported_model(small_model, tmp_path, capsys):
    arguments = ["--model.network.path", str(small_model), "--model.output", str(tmp_path / "out.jsonl")]
    arguments += [
        "--data.source.digits",
        "2",
        "--data.source.held_out_size",
        "16",
        "--data.probe_problems",
        "4",
    ]
    for name in ("test", "predict"):
        assert main([name, "--config", str(CONFIGS / "test_time/sample.yaml"), *arguments]) == 0
    assert "pass_at_16" in capsys.readouterr().out
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 4 * 16
