"""Runs of the shipped experiments as processes of their own, and what they leave behind."""

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from lit_posttrain.checkpoints import folder, recovery

SFT, GRPO = "configs/sft/tiny_programs.yaml", "configs/grpo/tiny_programs.yaml"
SECONDS = re.compile(r"time/.*|.*_(seconds|hours)")
Values = dict[str, float]


@dataclass(frozen=True)
class Fit:
    """One training run: its folder, its name there, the config, and settings beside it."""

    work: Path
    name: str
    config: str
    settings: Sequence[str] = ()

    def start(self) -> subprocess.Popen[bytes]:
        """The run as a process in a group of its own; what it prints goes to `<name>.log`."""
        command = [sys.executable, "-m", "lit_posttrain", "fit", "--config", self.config, *self.settings]
        logger = {"root": self.work / "runs", "run_name": self.name, "upload": "false"}
        for key, value in logger.items():
            command += [f"--trainer.logger.init_args.{key}", str(value)]
        command += ["--checkpoint.dirpath", str(self.work / self.name)]
        with self.log.open("wb") as log:
            return subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)

    def check(self, process: subprocess.Popen[bytes]) -> None:
        """Waits for the end of the run.

        Raises:
            RuntimeError: if it failed.
        """
        if process.wait() != 0:
            raise RuntimeError(f"the run {self.name} failed; see {self.log}")

    @property
    def log(self) -> Path:
        """What it printed."""
        return self.work / f"{self.name}.log"

    @property
    def checkpoint(self) -> Path:
        """Its last one."""
        return recovery.usable(self.work / self.name / "last.ckpt")

    def weights(self) -> dict[str, torch.Tensor]:
        """Those of the last step."""
        return folder.read(self.checkpoint)["state_dict"]

    def records(self) -> list[tuple[int, Values]]:
        """All that was logged as numbers, in order, each with its step."""
        (journal,) = (self.work / "runs").glob(f"*/{self.name}/journal.jsonl")
        lines = [json.loads(line) for line in journal.read_text().splitlines()]
        return [(line["step"], line["values"]) for line in lines if line["kind"] == "metrics"]

    def with_metric(self, name: str) -> list[tuple[int, Values]]:
        """The records that hold a metric."""
        return [(step, values) for step, values in self.records() if name in values]

    def numbers(self) -> list[tuple[int, Values]]:
        """All but the clocks: what two runs that did the same have in common."""
        return [
            (step, {name: value for name, value in values.items() if not SECONDS.fullmatch(name)})
            for step, values in self.records()
        ]


def export(run: Fit, model: Path) -> None:
    """Writes the trained network as a model folder."""
    command = [sys.executable, "-m", "lit_posttrain", "export", str(run.checkpoint), str(model)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
