"""Puts what is to be uploaded into the run directory, so that it is there whenever the upload happens."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from lit_posttrain.errors import InputError
from lit_posttrain.tracking import redaction
from lit_posttrain.tracking.journal import Record

FOLDER = "artifacts"
_SETTINGS = {".yaml", ".yml", ".toml", ".txt", ".log", ".cfg", ".ini", ".env", ".md", ".sh", ".py", ".json"}
_DATA = {".jsonl", ".csv", ".tsv", ".html"}


def stage_text(directory: Path, text: str, artifact_file: str) -> Record:
    """Writes a text, redacted, below `directory`; returns the journal's record of it."""
    path = _target(directory, artifact_file)
    redact = redaction.by_shape if path.suffix in _DATA else redaction.in_text
    path.write_text(redact(text), encoding="utf-8", errors="backslashreplace")
    return _record(directory, path, artifact_file)


def stage_file(directory: Path, source: Path, artifact_path: str) -> Record:
    """Copies a file or folder below `directory` unless it lies there and holds no secret.

    Texts are redacted on the way: settings and logs by name and look, data (JSON lines, CSV, HTML) by look.
    """
    if not source.exists():
        raise InputError(f"there is no {source} to upload")
    name = str(PurePosixPath(artifact_path, source.name))
    inside = source.absolute().is_relative_to(directory.absolute())
    if inside and not any(_redacted(file) for file in _files(source)):
        return _record(directory, source, name)
    target = _target(directory, name)
    if source.is_dir():
        target.mkdir(exist_ok=True)
    for file in _files(source):
        _copy(file, target / file.relative_to(source) if source.is_dir() else target)
    return _record(directory, target, name)


def _files(source: Path) -> list[Path]:
    return sorted(path for path in source.rglob("*") if path.is_file()) if source.is_dir() else [source]


def _copy(file: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    redacted = _redacted(file)
    if redacted is None:
        if file.absolute() != target.absolute():
            shutil.copy2(file, target)
    else:
        target.write_text(redacted, encoding="utf-8", errors="surrogateescape")


def _redacted(file: Path) -> str | None:
    """The text of a file without its secrets; None if it has none, or is no text."""
    redact: Callable[[str], str] | None = redaction.in_text if file.suffix in _SETTINGS else None
    redact = redaction.by_shape if file.suffix in _DATA else redact
    if redact is None:
        return None
    text = file.read_text(encoding="utf-8", errors="surrogateescape")
    shown = redact(text)
    return None if shown == text else shown


def _target(directory: Path, name: str) -> Path:
    if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
        raise InputError(f"an artifact's name is a path inside the run, without ..; got {name!r}")
    path = directory / FOLDER / name
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _record(directory: Path, path: Path, name: str) -> Record:
    folder = str(PurePosixPath(name).parent)
    inside = os.path.relpath(path.absolute(), directory.absolute())
    return {"kind": "artifact", "path": inside, "artifact_path": "" if folder == "." else folder}
