"""A Lightning logger for MLflow that never waits for MLflow and never imports it.

It appends to the journal of the run; a process of its own (`upload.py`) sends that on.
"""

import os
import re
import secrets
import time
import warnings
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only, rank_zero_warn

from lit_posttrain import names
from lit_posttrain.errors import InputError
from lit_posttrain.tracking import redaction
from lit_posttrain.tracking.journal import Journal, Record, read
from lit_posttrain.tracking.provenance import provenance
from lit_posttrain.tracking.run_name import folder_name, new_name
from lit_posttrain.tracking.staging import stage_file, stage_text
from lit_posttrain.tracking.store import sqlite_path
from lit_posttrain.tracking.uploading import UploaderProcess

_STATUS = {"success": "FINISHED", "finished": "FINISHED", "failed": "FAILED"}
FAILED_DRAIN_S = 1.0
_OURS = re.compile(r"[a-z0-9_]+/.*")


class JournaledMLflowLogger(Logger):
    """Writes everything to `root/experiment/run_name/journal.jsonl`; another process carries it to MLflow.

    Nothing is created until the first metric or table, or `begin()`: a run that fails before leaves no trace.
    Parameters, tags, texts and files that come earlier are held until then. Only rank 0 writes. Secrets are
    redacted in parameters, tags and texts before they are written anywhere.

    Args:
        experiment: Name of the MLflow experiment, and of the folder below `root`.
        run_name: Name of the run, unique in the experiment; default: one made from time and chance.
        tracking_uri: `sqlite:///file.db` or the address of a server; default: the environment variable
            MLFLOW_TRACKING_URI, else `sqlite:///mlflow.db` in the working directory.
        root: Folder of all run directories.
        tags: Tags of the run, beside those on code, packages and devices.
        drain_s: Longest wait at the end of the run, in seconds, for the upload to finish.
        upload: Whether to start the uploader; without it `lit-posttrain sync` uploads later.

    Raises:
        InputError: if a name cannot be a folder, or (at the first record) if the folder holds another run.
    """

    def __init__(
        self,
        experiment: str,
        run_name: str | None = None,
        tracking_uri: str | None = None,
        root: str = "runs",
        tags: dict[str, str] | None = None,
        drain_s: float = 30.0,
        upload: bool = True,
    ) -> None:
        super().__init__()
        self._experiment = folder_name("experiment", experiment)
        self._run_name = folder_name("run_name", run_name or new_name())
        self.has_lasting_name = run_name is not None  # else another attempt gets another name
        self._uri = _absolute(tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db")
        self._root = Path(root)
        self._tags = dict(tags or {})
        self._drain_s, self._upload = drain_s, upload
        self._run_uid = secrets.token_hex(16)
        self._resumed = False
        self._journal: Journal | None = None
        self._held: list[Callable[[Path], Record]] = []
        self._uploader: UploaderProcess | None = None

    @property
    def name(self) -> str:
        """The experiment."""
        return self._experiment

    @property
    def version(self) -> str:
        """The run name."""
        return self._run_name

    @property
    def save_dir(self) -> str:
        """`root`; Lightning puts checkpoints into `root/experiment/run_name/checkpoints`."""
        return str(self._root)

    @property
    def directory(self) -> Path:
        """The run directory. It may not exist yet, and its name is the same on all ranks only if given."""
        return self._root / self._experiment / self._run_name

    @property
    def experiment(self) -> "JournaledMLflowLogger":
        """The logger itself: there is no client in this process. Touching it creates nothing."""
        return self

    @property
    def run_uid(self) -> str:
        """What identifies the run in MLflow, in the tag `lit_posttrain.run_uid`."""
        return self._run_uid

    @rank_zero_only
    def begin(self) -> None:
        """Creates the run directory, writes what was held, and starts the uploader; again: nothing."""
        if self._journal is None:
            self._open()
            held, self._held = self._held, []
            for make in held:
                self._append(make)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Logs values at a step.

        Lightning's own `epoch` is left out. A name such as `area/quantity_unit` must stand in `names.py`;
        names of other people's callbacks, which do not look like that, pass.

        Raises:
            ValueError: for an unknown name.
        """
        values = {key: float(value) for key, value in metrics.items() if key != "epoch"}
        for key in values:
            if _OURS.fullmatch(key):
                names.known(key)
        if not values:
            return
        self.begin()
        now = time.time_ns() // 1_000_000
        self._append(
            lambda _: {"kind": "metrics", "step": int(step or 0), "timestamp_ms": now, "values": values}
        )
        if self._uploader:
            self._uploader.watch()

    @rank_zero_only
    def log_hyperparams(self, params: Mapping[str, Any] | Namespace, *_: Any, **__: Any) -> None:
        """Logs parameters; nested ones get names with dots."""
        given = vars(params) if isinstance(params, Namespace) else params
        values = {n: redaction.by_shape(shown(v)) for n, v in flat(redaction.in_mapping(given)).items()}
        self._hold_or_append(lambda _: {"kind": "params", "values": values})

    @rank_zero_only
    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Sets tags of the run."""
        values = {name: str(value) for name, value in redaction.in_mapping(tags).items()}
        self._hold_or_append(lambda _: {"kind": "tags", "values": values})

    @rank_zero_only
    def log_table(self, columns: Mapping[str, Sequence[Any]], artifact_file: str) -> None:
        """Adds rows to a table; each column is a list of cells, all of one length.

        Long tables go on in `NAME_001.json`, `NAME_002.json` …
        """
        lengths = {name: len(cells) for name, cells in columns.items()}
        if len(set(lengths.values())) > 1 or not artifact_file.endswith(".json"):
            raise InputError(
                f"a table needs columns of one length and a .json name; got {lengths} for {artifact_file!r}"
            )
        cells = redaction.shapes_in(columns)
        self.begin()
        self._append(lambda _: {"kind": "table", "artifact_file": artifact_file, "columns": cells})

    @rank_zero_only
    def log_text(self, text: str, artifact_file: str) -> None:
        """Writes a text artifact, such as the resolved config."""
        self._hold_or_append(lambda directory: stage_text(directory, text, artifact_file))

    @rank_zero_only
    def log_artifact(self, path: str | Path, artifact_path: str = "") -> None:
        """Uploads a file or folder to the folder `artifact_path` of the run.

        One inside the run directory is sent from where it lies; any other is copied there first, and text
        files are redacted on the way.
        """
        source = Path(path).absolute()
        if not source.exists():
            raise InputError(f"there is no {source} to upload")
        self._hold_or_append(lambda directory: stage_file(directory, source, artifact_path))

    @rank_zero_only
    def log_dataset(
        self, name: str, source: str, digest: str, context: str = "training", profile: str = ""
    ) -> None:
        """Names a dataset as an input of the run.

        Args:
            name: What it is called.
            source: Where it is from: a path, a hub name, an address.
            digest: A hash of its content; MLflow shows the first 36 characters.
            context: `training`, `validation` or `test`.
            profile: Its size in numbers, as JSON.
        """
        fields = {"name": name, "source": source, "digest": digest, "context": context, "profile": profile}
        clean = {key: redaction.in_text(value) for key, value in fields.items()}
        self._hold_or_append(lambda _: {"kind": "dataset", **clean})

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Ends the run and waits up to `drain_s` for the upload. Logging afterwards opens the run again.

        A run that failed or was stopped waits a second at most; its uploader goes on by itself.
        """
        if self._journal is None and self._held and status != "failed":
            self.begin()
        self._held = []
        if self._journal is None:
            return
        now = time.time_ns() // 1_000_000
        self._journal.append({"kind": "end", "status": _STATUS.get(status, "KILLED"), "timestamp_ms": now})
        self._journal.close()
        self._journal = None
        if self._uploader:
            with warnings.catch_warnings():
                if status == "failed":
                    warnings.filterwarnings("ignore", ".*has not taken all points of this run yet")
                self._uploader.finish(
                    min(self._drain_s, FAILED_DRAIN_S) if status == "failed" else self._drain_s
                )
            self._uploader = None

    def state_dict(self) -> dict[str, str]:
        """What a checkpoint needs for the run to be continued: plain strings."""
        return {"run_uid": self._run_uid, "experiment": self._experiment, "run_name": self._run_name}

    def load_state_dict(self, state: Mapping[str, str]) -> None:
        """Continues the run of a checkpoint: same directory below `root`, same journal, same MLflow run."""
        if self._journal is not None and self._run_uid != state["run_uid"]:
            rank_zero_warn(
                f"the run {state['run_name']!r} of the checkpoint is not continued, since {self._run_name!r} "
                "has already logged; load the logger's state before the first metric"
            )
            return
        self._run_uid, self._experiment = state["run_uid"], state["experiment"]
        self._run_name = state["run_name"]
        self._resumed = True

    def _open(self) -> None:
        earlier = next((e.record for e in read(self.directory) if e.record), None)
        if earlier and earlier.get("run_uid") != self._run_uid:
            raise InputError(
                f"{self.directory} holds another run; choose another run_name (or none, for a new one), "
                "or continue that run from one of its checkpoints"
            )
        self._journal = Journal(self.directory)
        tags = redaction.in_mapping({**provenance(), **self._tags})
        self._journal.append(
            {
                "kind": "start",
                "run_uid": self._run_uid,
                "experiment": self._experiment,
                "run_name": self._run_name,
                "tracking_uri": redaction.in_text(self._uri),
                "tags": {name: str(value) for name, value in tags.items()},
                "start_time": time.time_ns() // 1_000_000,
                "rewind": self._resumed,
            }
        )
        self._resumed = False
        if self._upload:
            self._uploader = UploaderProcess(self.directory, self._uri)

    def _hold_or_append(self, make: Callable[[Path], Record]) -> None:
        if self._journal is None:
            self._held.append(make)
        else:
            self._append(make)

    def _append(self, make: Callable[[Path], Record]) -> None:
        assert self._journal is not None
        self._journal.append(make(self.directory))


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings and namespaces as one, with names joined by dots; lists stay whole."""
    result: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        inner = vars(value) if isinstance(value, Namespace) else value
        if isinstance(inner, Mapping) and inner:
            result.update(flat(inner, f"{name}."))
        else:
            result[name] = inner
    return result


def shown(value: Any) -> str:
    """A parameter as text: functions and classes by their names, which are the same in every process."""
    if callable(value) and hasattr(value, "__qualname__"):
        return f"{value.__module__}.{value.__qualname__}"
    return str(value)


def _absolute(uri: str) -> str:
    path = sqlite_path(uri)
    return f"sqlite:///{path}" if path else uri
