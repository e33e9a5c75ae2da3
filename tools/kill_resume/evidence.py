"""What a run leaves behind, in a form that can be compared: checkpoint, batches, MLflow run, leftovers."""

import json
import math
import re
import sqlite3
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kill_resume.announce import EVENTS
from kill_resume.experiments import FOLDER

SECONDS = re.compile(r"time/.*|.*_(seconds|hours)|.*_per_second")
DATABASE = "mlflow.db"
Batches = dict[tuple[int, int], str]


@dataclass
class Segment:
    """One process: its batches by (optimiser step, number within it), its clocks, the books it was given."""

    batches: Batches = field(default_factory=dict)
    train_start_s: float | None = None
    train_end_s: float | None = None
    restored: dict[str, Any] | None = None


@dataclass(frozen=True)
class Tracked:
    """What MLflow has: the statuses of all runs, and points and texts of the first.

    `points` are (metric, step) to values in the order of time; `texts` artifact path to content.
    """

    statuses: list[str]
    points: dict[tuple[str, int], list[float]]
    texts: dict[str, Any]


def segments(folder: Path) -> list[Segment]:
    """One per process that came to train or to restore, in order."""
    by_pid: dict[int, Segment] = {}
    for line in (folder / EVENTS).read_text().splitlines() if (folder / EVENTS).exists() else []:
        event = json.loads(line)
        segment = by_pid.setdefault(event["pid"], Segment())
        if event["kind"] == "batch":
            number = sum(step == event["step"] for step, _ in segment.batches)
            segment.batches[event["step"], number] = event["digest"]
        elif event["kind"] == "restored":
            segment.restored = event["books"]
        elif event["kind"] == "train_end":
            segment.train_end_s = event["monotonic_s"]
        elif segment.train_start_s is None:  # further calls start nothing
            segment.train_start_s = event["monotonic_s"]
    return list(by_pid.values())


def checkpoint(path: Path) -> dict[str, Any]:
    """All that a checkpoint holds."""
    from lit_posttrain.checkpoints import folder

    return folder.read(path.resolve())


def tracked(folder: Path) -> Tracked:
    """The MLflow store of a folder, read without MLflow."""
    with sqlite3.connect(f"file:{folder / DATABASE}?mode=ro", uri=True) as database:
        runs = database.execute(
            "SELECT run_uuid, status, artifact_uri FROM runs ORDER BY start_time"
        ).fetchall()
        if not runs:
            return Tracked([], {}, {})
        rows = database.execute(
            "SELECT key, step, value, is_nan FROM metrics WHERE run_uuid = ? ORDER BY timestamp",
            (runs[0][0],),
        )
        points: dict[tuple[str, int], list[float]] = {}
        for key, step, value, is_nan in rows:
            points.setdefault((key, step), []).append(math.nan if is_nan else value)
    database.close()
    artifacts = Path(runs[0][2].removeprefix("file://"))
    texts = {
        str(path.relative_to(artifacts)): content
        for path in sorted(artifacts.rglob("*.json"))
        if not _tells_of_resume(path.name, content := json.loads(path.read_text()))
    }
    return Tracked([status for _, status, _ in runs], points, texts)


def _tells_of_resume(name: str, content: Any) -> bool:
    """Whether a file is the one in which MLflow keeps that a parameter, `ckpt_path`, is another one now."""
    return name.startswith("changed_") and content.keys() == {"ckpt_path"}


def leftovers(folder: Path) -> list[str]:
    """Files that no ended run should leave: temporary ones, anywhere below the folder."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if ".tmp" in path.name)


def saved(folder: Path) -> list[str]:
    """The checkpoints that the folder of a trial keeps, with what links point to."""
    found = []
    for path in sorted((folder / FOLDER).glob("*")):
        found.append(f"{path.name} -> {path.readlink()}" if path.is_symlink() else path.name)
    return found
