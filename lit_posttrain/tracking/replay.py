"""What of a journal is to be uploaded: repeats of a resumed run left out, tables cut into files."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from lit_posttrain.tracking.journal import Entry, Record, read

ROWS_A_TABLE = 200
ENTRIES_A_WINDOW = 2000


@dataclass
class Tables:
    """Cuts every table into files of about `ROWS_A_TABLE` rows, as a table that grew for ever would be
    sent again whole with each new row. `x.json` is followed by `x_001.json`, `x_002.json` …

    What a file holds depends on the journal alone, so a replay writes the same files again.
    """

    current: dict[str, str] = field(default_factory=dict)
    contents: dict[str, dict[str, list[Any]]] = field(default_factory=dict)
    _count: dict[str, int] = field(default_factory=dict)

    def add(self, record: Record) -> str:
        """Takes the rows of a `table` record and returns the file they belong to."""
        name, columns = record["artifact_file"], record["columns"]
        held = self.contents.get(self.current.get(name, ""), {})
        rows = len(next(iter(held.values()), [])) + len(next(iter(columns.values()), []))
        if name not in self.current or list(held) != list(columns) or rows > ROWS_A_TABLE:
            number = self._count[name] = self._count.get(name, -1) + 1
            path = PurePosixPath(name)
            self.current[name] = str(path.with_stem(f"{path.stem}_{number:03d}")) if number else name
            held = self.contents.setdefault(self.current[name], {column: [] for column in columns})
        for column, cells in columns.items():
            held[column].extend(cells)
        return self.current[name]

    def forget_full(self) -> None:
        """Drops the files that no row will be added to."""
        self.contents = {file: self.contents[file] for file in self.current.values()}


class Repeats:
    """Tells what a run logs again after it was resumed from a checkpoint.

    MLflow cannot take points back, so of a step that is done again the first points are kept: of a metric that
    had reached the step before, as many points are left out as it had there (several, where one step drew
    several rollouts; fewer than there will be, where a kill came between them).
    """

    def __init__(self) -> None:
        self._reached: dict[str, int] = {}
        self._before: dict[str, int] = {}
        self._several: dict[tuple[str, int], int] = {}
        self._latest: dict[str, tuple[int, int]] = {}

    def rewind(self) -> None:
        """The run goes on from a checkpoint."""
        self._before, self._latest = dict(self._reached), {}

    def has(self, name: str, step: int) -> bool:
        """Takes the next point of a metric; whether it is there already."""
        latest, count = self._latest.get(name, (step, 0))
        count = count + 1 if latest == step else 1
        self._latest[name] = step, count
        had = self._several.get((name, step), 1) if step <= self._before.get(name, -1) else 0
        if count <= had:
            return True
        self._reached[name] = max(step, self._reached.get(name, -1))
        if count > 1:
            self._several[name, step] = count
        return False


class Replay:
    """Reads a journal from its beginning, giving what lies after `acknowledged` in windows to be delivered.

    A run resumed from a checkpoint (a `start` record with `rewind`) logs the steps since that checkpoint
    again: points, and rows of tables that name their `step`, are left out the second time (see `Repeats`).
    They stay in the journal; `repeated` counts the points.
    """

    def __init__(self, directory: Path, acknowledged: int) -> None:
        self.directory = directory
        self.acknowledged = acknowledged
        self.start: Record | None = None
        self.ended = False
        self.torn = self.repeated = 0
        self.tables = Tables()
        self.pending: deque[tuple[Record, int]] = deque()
        self._position = 0
        self._repeats = Repeats()

    def read_on(self) -> None:
        """Takes in what was appended since the last call."""
        for entry in read(self.directory, self._position):
            self._position = entry.end
            self._take(entry)

    def window(self) -> list[tuple[Record, int]]:
        """The records to deliver next, in any order: a `start` or `end` alone, or a stretch between them."""
        taken: list[tuple[Record, int]] = []
        for item in self.pending:
            alone = item[0]["kind"] in ("start", "end")
            if (alone and taken) or len(taken) == ENTRIES_A_WINDOW:
                break
            taken.append(item)
            if alone:
                break
        return taken

    def delivered(self, window: list[tuple[Record, int]]) -> None:
        """Moves past a window."""
        for _ in window:
            self.pending.popleft()
        self.acknowledged = window[-1][1]
        if not self.pending:
            self.tables.forget_full()

    def _take(self, entry: Entry) -> None:
        if entry.record is None:
            self.torn += 1
            return
        record = entry.record
        kind = record["kind"]
        if kind == "start":
            self.start = record
            if record["rewind"]:
                self._repeats.rewind()
        elif kind == "metrics":
            record = self._without_repeats(record, count=entry.end > self.acknowledged)
        elif kind == "table":
            if self._is_repeated(record):
                return
            record = {**record, "file": self.tables.add(record)}
        self.ended = kind == "end"
        if entry.end > self.acknowledged:
            self.pending.append((record, entry.end))

    def _without_repeats(self, record: Record, *, count: bool) -> Record:
        step = record["step"]
        fresh = {k: v for k, v in record["values"].items() if not self._repeats.has(k, step)}
        if count:
            self.repeated += len(record["values"]) - len(fresh)
        return {**record, "values": fresh}

    def _is_repeated(self, table: Record) -> bool:
        steps = table["columns"].get("step")
        return bool(steps) and self._repeats.has(table["artifact_file"], steps[0])


def journals(root: Path) -> Iterator[Path]:
    """The run directories under `root`, sorted."""
    yield from sorted(path.parent for path in root.rglob("journal.jsonl"))
