"""Delivers one journal to one store, so that every point arrives once.

The number of bytes that a store has acknowledged stands in `uploaded.json`; what may have arrived without
being acknowledged is compared with the store's own history. What a store will never take goes to
`refused.jsonl` with the reason.
"""

import json
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lit_posttrain.tracking.journal import Record
from lit_posttrain.tracking.limits import METRICS_A_CALL
from lit_posttrain.tracking.redaction import in_text
from lit_posttrain.tracking.replay import Replay
from lit_posttrain.tracking.store import Point, Refused, Store, Unreachable

PROGRESS = "uploaded.json"
REFUSED = "refused.jsonl"


@dataclass
class UploadReport:
    """What one call of `upload` did.

    `state`: `complete` (all delivered), `running` (all so far; the run goes on), `unreachable`, `busy`
    (another uploader is at this journal) or `empty`. `points` are metric values sent, `present` those the
    store already had, `repeated` those left out as a resumed run logged their step again, `refused` records
    in `refused.jsonl`, `torn` lines that a kill cut.
    """

    directory: str
    state: str = "empty"
    uri: str = ""
    run_id: str = ""
    points: int = 0
    present: int = 0
    repeated: int = 0
    refused: int = 0
    torn: int = 0
    files: int = 0
    message: str = ""


class Uploader:
    """Delivers one journal to one store.

    Raises:
        Unreachable: from `drain` and `abandon`; call again later.
    """

    def __init__(self, directory: Path, uri: str) -> None:
        self.directory, self.uri = directory, uri
        self.report = UploadReport(str(directory), uri=in_text(uri))
        progress = self._progress().get(self.report.uri, {})
        self.report.run_id = progress.get("run_id", "")
        self.replay = Replay(directory, progress.get("offset", 0))
        self._store: Store | None = None
        self._attached = False
        self._doubtful_until = 0
        self._histories: dict[str, set[tuple[int, int]]] = {}

    @property
    def store(self) -> Store:
        """The store, opened at the first use."""
        if self._store is None:
            self._store = Store(self.uri)
        return self._store

    def drain(self) -> None:
        """Delivers all that the journal holds."""
        self.replay.read_on()
        self.report.torn, self.report.repeated = self.replay.torn, self.replay.repeated
        if self.replay.start is None or not self.replay.pending:
            return
        if not self._attached:
            self._attach()
        while window := self.replay.window():
            try:
                self._deliver(window)
            except Unreachable:
                self._doubtful_until, self._histories = window[-1][1], {}
                raise
            self.replay.delivered(window)
            self._acknowledge()

    def abandon(self) -> None:
        """Marks a run as killed whose process is gone without having said how it ended."""
        if self.replay.start is not None and not self.replay.ended:
            if not self._attached:
                self._attach()
            self.store.end_run(self.report.run_id, "KILLED", int(time.time() * 1000))

    def _attach(self) -> None:
        start = self.replay.start
        assert start is not None
        run = self.store.find_run(start["experiment"], start["run_uid"])
        known = bool(run) and run.info.run_id == self.report.run_id
        if self.replay.acknowledged and not known:  # a new or another store under the same name
            self.replay = Replay(self.directory, 0)
            self.replay.read_on()
        if run is None:
            run = self.store.create_run(
                start["experiment"], start["run_name"], start["run_uid"], start["start_time"]
            )
        else:
            self._doubtful_until = self.replay.pending[-1][1] if self.replay.pending else 0
        self.report.run_id = run.info.run_id
        self._attached = True

    def _deliver(self, window: list[tuple[Record, int]]) -> None:
        by_kind: dict[str, list[tuple[Record, int]]] = {}
        for item in window:
            by_kind.setdefault(item[0]["kind"], []).append(item)
        for kind, items in by_kind.items():
            records = [record for record, _ in items]
            if kind == "metrics":
                self._deliver_metrics(items)
            elif kind == "table":
                self._deliver_tables(dict.fromkeys(record["file"] for record in records))
            else:
                for record in records:
                    self._deliver_one(record)

    def _deliver_one(self, record: Record) -> None:
        run_id, store = self.report.run_id, self.store
        match record["kind"]:
            case "start":
                store.set_running(run_id)
                self._try(record, store.set_tags, record["tags"])
            case "params":
                self._try(record, store.log_params, record["values"])
            case "tags":
                self._try(record, store.set_tags, record["values"])
            case "artifact":
                path = self.directory / record["path"]
                self._try(record, store.log_file, path, record["artifact_path"])
                self.report.files += 1
            case "dataset":
                self._try(record, store.log_dataset, record)
            case "end":
                store.end_run(run_id, record["status"], record["timestamp_ms"])
            case kind:
                self._refuse(record, f"unknown kind {kind!r}: written by a newer version?")

    def _deliver_tables(self, files: Iterable[str]) -> None:
        for file in files:
            columns = self.replay.tables.contents[file]
            self._try({"kind": "table", "artifact_file": file}, self.store.log_table, columns, file)
            self.report.files += 1

    def _deliver_metrics(self, items: list[tuple[Record, int]]) -> None:
        points = []
        for record, end in items:
            for key, value in record["values"].items():
                point = Point(key, float(value), record["step"], record["timestamp_ms"])
                if end <= self._doubtful_until and self._has(point):
                    self.report.present += 1
                else:
                    points.append(point)
        for first in range(0, len(points), METRICS_A_CALL):
            self._send(points[first : first + METRICS_A_CALL])

    def _send(self, points: list[Point]) -> None:
        """Sends points, or those of them that the store takes."""
        try:
            self.store.log_points(self.report.run_id, points)
            self.report.points += len(points)
        except Refused as error:
            if len(points) == 1:
                self._refuse(asdict(points[0]), str(error))
                return
            half = len(points) // 2
            self._send(points[:half])
            self._send(points[half:])

    def _has(self, point: Point) -> bool:
        if point.key not in self._histories:
            self._histories[point.key] = self.store.history(self.report.run_id, point.key)
        return (point.step, point.timestamp_ms) in self._histories[point.key]

    def _try(self, record: Record, call: Callable[..., None], *arguments: Any) -> None:
        try:
            call(self.report.run_id, *arguments)
        except Refused as error:
            self._refuse(record, str(error))

    def _refuse(self, record: Record, reason: str) -> None:
        self.report.refused += 1
        with (self.directory / REFUSED).open("a") as file:
            file.write(json.dumps({"reason": reason, "record": record}) + "\n")

    def _progress(self) -> dict[str, dict[str, Any]]:
        path = self.directory / PROGRESS
        try:
            return json.loads(path.read_text())
        except (FileNotFoundError, ValueError):
            return {}

    def _acknowledge(self) -> None:
        entry = {"offset": self.replay.acknowledged, "run_id": self.report.run_id}
        write_json(self.directory / PROGRESS, {**self._progress(), self.report.uri: entry})


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes a small JSON file so that a reader sees the old one or the new one."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(content, indent=1))
    temporary.replace(path)
