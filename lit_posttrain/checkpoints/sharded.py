"""Tensors of many processes in safetensors files: each writes what it holds, any number of them reads it back.

An index says for every tensor which file holds which block of it. So the number of processes and the way in which
they divide a tensor may differ between writing and reading, and a file with whole tensors is read in the same way.
`torch.distributed.checkpoint` also writes safetensors, but keeps no such index: a file that is missing makes a
tensor shorter there, tied weights are stored twice, and taking the state of a new optimiser makes it step.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import safe_open
from torch import Tensor, distributed

from lit_posttrain.checkpoints import folder, hashed_files, manifest
from lit_posttrain.checkpoints.boxes import Box, box_of, local
from lit_posttrain.checkpoints.encoding import join, parse, render
from lit_posttrain.errors import InputError

T = TypeVar("T")

FOLDER = "shards"
INDEX = f"{FOLDER}/index.json"
VERSION = 1


@dataclass(frozen=True)
class Piece:
    """A block of a tensor and where it is: `key` of the safetensors file `file`; process `rank` writes it there."""

    box: Box
    file: str = ""
    key: str = ""
    rank: int = 0


@dataclass(frozen=True)
class Entry:
    """A tensor: its kind and shape, and the blocks that make it up; tied tensors have the same blocks."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    pieces: tuple[Piece, ...]

    def empty(self) -> Tensor:
        """A tensor of this kind and shape without memory."""
        return torch.empty(self.shape, dtype=self.dtype, device="meta")


Agree = Callable[[Callable[[], T]], list[T]]
"""Does the work in every process and returns all results in order; raises in all of them if one fails."""


def plan(tensors: Mapping[str, Tensor], agree: Agree) -> dict[str, Entry]:
    """Which process gives which block of each tensor, so that every number is given once; collective.

    Tensors that share their memory (tied weights) get the same blocks, with the first name as key. Where several
    processes hold the same block, the first of them gives it.

    Args:
        tensors: The same names in all processes.
        agree: Joins the processes.

    Raises:
        InputError: if the processes hold different tensors, or not all of one; in every process.
    """
    everyone = agree(lambda: _holdings(tensors))
    heads = [[(name, first, entry.dtype, entry.shape) for name, first, entry in row] for row in everyone]
    if any(head != heads[0] for head in heads):
        raise InputError(
            "the processes hold different tensors, or tie different ones, so they have no common checkpoint; "
            "set them up alike"
        )
    entries: dict[str, Entry] = {}
    for number, (name, first, entry) in enumerate(everyone[0]):
        boxes = [row[number][-1].pieces[0].box for row in everyone]
        entries[name] = entries[first] if first in entries else _shared_out(name, entry, boxes)
    return entries


def _holdings(tensors: Mapping[str, Tensor]) -> list[tuple[str, str, Entry]]:
    """Of each tensor its name, the first name of the same memory, and the block that this process holds."""
    firsts: dict[Any, str] = {}
    rows = []
    for name, tensor in tensors.items():
        here = local(tensor)
        memory = (
            here.untyped_storage()._cdata,
            here.storage_offset(),
            here.stride(),
            tensor.shape,
            tensor.dtype,
        )
        entry = Entry(tensor.dtype, tuple(tensor.shape), (Piece(box_of(tensor)),))
        rows.append((name, firsts.setdefault(memory, name), entry))
    return rows


def _shared_out(name: str, entry: Entry, boxes: Sequence[Box]) -> Entry:
    owners = {box: rank for rank, box in reversed(list(enumerate(boxes))) if box.elements}
    pieces = sorted(
        (Piece(box, file_of(rank), name, rank) for box, rank in owners.items()), key=lambda piece: piece.rank
    )
    if sum(box.elements for box in owners) != math.prod(entry.shape):
        raise InputError(
            f"the processes do not hold every number of {name} {entry.shape} once but {sorted(map(str, owners))}; "
            "this way of dividing it cannot be stored"
        )
    return replace(entry, pieces=tuple(pieces))


def file_of(rank: int) -> str:
    """The file that a process writes, relative to the checkpoint."""
    return f"{FOLDER}/rank-{rank:05d}.safetensors"


def size_of(entries: Mapping[str, Entry]) -> int:
    """How many bytes the tensors take in files."""
    pieces = {(p.key, p.box): entry.dtype.itemsize for entry in entries.values() for p in entry.pieces}
    return sum(box.elements * itemsize for (_, box), itemsize in pieces.items())


def write(
    path: Path, tensors: Mapping[str, Tensor], entries: Mapping[str, Entry], rank: int
) -> dict[str, manifest.FileEntry]:
    """Writes what this process gives, one tensor after the other; returns its file, if it has any.

    Raises:
        OSError: if the disk is full or fails; the file begun stays.
        InputError: if this process does not see the folder.
    """
    if not (path / FOLDER).is_dir():
        raise InputError(
            f"process {rank} does not see {path}, which process 0 has made; write checkpoints where all processes see "
            "them, or have process 0 write them (save: single)"
        )
    keys = {piece.key: None for entry in entries.values() for piece in entry.pieces if piece.rank == rank}
    if not keys:
        return {}
    name = file_of(rank)
    return {name: hashed_files.write_tensors(path / name, {key: local(tensors[key]) for key in keys})}


def collect(tensors: Mapping[str, Tensor], entries: Mapping[str, Entry], rank: int) -> dict[str, Tensor]:
    """Whole tensors on the CPU of process 0, sent there block by block; nothing in the others; collective."""
    whole: dict[str, Tensor] = {}
    firsts: dict[tuple[Piece, ...], str] = {}
    for name, entry in entries.items():
        first = firsts.setdefault(entry.pieces, name) if entry.pieces else name
        result = whole.get(first) if rank == 0 else None
        if first == name:
            result = torch.empty(entry.shape, dtype=entry.dtype) if rank == 0 else None
            for piece in entry.pieces:
                _send(local(tensors[name]), piece, rank, result)
        if result is not None:
            whole[name] = result
    return whole


def _send(mine: Tensor, piece: Piece, rank: int, result: Tensor | None) -> None:
    """Moves a block from its process into process 0's result; as bytes, which every backend can send."""
    if rank == piece.rank != 0:
        distributed.send(mine.contiguous().reshape(-1).view(torch.uint8), 0)
    if result is None:
        return
    block = mine
    if piece.rank != 0:
        block = torch.empty(piece.box.sizes, dtype=result.dtype, device=mine.device)
        distributed.recv(block.reshape(-1).view(torch.uint8), piece.rank)
    result[piece.box.within(Box.whole(result.shape))] = block.to("cpu")


def write_index(path: Path, entries: Mapping[str, Entry]) -> dict[str, manifest.FileEntry]:
    """Writes the index of a plan; returns its file."""
    tensors = {name: _jsonable(entry) for name, entry in entries.items()}
    (path / INDEX).write_bytes(render({"version": VERSION, "tensors": tensors}))
    return {INDEX: hashed_files.seal(path / INDEX)}


def _jsonable(entry: Entry) -> dict[str, Any]:
    pieces = [
        {"file": p.file, "key": p.key, "offsets": p.box.offsets, "sizes": p.box.sizes} for p in entry.pieces
    ]
    return {"dtype": str(entry.dtype).removeprefix("torch."), "shape": entry.shape, "pieces": pieces}


def read_index(path: Path) -> dict[str, Entry]:
    """What `write_index` wrote.

    Raises:
        Damaged: if the index has another form.
    """
    file = path / INDEX
    try:
        content = parse(file.read_bytes())
        if content["version"] != VERSION:
            raise ValueError(f"has version {content['version']}; this program reads {VERSION}")
        return {name: _entry(stored) for name, stored in content["tensors"].items()}
    except OSError as error:
        raise manifest.Damaged(f"{file} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise manifest.Damaged(f"{file} is damaged: {error}") from error


def _entry(stored: Mapping[str, Any]) -> Entry:
    dtype = getattr(torch, stored["dtype"])
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"has no type {stored['dtype']!r}")
    pieces = (
        Piece(Box(tuple(p["offsets"]), tuple(p["sizes"])), p["file"], p["key"]) for p in stored["pieces"]
    )
    return Entry(dtype, tuple(stored["shape"]), tuple(pieces))


def index_of_file(path: Path, file: str) -> dict[str, Entry]:
    """The tensors of a safetensors file, each as one piece, by key."""
    entries = {}
    with safe_open(path / file, framework="pt") as opened:
        for key in opened.keys():  # noqa: SIM118
            part = opened.get_slice(key)
            shape = tuple(part.get_shape())
            dtype = part[tuple(slice(0, 0) for _ in shape)].dtype
            entries[key] = Entry(dtype, shape, (Piece(Box.whole(shape), file, key),))
    return entries


class Store:
    """Tensors in the files of a checkpoint, read block by block.

    Args:
        path: The checkpoint's folder.
        entries: Which tensors there are; those of its shards' index if not given.
    """

    def __init__(self, path: Path, entries: Mapping[str, Entry] | None = None) -> None:
        self.path = path
        self.entries = read_index(path) if entries is None else entries
        self.outlines = {name: entry.empty() for name, entry in self.entries.items()}
        """Every tensor without memory, for places where its values are not needed yet."""
        self._names = {id(outline): name for name, outline in self.outlines.items()}
        self._opened: dict[str, Any] = {}

    def read(self, tensor: str | Tensor, box: Box | None = None) -> Tensor:
        """A block of a tensor, or all of it, on the CPU; reads nothing else.

        Args:
            tensor: Its name, or its outline.
            box: Which block.

        Raises:
            Damaged: if the files do not hold all of the block.
        """
        name = tensor if isinstance(tensor, str) else self._names[id(tensor)]
        entry = self.entries[name]
        wanted = Box.whole(entry.shape) if box is None else box
        result = torch.empty(wanted.sizes, dtype=entry.dtype)
        found = 0
        for piece in entry.pieces:
            common = wanted.overlap(piece.box)
            if common.elements:
                stored = self._file(piece.file).get_slice(piece.key)
                result[common.within(wanted)] = stored[common.within(piece.box)]
                found += common.elements
        if found != wanted.elements:
            raise manifest.Damaged(
                f"{self.path} holds {found} of {wanted.elements} numbers asked for of {name}"
            )
        return result

    def close(self) -> None:
        """Lets go of the files, so that a checkpoint that is removed frees its room; a later `read` opens them."""
        self._opened.clear()

    def _file(self, name: str) -> Any:
        if name not in self._opened:
            self._opened[name] = safe_open(self.path / name, framework="pt")
        return self._opened[name]


def assemble(path: Path) -> dict[str, Tensor]:
    """All tensors of a checkpoint's shards, whole and on the CPU, by name; tied ones are one tensor.

    Needs no `torch.distributed`. `insert` puts them where they belong.

    Raises:
        Damaged: if anything is missing.
    """
    store = Store(path)
    tensors: dict[str, Tensor] = {}
    firsts: dict[tuple[Piece, ...], str] = {}
    for name, entry in store.entries.items():
        first = firsts.setdefault(entry.pieces, name) if entry.pieces else name
        tensors[name] = tensors[first] if first in tensors else store.read(name)
    return tensors


def separate(content: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Lightning's checkpoint without the tensors of weights and optimiser states, and these by a name each."""
    rest = dict(content)
    tensors: dict[str, Tensor] = {}
    if "state_dict" in rest:
        rest["state_dict"] = _without_tensors(rest["state_dict"], "state_dict/{}", tensors)
    if "optimizer_states" in rest:
        rest["optimizer_states"] = [
            {
                **state,
                "state": {
                    name: _without_tensors(entry, f"optimizer_states/{number}/{{}}/{name}", tensors)
                    for name, entry in state["state"].items()
                },
            }
            for number, state in enumerate(rest["optimizer_states"])
        ]
    return rest, tensors


def _without_tensors(values: Mapping[str, Any], name: str, tensors: dict[str, Tensor]) -> dict[str, Any]:
    tensors |= {
        name.replace("{}", key, 1): value for key, value in values.items() if isinstance(value, Tensor)
    }
    return {key: value for key, value in values.items() if not isinstance(value, Tensor)}


def insert(rest: dict[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Puts tensors back where `separate` took them from, in place; returns the content.

    Raises:
        Damaged: if there is no such place.
    """
    for name, tensor in tensors.items():
        kind, _, place = name.partition("/")
        try:
            if kind == "state_dict":
                rest["state_dict"][place] = tensor
            else:
                number, key, parameter = place.split("/", 2)
                rest[kind][int(number)]["state"][parameter][key] = tensor
        except (KeyError, ValueError, IndexError) as error:
            raise manifest.Damaged(f"the checkpoint has tensors of {name}, but no place for them") from error
    return rest


def outline(path: Path) -> tuple[dict[str, Any], Store]:
    """A checkpoint of either form whose weights and optimiser states are on the meta device, and their store.

    Raises:
        Damaged: if it is not as it was written. Of the files of weights only the headers are looked at.
    """
    if manifest.manifest_of(path).kind == manifest.SHARDED:
        store = Store(path)
        return insert(folder.read_state(path), store.outlines), store
    store = Store(path, index_of_file(path, manifest.TENSORS))
    stored = parse((path / manifest.STATE).read_bytes())
    weights = {id(tensor) for tensor in separate(join(stored, store.outlines))[1].values()}
    tensors = {
        name: tensor if id(tensor) in weights else store.read(name) for name, tensor in store.outlines.items()
    }
    return join(stored, tensors), store
