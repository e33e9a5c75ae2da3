import ast
import math
import socket
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

import lit_posttrain.tracking
from lit_posttrain.errors import InputError
from lit_posttrain.tracking.journal import read
from lit_posttrain.tracking.mlflow import JournaledMLflowLogger, flat


@pytest.fixture
def logger(tmp_path):
    return make(tmp_path)


def make(tmp_path, **changes):
    settings = {
        "tracking_uri": f"sqlite:///{tmp_path}/mlflow.db",
        "root": str(tmp_path / "runs"),
        "upload": False,
        "run_name": "calm-owl",
    }
    return JournaledMLflowLogger("sums", **(settings | changes))


def records(logger, *kinds):
    every = [entry.record for entry in read(logger.directory)]
    return [record for record in every if record["kind"] in kinds] if kinds else every


class Line(LightningModule):
    def __init__(self, slope=1.0, hf_token="hf_" + "x" * 30):
        super().__init__()
        self.save_hyperparameters()
        self.layer = torch.nn.Linear(1, 1)

    def training_step(self, batch, index):
        loss = self.layer(batch).square().mean()
        self.log("train/loss", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Numbers(LightningDataModule):
    def __init__(self, broken=False):
        super().__init__()
        self.broken = broken

    def setup(self, stage):
        if self.broken:
            raise InputError("row 7 has no answer")

    def train_dataloader(self):
        return torch.utils.data.DataLoader(torch.ones(4, 1))


def trainer(logger, tmp_path, callbacks=()):
    return Trainer(
        max_epochs=1,
        logger=logger,
        accelerator="cpu",
        log_every_n_steps=1,
        callbacks=list(callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )


@pytest.mark.filterwarnings("ignore:.*(num_workers|LeafSpec|litlogger|litmodels).*")
def test_a_lightning_run_is_journaled_beside_another_logger(tmp_path, logger):
    other = CSVLogger(tmp_path / "csv")
    trainer([logger, other], tmp_path, [ModelCheckpoint(save_last=True)]).fit(Line(), Numbers())
    start, params, *steps, end = records(logger)
    assert (start["kind"], start["experiment"], start["run_name"]) == ("start", "sums", "calm-owl")
    assert start["tags"]["version.torch"] == torch.__version__
    assert params["values"] == {"slope": "1.0", "hf_token": "[redacted]"}
    assert [(step["step"], list(step["values"])) for step in steps] == [(i, ["train/loss"]) for i in range(4)]
    assert (end["kind"], end["status"]) == ("end", "FINISHED")
    assert (tmp_path / "runs" / "sums" / "calm-owl" / "checkpoints" / "last.ckpt").exists()
    assert (Path(other.log_dir) / "metrics.csv").exists()


@pytest.mark.filterwarnings("ignore:.*(num_workers|LeafSpec|litlogger|litmodels).*")
def test_a_start_that_fails_leaves_nothing(tmp_path, logger):
    logger.log_text("config", "config.yaml")
    with pytest.raises(InputError, match="row 7"):
        trainer(logger, tmp_path).fit(Line(), Numbers(broken=True))
    assert logger.experiment is logger
    assert list(tmp_path.iterdir()) == []


def test_what_comes_before_the_first_metric_is_held_and_then_written_in_order(tmp_path, logger):
    source = tmp_path / "notes.txt"
    source.write_text("password: hunter2\n")
    logger.log_text("client_secret: abc\nlr: 0.1\n", "config/run.yaml")
    logger.log_hyperparams(Namespace(a={"b": 1, "c": Namespace(d=[1, 2])}))
    logger.set_tags({"api_key": "abcdefgh", "note": "x"})
    logger.log_artifact(source, "docs")
    logger.log_dataset("sums", "https://me:pw@example.org/x", "0f")
    assert not (tmp_path / "runs").exists()
    logger.log_metrics({"epoch": 3}, step=0)
    assert not (tmp_path / "runs").exists()
    logger.log_metrics({"train/loss": math.nan, "epoch": 3}, step=0)
    logger.finalize("failed")
    kinds = [record["kind"] for record in records(logger)]
    assert kinds == ["start", "artifact", "params", "tags", "artifact", "dataset", "metrics", "end"]
    config, notes = records(logger, "artifact")
    assert config == {"kind": "artifact", "path": "artifacts/config/run.yaml", "artifact_path": "config"}
    assert (logger.directory / config["path"]).read_text() == "client_secret: [redacted]\nlr: 0.1\n"
    assert (logger.directory / notes["path"]).read_text() == "password: [redacted]\n"
    assert records(logger, "params")[0]["values"] == {"a.b": "1", "a.c.d": "[1, 2]"}
    assert records(logger, "tags")[0]["values"] == {"api_key": "[redacted]", "note": "x"}
    assert records(logger, "dataset")[0]["source"] == "https://[redacted]@example.org/x"
    assert list(records(logger, "metrics")[0]["values"]) == ["train/loss"]
    assert records(logger, "end")[0]["status"] == "FAILED"


def test_names_are_those_of_the_vocabulary(logger):
    with pytest.raises(ValueError, match=r"names\.py"):
        logger.log_metrics({"train/los": 1.0}, step=0)
    logger.log_metrics({"reward/format": 1.0, "DeviceStatsMonitor.on_train/cpu": 2.0, "lr-SGD": 3.0}, step=0)
    assert len(records(logger, "metrics")[0]["values"]) == 3
    logger.finalize("success")


def test_tables_are_checked_and_redacted(logger):
    with pytest.raises(InputError, match="one length"):
        logger.log_table({"a": [1], "b": []}, "t.json")
    logger.log_table({"a": ["see hf_" + "x" * 30], "b": [1]}, "t.json")
    logger.finalize("success")
    assert records(logger, "table")[0]["columns"] == {"a": ["see [redacted]"], "b": [1]}


def test_a_resumed_run_goes_on_in_its_journal_and_a_new_one_does_not_mix_with_it(tmp_path, logger):
    logger.log_metrics({"train/loss": 1.0}, step=5)
    logger.finalize("failed")
    with pytest.raises(InputError, match="holds another run"):
        make(tmp_path).log_metrics({"train/loss": 1.0}, step=0)
    resumed = make(tmp_path, run_name="other-name")
    resumed.log_text("config", "config.yaml")  # before the checkpoint is read
    resumed.load_state_dict(logger.state_dict())
    resumed.log_metrics({"train/loss": 1.0}, step=4)
    resumed.finalize("success")
    assert resumed.directory == logger.directory
    assert [(r["run_uid"], r["rewind"]) for r in records(logger, "start")] == [
        (logger.run_uid, False),
        (logger.run_uid, True),
    ]
    assert not (tmp_path / "runs" / "sums" / "other-name").exists()


def test_logging_after_the_end_opens_the_run_again(logger):
    logger.log_metrics({"train/loss": 1.0}, step=5)
    logger.finalize("success")
    logger.log_metrics({"test_time/accuracy": 1.0}, step=5)
    logger.finalize("success")
    assert [record["kind"] for record in records(logger)] == ["start", "metrics", "end"] * 2
    assert [record["rewind"] for record in records(logger, "start")] == [False, False]


def test_a_checkpoint_read_too_late_does_not_tear_the_run(tmp_path, logger):
    logger.log_metrics({"train/loss": 1.0}, step=0)
    with pytest.warns(UserWarning, match="before the first metric"):
        logger.load_state_dict({"run_uid": "u", "experiment": "e", "run_name": "r"})
    logger.finalize("success")


@pytest.mark.parametrize("name", ["a/b", "..", ".hidden", "", " x"])
def test_names_that_cannot_be_folders_are_refused(tmp_path, name):
    with pytest.raises(InputError, match="folder"):
        JournaledMLflowLogger(name, root=str(tmp_path))


def test_addresses_are_absolute_and_without_passwords(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for given, kept in [
        (None, f"sqlite:///{tmp_path}/mlflow.db"),
        ("https://me:pw@example.org", "https://[redacted]@example.org"),
    ]:
        logger = make(tmp_path, tracking_uri=given, run_name=None)
        logger.begin()
        logger.finalize("success")
        assert records(logger, "start")[0]["tracking_uri"] == kept


def test_a_dead_server_warns_once_and_keeps_everything(tmp_path):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{unused.getsockname()[1]}"
    logger = make(tmp_path, tracking_uri=uri, upload=True)
    logger.log_metrics({"train/loss": 1.0}, step=0)
    process = logger._uploader._process
    with pytest.warns(UserWarning, match="does not answer.*lit-posttrain sync") as caught:
        logger.finalize("success")
    assert len(caught) == 1
    assert len(records(logger, "metrics")) == 1
    process.kill()
    process.wait()


def test_nothing_imports_mlflow_when_it_is_loaded():
    for path in Path(lit_posttrain.tracking.__path__[0]).glob("*.py"):
        for node in ast.parse(path.read_text()).body:
            imported = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            imported += [node.module] if isinstance(node, ast.ImportFrom) and node.level == 0 else []
            assert not any(name.split(".")[0] == "mlflow" for name in imported), path


def test_flat_keeps_lists_and_empty_mappings():
    assert flat({"a": {"b": {"c": 1}}, "d": [{"e": 1}], "f": {}}) == {"a.b.c": 1, "d": [{"e": 1}], "f": {}}
