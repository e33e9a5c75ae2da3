"""Runs of `lit-posttrain fit` in processes of their own, whose probes are read from their journals.

A run that is there already is not repeated; one that was stopped goes on from its last checkpoint.
"""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class CurveRun:
    """One run.

    Args:
        label: Its name, and that of its folder.
        work: Where folder, log and journal are.
        configs: YAML files, the last wins.
        options: Single settings by name.
        expects: What the last probe must have: a metric (or `step`) and its least value, to count as done.
    """

    label: str
    work: Path
    configs: Sequence[str]
    options: Mapping[str, Any]
    expects: tuple[str, float]

    def command(self) -> list[str]:
        """That starts it, or lets it go on."""
        options = {
            **self.options,
            "trainer.logger.init_args.root": self.work / "runs",
            "trainer.logger.init_args.run_name": self.label,
            "trainer.logger.init_args.upload": "false",
            "checkpoint.dirpath": self.work / self.label,
        }
        command = [sys.executable, "-m", "lit_posttrain", "fit"]
        command += [part for path in self.configs for part in ("--config", path)]
        command += [part for name, value in options.items() for part in (f"--{name}", str(value))]
        return command + (["--ckpt_path", "last"] if (self.work / self.label / "last.ckpt").exists() else [])

    def start(self) -> subprocess.Popen[bytes]:
        """As a process of its own, whose group can be killed."""
        self.work.mkdir(parents=True, exist_ok=True)
        with (self.work / f"{self.label}.log").open("ab") as log:
            return subprocess.Popen(self.command(), stdout=log, stderr=log, start_new_session=True)

    def finish(self) -> None:
        """Runs it, unless it is done.

        Raises:
            RuntimeError: naming the log, if it fails.
        """
        if not self.done():
            process = self.start()
            if process.wait() != 0:
                raise RuntimeError(f"the run {self.label} failed; see {self.work / self.label}.log")

    def done(self) -> bool:
        """Whether its last probe is as far as it should be."""
        told, (name, least) = self.points(), self.expects
        return bool(told) and told[-1][name] >= least

    def points(self) -> list[dict[str, float]]:
        """The probes by step."""
        found = self.metrics("scurve/accuracy")
        return [{"step": float(step), **found[step]} for step in sorted(found)]

    def metrics(self, holding: str) -> dict[int, dict[str, float]]:
        """What was logged together with a metric, by step."""
        found: dict[int, dict[str, float]] = {}
        for journal in sorted((self.work / "runs").glob(f"*/{self.label}/journal.jsonl")):
            for record in map(json.loads, journal.read_text().splitlines()):
                if holding in record.get("values", {}):
                    found[record["step"]] = record["values"]
        return found


def finish_all(runs: Sequence[CurveRun], jobs: int) -> None:
    """All of them, `jobs` at a time; the first failure is raised once all have ended."""
    with ThreadPoolExecutor(jobs) as pool:
        for outcome in [pool.submit(run.finish) for run in runs]:
            outcome.result()
