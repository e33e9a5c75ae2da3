"""The whole road through the command line, on a tiny network: fit, stop, go on, test, predict, export, curve."""

import json
import signal
from pathlib import Path

import pytest
import torch
import yaml
from fakes import SHAPE

from lit_posttrain.checkpoints import folder as folder_form
from lit_posttrain.cli import main
from lit_posttrain.errors import InputError
from lit_posttrain.training_cli import without_option

PROBE = {
    "class_path": "AccuracyProbe",
    "init_args": {"samples_per_problem": 2, "every_n_steps": 2, "problems": 8},
}
CONFIG = {
    "model": {
        "class_path": "GRPOModule",
        "init_args": {
            "network": {"config": SHAPE},
            "text": {"characters": "0123456789+="},
            "grader": {"class_path": "LengthWindow", "init_args": {"maximum": 3}},
            "rollouts": {"group_size": 4, "sampling": {"max_new_tokens": 6}},
        },
    },
    "data": {
        "class_path": "PromptData",
        "init_args": {
            "source": {"class_path": "Arithmetic", "init_args": {"train_size": 64, "held_out_size": 16}},
            "problems_per_rollout": 8,
        },
    },
    "trainer": {
        "accelerator": "cpu",
        "max_steps": 6,
        "logger": [
            {"class_path": "JournaledMLflowLogger", "init_args": {"experiment": "road", "upload": False}},
            {"class_path": "CSVLogger", "init_args": {"save_dir": "csv"}},
        ],
        "callbacks": [PROBE, {"class_path": "Transcripts"}],
    },
    "checkpoint": {"dirpath": "kept"},
}


class PressCtrlC:
    """Raises what Ctrl-C raises, once, at the end of a step."""

    def __init__(self, step):
        self.step = step

    def __call__(self, trainer, pl_module, *rest):
        if trainer.global_step == self.step:
            self.step = None
            raise KeyboardInterrupt


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("config.yaml").write_text(yaml.safe_dump(CONFIG))
    before = signal.getsignal(signal.SIGINT)
    yield tmp_path
    signal.signal(signal.SIGINT, before)  # Lightning ignores it from the first Ctrl-C on


def test_the_whole_road(folder, capsys, monkeypatch):
    from lit_posttrain.tracking.transcripts import Transcripts

    monkeypatch.setattr(Transcripts, "on_train_batch_end", PressCtrlC(3), raising=False)
    assert main(["fit", "--config", "config.yaml"]) == 130
    told = capsys.readouterr().out
    assert "Stopped at step 3" in told
    go_on = told.split("Go on with:\n")[1].split()
    assert go_on == [
        "lit-posttrain",
        "fit",
        "--config",
        "config.yaml",
        "--ckpt_path",
        str(folder / "kept/last.ckpt"),
    ]
    assert main(go_on[1:]) == 0

    (run,) = (folder / "runs/road").iterdir()
    records = [json.loads(line) for line in (run / "journal.jsonl").read_text().splitlines()]
    probes = [r["step"] for r in records if "scurve/accuracy" in r.get("values", {})]
    assert probes == [0, 2, 4, 6]
    spent = [r["values"]["scurve/flops"] for r in records if "scurve/flops" in r.get("values", {})]
    assert spent == sorted(spent)
    assert spent[0] == 0
    kinds = {r["kind"] for r in records}
    assert kinds >= {"start", "params", "metrics", "table", "artifact", "dataset"}
    assert list(Path("csv").rglob("metrics.csv"))

    arguments = ["--config", "config.yaml", "--ckpt_path", "kept/last.ckpt"]
    assert main(["test", *arguments]) == 0
    assert "16 problems" in capsys.readouterr().out
    assert main(["predict", "--config", "config.yaml", "--ckpt_path", "best"]) == 0
    rows = [json.loads(line) for line in Path("predictions.jsonl").read_text().splitlines()]
    assert len(rows) == 32
    assert {"completion", "reward", "verdict"} <= rows[0].keys()

    assert main(["export", "kept/last.ckpt", "model"]) == 0
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained("model")
    state = folder_form.read(Path("kept/last.ckpt"))["state_dict"]
    assert torch.equal(model.model.embed_tokens.weight, state["policy.model.model.embed_tokens.weight"])
    overlay = {"model": {"init_args": {"network": {"path": "model", "config": None}, "text": None}}}
    Path("overlay.yaml").write_text(yaml.safe_dump(overlay | {"checkpoint": {"dirpath": "next"}}))
    code = main(["fit", "--config", "config.yaml", "--config", "overlay.yaml", "--trainer.max_steps=1"])
    assert code == 0, capsys.readouterr().err
    assert Path("next/last.ckpt").exists()


def test_last_means_from_the_beginning_where_there_is_none_and_runs_are_not_mixed(folder, capsys):
    start = ["fit", "--config", "config.yaml", "--trainer.max_steps=1"]
    assert main(["test", "--config", "config.yaml", "--ckpt_path", "last"]) == 2
    assert "no last checkpoint yet" in capsys.readouterr().err
    assert main([*start, "--ckpt_path", "last"]) == 0
    assert main(start) == 2
    assert "holds checkpoints of an earlier run" in capsys.readouterr().err
    assert main([*start[:-1], "--trainer.max_steps=2", "--ckpt_path", "last"]) == 0
    assert len(list((folder / "runs/road").iterdir())) == 1
    assert Path("kept/last.ckpt").readlink() == Path("step-00000002.ckpt")
    assert main([*start, "--checkpoint.dirpath=null", "--ckpt_path", "last"]) == 2
    assert "run_name" in capsys.readouterr().err


def test_validate_says_what_it_cannot_do(folder, capsys):
    assert main(["validate", "--config", "config.yaml"]) == 2
    assert "lit-posttrain test" in capsys.readouterr().err


def test_a_checkpoint_of_another_network_is_refused(folder, capsys):
    quick = ["fit", "--config", "config.yaml", "--trainer.max_steps=1"]
    assert main(quick) == 0
    other = [
        "--model.network.config.hidden_size=16",
        "--ckpt_path",
        "kept/last.ckpt",
        "--trainer.max_steps=2",
    ]
    assert main([*quick[:-1], *other]) == 2
    assert "another network" in capsys.readouterr().err


def test_light_commands(folder, capsys):
    assert main(["sync"]) == 0
    assert main(["export", "nosuch.ckpt", "out"]) == 2
    assert "nosuch.ckpt" in capsys.readouterr().err
    assert main(["curve", "fit", "--experiment", "none"]) == 2
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0


def test_without_option():
    assert without_option(["a", "--x", "1", "b"], "--x") == ["a", "b"]
    assert without_option(["a", "--x=1", "--y"], "--x") == ["a", "--y"]
    assert issubclass(InputError, ValueError)
