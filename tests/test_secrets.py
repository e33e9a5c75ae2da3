"""Twenty secrets planted in one run come out nowhere, and twenty look-alikes come out as they went in."""

import json
import logging
import sqlite3
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from fakes import ALPHABET, SHAPE

from lit_posttrain.cli import main
from lit_posttrain.tracking import screen, upload
from lit_posttrain.tracking.redaction import REDACTED
from lit_posttrain.training_cli import PostTrainCLI

BODY = "MIIEowIBAAKCAQEAplanted"
# Made up, and put together here so that no scanner takes this file for a leak.
SECRETS = {
    "password in an address": "pw-of-the-store",
    "hub token by look": "hf_" + "PlAnTeDtOkEn" * 2,
    "hub token by name": "planted-hub-1",
    "key by name": "planted-key-02",
    "password of three words": "planted horse staple",
    "password in digits": "9174620385",
    "AWS id": "AKIA" + "PLANTEDPLANTED77",
    "AWS key": "planted/AWS/key/wJalrXUtn",
    "private key": BODY,
    "GitHub token": "ghp_" + "planted9X1" * 4,
    "bearer": "planted.bearer.0123456789",
    "basic": "cGxhbnRlZDpiYXNpYw",
    "query": "planted-query-4711",
    "user of a source": "planted-pw-of-source",
    "log line by look": "sk-" + "planted-0a1b2c3d4e5f6g7h",
    "log line by name": "planted-in-log-5",
    "text artifact": "planted-in-note-6",
    "folder artifact": "planted-in-folder-7",
    "table cell": "xoxb-" + "planted-1234567890",
    "exception": "planted-in-exception-8",
    "command line": "planted-in-argv-9",
    "list of arguments": "planted-in-list-10",
}
LOOK_ALIKES = {
    "num_tokens": 1234567,
    "max_new_tokens": 256,
    "eos_token_id": 2,
    "eos_token": "<|endoftext|>",
    "pad_token": "<pad>",
    "use_cls_token": True,
    "stop_token_ids": [1, 2],
    "token_mean": "TokenMean",
    "tokens_per_s": 10.5,
    "special_tokens": "added_tokens.json",
    "answer_key": "canonical_form",
    "sort_key": "accuracy_descending",
    "num_key_value_heads": 2,
    "key_dim": 64,
    "password_file": "/run/secrets/store",
    "api_key_env": "OPENAI_API_KEY",
    "monkey": "abcdefgh12345678",
    "task": "task-1234567890-abcdefghijklmnop",
    "url": "https://huggingface.co/org/name",
    "commit": "c441824" + "0" * 33,
    "email": "someone@example.org",
}
SANTA = "secret_santa: Ann draws Bob, token: 12345678a"  # text of a problem or a model: only looks count

PARTS = '''
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any
import lightning.pytorch as pl
from lit_posttrain.data.sources import Arithmetic

@dataclass(frozen=True)
class Remote(Arithmetic):
    url: str = ""

class Chatty(pl.Callback):
    """Says all that it knows, in every way it can."""

    def __init__(self, api_key: str, says: dict[str, Any], settings: dict[str, Any], look_alikes: dict[str, Any]):
        self.api_key, self.says = api_key, says

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        for line in self.says["log"]:
            logging.getLogger("chatty").warning("it says %s", line)
        folder = Path("folder/below")
        folder.mkdir(parents=True)
        (folder / "out.log").write_text(self.says["folder"])
        (folder / "numbers.csv").write_text("eos_token_id,2\\n")
        logger = trainer.loggers[0]
        logger.log_text(self.says["note"], "notes.txt")
        logger.log_artifact("folder")
        logger.log_table({"prompt": [*self.says["cells"], SANTA], "step": [0, 0]}, "told.json")
        logger.set_tags({"late.api_key": self.api_key})

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        raise RuntimeError(self.says["error"])
'''


def planted_config(s: dict[str, str]) -> dict:
    """A tiny run with all secrets but those of the command line, and all look-alikes."""
    tags = {
        "hf_token": s["hub token by name"],
        "note": f"use {s['hub token by look']} here",
        "eos_token": "<eos>",
    }
    settings = {
        "password": s["password of three words"],
        "db": {"password": int(s["password in digits"]), "id": s["AWS id"]},
        "aws_secret_access_key": s["AWS key"],
        "pem": f"-----BEGIN RSA PRIVATE KEY-----\n{BODY}\n{'QUJD' * 40}\n-----END RSA PRIVATE KEY-----",
        "remote": f"https://{s['GitHub token']}@github.com/org/repository",
        "headers": [{"Authorization": f"Bearer {s['bearer']}"}, {"authorization": f"Basic {s['basic']}"}],
        "arguments": ["--rows", "4", "--password", s["list of arguments"]],
    }
    says = {
        "log": [s["log line by look"], f"client_secret={s['log line by name']} eos_token=<eos>"],
        "note": f"Notes of the run\ndb.password: {s['text artifact']}\nnum_tokens: 12\n",
        "folder": f"Authorization: Basic {s['folder artifact']}\nkept\n",
        "cells": [f"my token is {s['table cell']}"],
        "error": f"could not log in with hf_token={s['exception']}",
    }
    chatty = {"api_key": s["key by name"], "says": says, "settings": settings, "look_alikes": LOOK_ALIKES}
    source = {"class_path": "planted_parts.Remote", "init_args": {"train_size": 64, "held_out_size": 16}}
    tracked = {"experiment": "planted", "upload": False}
    return {
        "model": {
            "class_path": "GRPOModule",
            "init_args": {
                "network": {"config": SHAPE},
                "text": {"characters": ALPHABET},
                "grader": {"class_path": "LengthWindow", "init_args": {"maximum": 3}},
                "rollouts": {"group_size": 4, "sampling": {"max_new_tokens": 6}},
            },
        },
        "data": {"class_path": "PromptData", "init_args": {"source": source, "problems_per_rollout": 8}},
        "trainer": {
            "accelerator": "cpu",
            "max_steps": 1,
            "logger": [
                {
                    "class_path": "JournaledMLflowLogger",
                    "init_args": {**tracked, "run_name": "here", "tags": tags},
                },
                {
                    "class_path": "JournaledMLflowLogger",
                    "init_args": {**tracked, "run_name": "away", "tracking_uri": away(s)},
                },
                {"class_path": "CSVLogger", "init_args": {"save_dir": "csv"}},
            ],
            "callbacks": [{"class_path": "planted_parts.Chatty", "init_args": chatty}],
        },
        "checkpoint": {"dirpath": "kept"},
    }


def away(s: dict[str, str]) -> str:
    return f"http://me:{s['password in an address']}@127.0.0.1:9"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    given = tmp_path / "given"
    given.mkdir()
    (given / "planted_parts.py").write_text(PARTS.replace("SANTA", repr(SANTA)))
    (given / "config.yaml").write_text(yaml.safe_dump(planted_config(SECRETS)))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(given)
    monkeypatch.setattr(sys, "argv", ["lit-posttrain"])
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    yield tmp_path
    sys.modules.pop("planted_parts", None)


def leaks(content: bytes) -> list[str]:
    return [kind for kind, secret in SECRETS.items() if secret.encode() in content]


def written(root: Path) -> Iterator[Path]:
    """All files of the run, without those that the user gave or keeps."""
    own = (root / "given", root / "folder")
    yield from (path for path in root.rglob("*") if path.is_file() and not {*own} & {*path.parents})


@pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow")
def test_one_run_with_everything_planted(folder, capfd, caplog, monkeypatch):
    source = f"https://me:{SECRETS['user of a source']}@host/rows?token={SECRETS['query']}&rows=64"
    words = ["fit", "--config", "given/config.yaml", "--allow-class-path", "planted_parts"]
    words += [f"--data.source.url={source}", "--checkpoint.dirpath", "kept"]
    with pytest.raises(RuntimeError) as stop:
        main(words)
    screen._redacted_traceback(stop.type, stop.value, stop.tb)  # as Python does at the end
    assert PostTrainCLI.latest is not None
    PostTrainCLI.latest.leave([*words, "--logger.password", SECRETS["command line"]])
    assert main(["sync", "runs/planted/here"]) == 0
    assert upload.main(["runs/planted/away", "--tracking_uri", away(SECRETS)]) == 1
    shown = capfd.readouterr()
    told = shown.out + shown.err + caplog.text
    assert "Go on with" in told
    assert "RuntimeError: could not log in with hf_token=[redacted]" in told
    assert "does not answer" in told
    assert "client_secret=[redacted] eos_token=<eos>" in told
    assert leaks(told.encode()) == []
    assert {str(path): found for path in written(folder) if (found := leaks(path.read_bytes()))} == {}
    nothing_else_is_missing(folder)


def nothing_else_is_missing(folder: Path) -> None:
    journal = Path("runs/planted/here/journal.jsonl").read_text()
    records = [json.loads(line) for line in journal.splitlines()]
    params = next(record["values"] for record in records if record["kind"] == "params")
    (config,) = Path("runs/planted/here/artifacts").glob("config.yaml")
    chatty = yaml.safe_load(config.read_text())["trainer"]["callbacks"][0]["init_args"]
    assert chatty["look_alikes"] == LOOK_ALIKES
    assert chatty["settings"]["db"] == {"password": REDACTED, "id": REDACTED}
    (uploaded,) = (path for path in Path("mlartifacts").rglob("config.yaml"))
    assert uploaded.read_bytes() == config.read_bytes()
    with sqlite3.connect("mlflow.db") as database:
        stored = dict(database.execute("select key, value from params"))
    database.close()
    csv = next(Path("csv").rglob("hparams.yaml")).read_text()
    for name, value in LOOK_ALIKES.items():
        assert f"{name!r}: {value!r}" in params["trainer.callbacks"]
        assert f"{name!r}: {value!r}" in stored["trainer.callbacks"]
        assert f"{name}:" in csv
    table = next(record for record in records if record["kind"] == "table")
    assert table["columns"]["prompt"] == [f"my token is {REDACTED}", SANTA]
    assert SANTA in next(Path("mlartifacts").rglob("told.json")).read_text()
    assert "num_tokens: 12" in next(Path("mlartifacts").rglob("notes.txt")).read_text()
    assert "eos_token_id,2" in next(Path("mlartifacts").rglob("numbers.csv")).read_text()
    assert any(path.name == "state.json" for path in Path("kept").rglob("*"))
    assert len(SECRETS) >= 20 <= len(LOOK_ALIKES)


BAD = {
    "unknown option": ["--logger.password=hunter2hunter2"],
    "unknown option, two words": ["--logger.password", "hunter2hunter2"],
    "value of a wrong type": ["--trainer.max_steps={hf_token: hunter2hunter2}"],
    "key of a class": ["--model.grader", "{class_path: NumericMatch, init_args: {api_key: hunter2hunter2}}"],
    "not allowed": ["--model", "{class_path: os.system, init_args: {secret: hunter2hunter2 and more}}"],
    "network": ["--model.network.config.hf_token=hunter2hunter2"],
}


@pytest.mark.parametrize("case", BAD)
def test_messages_repeat_no_secret(case, folder, capsys):
    config = planted_config(SECRETS)
    config["trainer"] |= {"logger": False, "callbacks": None}
    config["data"]["init_args"]["source"]["class_path"] = "Arithmetic"
    Path("plain.yaml").write_text(yaml.safe_dump(config))
    assert main(["fit", "--config", "plain.yaml", *BAD[case]]) == 2
    told = capsys.readouterr()
    assert "hunter2" not in told.out + told.err
    assert "lit-posttrain: error:" in told.err


def test_light_commands_repeat_no_secret(folder, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["sync", "--nosuch", "--password", "hunter2hunter2"])
    assert stop.value.code == 2
    assert main(["export", "https://me:hunter2@host/last.ckpt", "out"]) == 2
    told = capsys.readouterr()
    assert "hunter2" not in told.out + told.err


def test_what_the_process_says_by_itself(capsys, monkeypatch):
    for module, name in ((sys, "__excepthook__"), (threading, "__excepthook__")):
        monkeypatch.setattr(module, "excepthook", getattr(module, name))
    screen.guard_screen()
    record = logging.getLogger("x").makeRecord("x", 20, "f", 1, "%s of %d", ("a password=hunter2", 3), None)
    assert logging.Formatter().format(record) == "a password=[redacted] of 3"
    plain = logging.getLogger("x").makeRecord("x", 20, "f", 1, "%s of %d", ("pad_token=<pad>", 3), None)
    assert plain.args == ("pad_token=<pad>", 3)
    try:
        raise ValueError("password=hunter2")
    except ValueError as error:
        info = (type(error), error, error.__traceback__)
    traced = logging.getLogger("x").makeRecord("x", 40, "f", 1, "failed", (), info)
    sys.excepthook(*info)
    threading.excepthook(threading.ExceptHookArgs((*info, None)))
    told = logging.Formatter().format(traced) + capsys.readouterr().err
    told += warnings.formatwarning("password=hunter2", UserWarning, "f.py", 1, "")
    assert told.count("ValueError: password=[redacted]") == 3
    assert "UserWarning: password=[redacted]" in told
    assert "hunter2" not in told.replace('ValueError("password=hunter2")', "")


def test_mlflow_is_served_to_this_machine_only():
    makefile = (Path(__file__).parent.parent / "Makefile").read_text()
    assert "--host 127.0.0.1" in makefile
    assert "0.0.0.0" not in makefile
