"""Puts what is to be uploaded into the run directory, so that it is there whenever the upload happens."""

import os
import shutil
from pathlib import Path, PurePosixPath

from lit_posttrain.errors import InputError
from lit_posttrain.tracking import redaction
from lit_posttrain.tracking.journal import Record

FOLDER = "artifacts"
_TEXT = {".yaml", ".yml", ".toml", ".txt", ".log", ".cfg", ".ini", ".env", ".md"}


def stage_text(directory: Path, text: str, artifact_file: str) -> Record:
    """Writes a text, redacted, below `directory`; returns the journal's record of it."""
    path = _target(directory, artifact_file)
    path.write_text(redaction.in_text(text), encoding="utf-8", errors="backslashreplace")
    return _record(directory, path, artifact_file)


def stage_file(directory: Path, source: Path, artifact_path: str) -> Record:
    """Copies a file or folder below `directory` unless it lies there; text files are redacted on the way."""
    if not source.exists():
        raise InputError(f"there is no {source} to upload")
    name = str(PurePosixPath(artifact_path, source.name))
    if source.absolute().is_relative_to(directory.absolute()):
        return _record(directory, source, name)
    if source.is_file() and source.suffix in _TEXT:
        return stage_text(directory, source.read_text(encoding="utf-8", errors="backslashreplace"), name)
    target = _target(directory, name)
    if source.is_dir():
        shutil.copytree(source, target, dirs_exist_ok=True)
    else:
        shutil.copy2(source, target)
    return _record(directory, target, name)


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
