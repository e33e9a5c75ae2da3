"""What a checkpoint consists of: its files with sizes and hashes, in a file that carries a hash of its own."""

import contextlib
import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lit_posttrain.checkpoints.encoding import (
    parse,
    render,
)
from lit_posttrain.errors import InputError

SCHEMA = 1
SINGLE, SHARDED = "single", "sharded"
MANIFEST, STATE, TENSORS = "manifest.json", "state.json", "tensors.safetensors"


class Damaged(InputError):
    """A checkpoint is not what its writer wrote; says which file, and what is wrong with it."""


@dataclass(frozen=True)
class FileEntry:
    """What a file must be: its size in bytes and its SHA-256 (hexadecimal)."""

    size: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What a checkpoint consists of.

    Args:
        kind: `single` or `sharded`.
        step: The trainer's global step.
        world: How many processes wrote it.
        files: Each file but the manifest, relative to the folder with `/`.
    """

    kind: str
    step: int
    world: int
    files: Mapping[str, FileEntry]


def manifest_of(path: Path) -> Manifest:
    """The manifest of a checkpoint, itself verified; the files are not looked at.

    Raises:
        Damaged: if it is missing or not as it was written.
        InputError: if there is no checkpoint at `path`, or a newer version of this program wrote it.
    """
    path = Path(path)
    if not os.path.lexists(path):
        raise InputError(f"there is no checkpoint {path}; give one that there is, or the folder's last.ckpt")
    if path.is_file():
        raise InputError(
            f"{path} is a file; a checkpoint of ours is a folder. Files that other programs or older versions pickled "
            "can run anything when they are read, so they never are: export the weights with the version that wrote "
            "the file and start from that folder (network.path)"
        )
    file = path / MANIFEST
    with decoding(file):
        raw = file.read_bytes()
        content = parse(raw)
        if not isinstance(content, dict) or raw != _sealed(content | {"sha256": ""}):
            raise ValueError("is not as it was written")
    schema = content.get("schema")
    if type(schema) is int and schema > SCHEMA:
        raise InputError(
            f"{path} was written by a newer lit-posttrain (form {schema}; this one reads {SCHEMA}); install that one"
        )
    with decoding(file):
        return _manifest(content)


def _manifest(content: dict[str, Any]) -> Manifest:
    if content.keys() != {"sha256", "schema", "kind", "step", "world", "files"}:
        raise ValueError("has other entries than it should have")
    kind, step, world, files = (content[key] for key in ("kind", "step", "world", "files"))
    numbers = {type(number) for number in (content["schema"], step, world)} == {int}
    if not numbers or content["schema"] != SCHEMA or kind not in (SINGLE, SHARDED):
        raise ValueError("has a schema, kind, step or world that cannot be")
    if not isinstance(files, dict) or not {STATE, TENSORS} <= files.keys():
        raise ValueError(f"does not describe {STATE} and {TENSORS}")
    entries = {name: _file_entry(name, entry) for name, entry in files.items()}
    return Manifest(kind, step, world, entries)


def _file_entry(name: str, entry: Any) -> FileEntry:
    if not isinstance(entry, dict) or entry.keys() != {"size", "sha256"}:
        raise ValueError(f"describes {name!r} in another form")
    if type(entry["size"]) is not int or not isinstance(entry["sha256"], str) or not _inside(name):
        raise ValueError(f"describes {name!r} in a way that cannot be")
    return FileEntry(**entry)


def _inside(name: str) -> bool:
    return all(part not in ("", ".", "..") and "\0" not in part for part in name.split("/"))


def _sealed(content: dict[str, Any]) -> bytes:
    """The manifest's bytes, with the hash of what they are without it."""
    return render(content | {"sha256": hashlib.sha256(render(content)).hexdigest()})


def manifest_bytes(manifest: Manifest) -> bytes:
    files = {name: asdict(entry) for name, entry in manifest.files.items()}
    numbers = {"kind": manifest.kind, "step": manifest.step, "world": manifest.world}
    content = {"sha256": "", "schema": SCHEMA, **numbers, "files": files}
    _manifest(content)  # never write what will be refused
    return _sealed(content)


@contextlib.contextmanager
def decoding(file: Path) -> Iterator[None]:
    """Says of a file what is wrong with it."""
    try:
        yield
    except OSError as error:
        raise Damaged(f"{file} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise Damaged(f"{file} is damaged: {error}") from error
