"""Shards written by some processes and read by others: block arithmetic, the index, two real processes."""

import contextlib
import itertools
import math
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor, distributed
from torch.distributed.tensor import Partial, Replicate, Shard
from torch.distributed.tensor.placement_types import _StridedShard

from lit_posttrain.checkpoints import boxes, folder, manifest, sharded
from lit_posttrain.checkpoints.sharded import Box, Entry, Piece, Store
from lit_posttrain.checkpoints.strategy import ShardedStrategy
from lit_posttrain.errors import InputError
from lit_posttrain.networks.sharding import Sharding
from lit_posttrain.networks.state import named_optimizer_state

SCRIPT = Path(__file__).with_name("sharded_process.py")
sys.path.insert(0, str(SCRIPT.parent))
from sharded_process import WAYS_TO_SAVE, Module, content_of, equal, load, strategy_of, train, whole  # noqa: E402

BOTH = ("sharded.ckpt", "single.ckpt")
TIMEOUT_S = 600


@st.composite
def grids(draw: st.DrawFn) -> tuple[tuple[int, ...], list[Box]]:
    """A shape, and boxes that cover it without overlap, some of them empty: a grid with random cuts."""
    shape = tuple(draw(st.lists(st.integers(0, 5), max_size=3)))
    boxes = [Box((), ())]
    for length in shape:
        cuts = sorted([0, length, *draw(st.lists(st.integers(0, length), max_size=2))])
        spans = list(itertools.pairwise(cuts))
        boxes = [Box((*b.offsets, lo), (*b.sizes, hi - lo)) for b in boxes for lo, hi in spans]
    return shape, boxes


@settings(max_examples=60, deadline=None)
@given(grids(), st.data())
def test_any_blocks_are_read_from_any_blocks(
    tmp_path_factory: Any, grid: tuple[tuple[int, ...], list[Box]], data: st.DataObject
) -> None:
    shape, boxes = grid
    numbers = torch.arange(math.prod(shape)).reshape(shape)
    path = tmp_path_factory.mktemp("boxes")
    parts = {f"part-{i}": _cut(numbers, box) for i, box in enumerate(boxes)}
    save_file(parts, path / "file.safetensors")
    pieces = tuple(Piece(box, "file.safetensors", f"part-{i}") for i, box in enumerate(boxes))
    store = Store(path, {"x": Entry(torch.int64, shape, pieces)})
    starts = tuple(data.draw(st.integers(0, length)) for length in shape)
    sizes = tuple(data.draw(st.integers(0, n - start)) for n, start in zip(shape, starts, strict=True))
    assert torch.equal(store.read("x", Box(starts, sizes)), _cut(numbers, Box(starts, sizes)))
    assert torch.equal(store.read("x"), numbers)


def _cut(numbers: Tensor, box: Box) -> Tensor:
    for dim, (start, size) in enumerate(zip(box.offsets, box.sizes, strict=True)):
        numbers = numbers.narrow(dim, start, size)
    return numbers.clone()


def test_overlap_and_index_of_blocks() -> None:
    some, other = Box((0, 2), (3, 4)), Box((2, 0), (5, 3))  # rows 0-2, columns 2-5; rows 2-6, columns 0-2
    common = some.overlap(other)
    assert common == Box((2, 2), (1, 1))
    assert common.within(some) == (slice(2, 3), slice(0, 1))
    assert common.within(other) == (slice(0, 1), slice(2, 3))
    assert Box((0,), (2,)).overlap(Box((5,), (2,))).elements == 0
    assert Box.whole(()).elements == 1


@pytest.mark.parametrize(
    ("shape", "mesh", "placements", "expected"),
    [
        ((3, 4), (2,), [Shard(0)], [((0, 0), (2, 4)), ((2, 0), (1, 4))]),
        ((1, 4), (2,), [Shard(0)], [((0, 0), (1, 4)), ((1, 0), (0, 4))]),
        ((5,), (4,), [Shard(0)], [((0,), (2,)), ((2,), (2,)), ((4,), (1,)), ((5,), (0,))]),
        ((3, 3), (2,), [Shard(1)], [((0, 0), (3, 2)), ((0, 2), (3, 1))]),
        ((2,), (2, 2), [Replicate(), Shard(0)], [((0,), (1,)), ((1,), (1,))] * 2),
        # tensor parallelism cuts 9 rows in 5 and 4; FSDP cuts these in 2, 2, 1, 0 and 1, 1, 1, 1
        (
            (9,),
            (4, 2),
            [_StridedShard(0, split_factor=2), Shard(0)],
            [((o,), (n,)) for o, n in [(0, 2), (5, 1), (2, 2), (6, 1), (4, 1), (7, 1), (5, 0), (8, 1)]],
        ),
    ],
)
def test_what_each_process_holds(shape: Any, mesh: Any, placements: Any, expected: Any) -> None:
    coordinates = torch.cartesian_prod(*map(torch.arange, mesh)).reshape(-1, len(mesh)).tolist()
    assert [boxes.divide(shape, mesh, c, placements) for c in coordinates] == [Box(*box) for box in expected]


@pytest.mark.parametrize("placements", [[Partial()], [_StridedShard(0, split_factor=2)]])
def test_other_divisions_are_refused(placements: Any) -> None:
    with pytest.raises(InputError, match="cannot be stored"):
        boxes.divide((4,), (2,), (0,), placements)


def test_a_gap_is_an_error() -> None:
    boxes = {0: Box((0,), (2,)), 1: Box((3,), (1,))}
    entry = Entry(torch.float32, (4,), ())
    rows = [[("x", "x", Entry(entry.dtype, entry.shape, (Piece(box),)))] for box in boxes.values()]
    with pytest.raises(InputError, match="do not hold every number of x"):
        sharded.plan({}, lambda work: rows)


def test_a_missing_file_or_piece_is_an_error(tmp_path: Path) -> None:
    save_file({"x": torch.zeros(2)}, tmp_path / "file.safetensors")
    piece = Piece(Box((0,), (2,)), "file.safetensors", "x")
    store = Store(tmp_path, {"x": Entry(torch.float32, (3,), (piece,))})
    assert store.read("x", Box((0,), (2,))).tolist() == [0, 0]
    with pytest.raises(manifest.Damaged, match="2 of 3 numbers"):
        store.read("x")


@pytest.mark.parametrize(
    "text", [b"{}", b"[", b'{"version":2,"tensors":{}}', b'{"version":1,"tensors":{"x":{"dtype":"add"}}}']
)
def test_a_strange_index_is_an_error(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "shards").mkdir()
    (tmp_path / sharded.INDEX).write_bytes(text)
    with pytest.raises(manifest.Damaged):
        Store(tmp_path)
    with pytest.raises(manifest.Damaged, match="cannot be read"):
        Store(tmp_path / "none")


def test_content_without_its_tensors_and_back() -> None:
    weights = {"a/b.weight": torch.ones(2), "extra": {"text": "kept"}}
    state = {"a/b.weight": {"step": torch.tensor(1.0), "momentum_buffer": None}}
    content = {
        "state_dict": weights,
        "optimizer_states": [{"state": state, "param_groups": [{"lr": 0.1}]}],
        "epoch": 2,
    }
    rest, tensors = sharded.separate(content)
    assert list(tensors) == ["state_dict/a/b.weight", "optimizer_states/0/step/a/b.weight"]
    assert rest["state_dict"] == {"extra": {"text": "kept"}}
    assert rest["optimizer_states"][0]["state"] == {"a/b.weight": {"momentum_buffer": None}}
    assert len(weights) == 2  # untouched
    back = sharded.insert(rest, tensors)
    assert back["state_dict"]["a/b.weight"] is weights["a/b.weight"]
    assert back["optimizer_states"][0]["state"]["a/b.weight"]["step"] == 1
    with pytest.raises(manifest.Damaged, match="no place"):
        sharded.insert({"state_dict": {}}, {"optimizer_states/0/step/x": torch.ones(())})


def _address() -> dict[str, str]:
    """Where processes meet: a port of this machine that nobody uses."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}


def _by_one(place: Path) -> None:
    """A checkpoint of one process with a plain strategy, and its numbers beside it."""
    module = Module(seed=5)
    module.configure_model()
    optimizer = module.configure_optimizers()
    train(module, optimizer, 2)
    optimizer.param_groups[0]["lr"] = 0.005
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    order = [names[id(p)] for group in optimizer.param_groups for p in group["params"]]
    content = {
        "global_step": 3,
        "callbacks": {"mine": {"rank": 0, "random": torch.get_rng_state()}},
        "state_dict": module.state_dict(),
        "optimizer_states": [named_optimizer_state(optimizer.state_dict(), order)],
    }
    folder.write(place / "by-one.ckpt", content)
    save_file({name: t.clone() for name, t in whole(content).items()}, place / "by-one.safetensors")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where two processes have made all their checks, and left their checkpoints."""
    place = tmp_path_factory.mktemp("two")
    _by_one(place)
    running = subprocess.Popen(
        [sys.executable, str(SCRIPT), str(place)],
        env=os.environ | _address() | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        told, _ = running.communicate(timeout=TIMEOUT_S)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(running.pid, signal.SIGKILL)
    assert running.returncode == 0, told
    return place


@pytest.fixture
def one_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A process group of this process alone."""
    for name, value in (_address() | {"LOCAL_RANK": "0", "NODE_RANK": "0"}).items():
        monkeypatch.setenv(name, value)
    yield
    distributed.destroy_process_group()


@pytest.mark.parametrize("name", BOTH)
def test_two_processes_write_what_a_plain_strategy_reads(place: Path, name: str) -> None:
    content = folder.read(place / name)
    equal(whole(content), load_file(place / "expected.safetensors"))
    assert content["callbacks"]["mine"]["rank"] == 0
    assert content["optimizer_states"][0]["param_groups"][1]["params"] == [
        "net.middle.weight",
        "net.embed.weight",
    ]
    assert content["state_dict"]["net.head.weight"] is content["state_dict"]["net.embed.weight"]


def test_both_forms_hold_the_same(place: Path) -> None:
    some, other = (folder.read(place / name) for name in BOTH)
    equal(whole(some), whole(other))
    (rest, _), (other_rest, _) = sharded.separate(some), sharded.separate(other)
    assert torch.equal(*(content["callbacks"]["mine"].pop("random") for content in (rest, other_rest)))
    assert rest == other_rest


def test_tied_weights_and_replicas_are_stored_once(place: Path) -> None:
    entries = sharded.read_index(place / "sharded.ckpt")
    assert entries["state_dict/net.head.weight"].pieces == entries["state_dict/net.embed.weight"].pieces
    rows = [(piece.box, piece.file) for piece in entries["state_dict/net.embed.weight"].pieces]
    assert rows == [
        (Box((0, 0), (2, 4)), "shards/rank-00000.safetensors"),
        (Box((2, 0), (1, 4)), "shards/rank-00001.safetensors"),
    ]
    assert len(entries["state_dict/net.one.weight"].pieces) == 1  # of one row the second process has nothing
    assert entries["state_dict/net.nothing"].pieces == ()
    keys = [key for file in (place / "sharded.ckpt/shards").glob("*.safetensors") for key in load_file(file)]
    assert "state_dict/net.head.weight" not in keys
    assert keys.count("state_dict/net.table") == 1


@pytest.mark.usefixtures("one_process")
def test_one_process_loads_what_two_wrote(place: Path) -> None:
    for form in WAYS_TO_SAVE:
        module = Module(seed=1)
        strategy = strategy_of(module, 1, save=form)
        load(strategy, place / f"{form}.ckpt")
        equal(whole(content_of(strategy)), load_file(place / "expected.safetensors"))
        strategy.save_checkpoint(content_of(strategy), place / f"again-{form}.ckpt")
        equal(whole(folder.read(place / f"again-{form}.ckpt")), load_file(place / "expected.safetensors"))
        load(strategy, place / f"fresh-{form}.ckpt")
        assert not strategy.optimizers[0].state


def test_settings_are_checked() -> None:
    with pytest.raises(InputError, match="must be sharded or single"):
        ShardedStrategy(save="both")  # type: ignore[arg-type]
    assert ShardedStrategy().sharding == Sharding()


def test_backend_of_offloading(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ShardedStrategy, "root_device", torch.device("cuda", 0))
    offloading = Sharding(cpu_offload=True)
    assert ShardedStrategy(sharding=offloading)._get_process_group_backend() == "cpu:gloo,cuda:nccl"
    assert ShardedStrategy()._get_process_group_backend() == "nccl"
    with pytest.raises(InputError, match="cpu_offload on CUDA needs cpu:gloo,cuda:nccl"):
        ShardedStrategy(sharding=offloading, process_group_backend="nccl")._get_process_group_backend()
