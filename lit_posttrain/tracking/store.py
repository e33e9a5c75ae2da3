"""One run in an MLflow store: every call either is taken, is refused for good, or finds nobody there.

mlflow is imported when a store is opened, not before.
"""

import fcntl
import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lit_posttrain.tracking.limits import (
    DIGEST_CHARACTERS,
    PARAM_CHARACTERS,
    TAG_CHARACTERS,
    fitting_name,
    in_calls,
)
from lit_posttrain.tracking.redaction import in_text

if TYPE_CHECKING:
    from mlflow.entities import Run

UID_TAG = "lit_posttrain.run_uid"
TABLE_TAG = "mlflow.loggedArtifacts"

_REFUSALS = {"INVALID_PARAMETER_VALUE", "BAD_REQUEST", "MALFORMED_REQUEST", "INVALID_STATE"}
_ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # the caller retries, and says so; the default blocks for minutes
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "0",
    "MLFLOW_HTTP_REQUEST_BACKOFF_JITTER": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "60",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_TRUNCATE_LONG_VALUES": "false",
}


class Unreachable(Exception):
    """The store did not answer, or not as it should; the same call may work later."""


class Refused(Exception):
    """The store understood and will never take this."""


@dataclass(frozen=True)
class Point:
    """One value of a metric; `timestamp_ms` since the epoch."""

    key: str
    value: float
    step: int
    timestamp_ms: int


class Store:
    """A tracking store, sqlite or server.

    Raises:
        Unreachable: from any method, also on opening; the message names the store without credentials.
        Refused: from any method that writes.
    """

    def __init__(self, uri: str) -> None:
        for name, value in _ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        self.uri = uri
        self.shown_uri = in_text(uri)
        with self._answers(), _first_start(uri):
            from mlflow import MlflowClient

            self.client = MlflowClient(tracking_uri=uri, registry_uri=uri)
            self.client.search_experiments(max_results=1)

    def find_run(self, experiment: str, run_uid: str) -> "Run | None":
        """The run of this uid that is not deleted."""
        with self._answers():
            found = self.client.get_experiment_by_name(experiment)
            if found is None:
                return None
            query = f"tags.`{UID_TAG}` = '{run_uid}'"
            runs = self.client.search_runs([found.experiment_id], query, max_results=1)
            return runs[0] if runs else None

    def create_run(self, experiment: str, run_name: str, run_uid: str, start_time_ms: int) -> "Run":
        """A new run with the time at which it really started."""
        with self._answers():
            found = self.client.get_experiment_by_name(experiment)
            experiment_id = found.experiment_id if found else self._create_experiment(experiment)
            tags = {UID_TAG: run_uid}
            return self.client.create_run(experiment_id, start_time_ms, tags, run_name)

    def log_points(self, run_id: str, points: Sequence[Point]) -> None:
        """Up to `METRICS_A_CALL` points in one call; all of them or, when refused, none."""
        from mlflow.entities import Metric

        with self._answers():
            metrics = [Metric(p.key, p.value, p.timestamp_ms, p.step) for p in points]
            self.client.log_batch(run_id, metrics=metrics)

    def history(self, run_id: str, key: str) -> set[tuple[int, int]]:
        """(step, timestamp in ms) of every point of a metric that the store has."""
        with self._answers():
            return {(m.step, m.timestamp) for m in self.client.get_metric_history(run_id, key)}

    def params(self, run_id: str) -> dict[str, str]:
        """The parameters that the store has."""
        with self._answers():
            return dict(self.client.get_run(run_id).data.params)

    def log_params(self, run_id: str, values: Mapping[str, str]) -> None:
        """Logs parameters; a value too long for MLflow becomes a text artifact that the parameter names."""
        from mlflow.entities import Param

        fitted = self._fit(run_id, values, "params", PARAM_CHARACTERS)
        known = self.params(run_id)
        changed = {name: value for name, value in fitted.items() if known.get(name, value) != value}
        if changed:
            text = json.dumps({name: {"was": known[name], "is": changed[name]} for name in changed}, indent=1)
            digest = sha256(text.encode()).hexdigest()[:8]
            self.log_text(run_id, text, f"params/changed_{digest}.json")
            self.set_tags(run_id, {"lit_posttrain.params_changed": ", ".join(changed)})
        new = [Param(name, value) for name, value in fitted.items() if name not in known]
        for chunk in in_calls(new):
            with self._answers():
                self.client.log_batch(run_id, params=chunk)

    def set_tags(self, run_id: str, values: Mapping[str, str]) -> None:
        """Sets tags; a value too long for MLflow becomes a text artifact that the tag names."""
        from mlflow.entities import RunTag

        tags = [RunTag(k, v) for k, v in self._fit(run_id, values, "tags", TAG_CHARACTERS).items()]
        for chunk in in_calls(tags):
            with self._answers():
                self.client.log_batch(run_id, tags=chunk)

    def log_text(self, run_id: str, text: str, artifact_file: str) -> None:
        """Writes or replaces a text artifact."""
        path = Path(artifact_file)
        with tempfile.TemporaryDirectory() as folder:
            local = Path(folder) / path.name
            local.write_text(text, encoding="utf-8", errors="backslashreplace")
            self.log_file(run_id, local, "" if path.parent == Path() else str(path.parent))

    def log_file(self, run_id: str, path: Path, artifact_path: str) -> None:
        """Writes or replaces an artifact."""
        if not path.exists():
            raise Refused(f"{path} is no longer there")
        with self._answers():
            if path.is_dir():
                self.client.log_artifacts(run_id, str(path), artifact_path or None)
            else:
                self.client.log_artifact(run_id, str(path), artifact_path or None)

    def log_table(self, run_id: str, columns: Mapping[str, Sequence[Any]], artifact_file: str) -> None:
        """Writes or replaces a table artifact and names it in the tag by which the UI finds tables."""
        rows = [[_cell(cell) for cell in row] for row in zip(*columns.values(), strict=True)]
        self.log_text(run_id, json.dumps({"columns": list(columns), "data": rows}), artifact_file)
        with self._answers():
            tags = self.client.get_run(run_id).data.tags
        known = json.loads(tags.get(TABLE_TAG, "[]"))
        entry = {"path": artifact_file, "type": "table"}
        tag = json.dumps([*known, entry])
        if entry not in known and len(tag) <= TAG_CHARACTERS:
            self.set_tags(run_id, {TABLE_TAG: tag})

    def log_dataset(self, run_id: str, record: Mapping[str, str]) -> None:
        """Names a dataset as an input of the run: `name`, `source`, `digest`, `context`, `profile`."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        digest = record["digest"][:DIGEST_CHARACTERS]  # the head of a digest still tells data apart
        source = json.dumps({"uri": record["source"]})
        dataset = Dataset(record["name"], digest, "local", source, profile=record["profile"])
        tag = InputTag("mlflow.data.context", record["context"])
        with self._answers():
            self.client.log_inputs(run_id, [DatasetInput(dataset, [tag])])

    def set_running(self, run_id: str) -> None:
        """Marks the run as running (again)."""
        with self._answers():
            self.client.update_run(run_id, status="RUNNING")

    def end_run(self, run_id: str, status: str, end_time_ms: int) -> None:
        """Marks the run as `FINISHED`, `FAILED` or `KILLED`."""
        with self._answers():
            self.client.set_terminated(run_id, status, end_time_ms)

    def _create_experiment(self, name: str) -> str:
        from mlflow.exceptions import MlflowException

        database = sqlite_path(self.uri)
        folder = re.sub(r"[^\w.\-]+", "_", name)
        location = str(database.parent / "mlartifacts" / folder) if database else None
        try:
            return self.client.create_experiment(name, artifact_location=location)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        found = self.client.get_experiment_by_name(name)  # another run was first
        if found is None:
            raise Unreachable(
                f"MLflow at {self.shown_uri} says experiment {name!r} exists but does not show it"
            )
        return found.experiment_id

    def _fit(self, run_id: str, values: Mapping[str, str], folder: str, longest: int) -> dict[str, str]:
        fitted = {}
        for name, value in values.items():
            key = fitting_name(name)
            if len(value) > longest:
                digest = sha256(value.encode(errors="backslashreplace")).hexdigest()
                file = f"{folder}/{re.sub(r'[^A-Za-z0-9_.-]+', '_', key)}.txt"
                self.log_text(run_id, value, file)
                value = f"{len(value)} characters, in artifact {file} (sha256 {digest[:16]})"
            fitted[key] = value
        return fitted

    @contextmanager
    def _answers(self) -> Iterator[None]:
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        try:
            yield
        except MlflowException as error:
            if error.error_code in _REFUSALS:
                raise Refused(in_text(str(error))) from error
            raise Unreachable(f"MLflow at {self.shown_uri} does not answer: {_short(error)}") from error
        except (OSError, SQLAlchemyError) as error:  # what requests raises is an OSError
            if _http_status(error) in {400, 404, 405, 413, 415, 422}:
                raise Refused(_short(error)) from error
            raise Unreachable(f"MLflow at {self.shown_uri} does not answer: {_short(error)}") from error


def sqlite_path(uri: str) -> Path | None:
    """The file of a sqlite store, absolute; None for any other store."""
    return Path(uri.removeprefix("sqlite:///")).absolute() if uri.startswith("sqlite:///") else None


@contextmanager
def _first_start(uri: str) -> Iterator[None]:
    """Lets one process at a time open a sqlite store, since the first one writes its tables."""
    database = sqlite_path(uri)
    if database is None:
        yield
        return
    database.parent.mkdir(parents=True, exist_ok=True)
    with database.with_name(database.name + ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _cell(value: Any) -> Any:
    """Browsers read strict JSON only, so NaN and infinities become strings."""
    return str(value) if isinstance(value, float) and not isfinite(value) else value


def _http_status(error: Exception) -> int | None:
    from requests import HTTPError

    return error.response.status_code if isinstance(error, HTTPError) and error.response is not None else None


def _short(error: Exception) -> str:
    return in_text(" ".join(str(error).split()))[:300]
