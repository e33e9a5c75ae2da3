"""Whatever a disk, a kill or a full quota does ends in the old checkpoint or the new one, never between."""

import contextlib
import errno
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import pytest
import torch
import writer_process
from writer_process import assert_same, content, shimmed

from lit_posttrain.checkpoints import folder, manifest
from lit_posttrain.checkpoints.folder import read, verify, write
from lit_posttrain.checkpoints.io import FolderIO, SaveOutcome
from lit_posttrain.checkpoints.manifest import Damaged
from lit_posttrain.checkpoints.recovery import sweep, usable

FILES = ("manifest.json", "state.json", "tensors.safetensors")
OLD, NEW = content(5), content(10)


@pytest.fixture
def two(tmp_path):
    """Checkpoints of the steps 5 and 10."""
    write(tmp_path / "step-5.ckpt", OLD)
    write(tmp_path / "step-10.ckpt", NEW)
    return tmp_path


def assert_falls_back(two, problem):
    """Neither loads the damaged one nor anything but the whole one of step 5."""
    path = two / "step-10.ckpt"
    for attempt in (read, verify):
        with pytest.raises(Damaged, match=problem) as refused:
            attempt(path)
        assert str(path) in str(refused.value)
    with pytest.warns(UserWarning, match=problem) as told:
        assert usable(path) == two / "step-5.ckpt"
    assert "step-10.ckpt" in str(told[0].message)
    assert "step-5.ckpt" in str(told[0].message)
    assert told[0].filename == __file__
    with pytest.warns(UserWarning, match=problem):
        assert_same(FolderIO().load_checkpoint(path), OLD)


@pytest.mark.parametrize("how", ["flip", "cut", "zeros", "grow"])
def test_damage_at_fifty_places(two, how):
    drawn = random.Random(how)
    for number in range(50):
        name = FILES[number % 3]
        file = two / "step-10.ckpt" / name
        whole = file.read_bytes()
        at = drawn.randrange(len(whole))
        damaged = {
            "flip": whole[:at] + bytes([whole[at] ^ 1 << drawn.randrange(8)]) + whole[at + 1 :],
            "cut": whole[:at],
            "zeros": whole[:at] + bytes(len(whole) - at),
            "grow": whole[:at] + b" " + whole[at:],
        }[how]
        if damaged == whole:  # zeros where there were zeros
            continue
        file.write_bytes(damaged)
        assert_falls_back(two, name)
        file.write_bytes(whole)
    assert_same(read(two / "step-10.ckpt"), NEW)


def test_every_byte_of_the_manifest(two):
    file = two / "step-10.ckpt" / "manifest.json"
    whole = file.read_bytes()
    for at in range(len(whole)):
        damaged = bytearray(whole)
        damaged[at] ^= 1 << at % 8
        file.write_bytes(damaged)
        with pytest.raises(Damaged):
            manifest.manifest_of(file.parent)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_or_strange_file(two, name):
    file = two / "step-10.ckpt" / name
    file.unlink()
    assert_falls_back(two, name)
    file.mkdir()
    assert_falls_back(two, name)
    file.rmdir()
    file.symlink_to("nowhere")
    assert_falls_back(two, name)


@pytest.mark.parametrize("name", FILES)
def test_a_whole_file_of_another_checkpoint(two, name):
    if name == "manifest.json":
        shutil.copy(two / "step-5.ckpt" / name, two / "step-10.ckpt" / name)
        assert_falls_back(two, "state.json")
    else:
        shutil.copy(two / "step-5.ckpt" / name, two / "step-10.ckpt" / name)
        assert_falls_back(two, name)


def test_an_extra_file_is_not_read(two):
    (two / "step-10.ckpt" / "note.txt").write_text("mine")
    assert usable(two / "step-10.ckpt") == two / "step-10.ckpt"
    assert_same(read(two / "step-10.ckpt"), NEW)


def test_a_fifo_does_not_hang(two):
    file = two / "step-10.ckpt" / "state.json"
    file.unlink()
    os.mkfifo(file)
    assert_falls_back(two, "state.json")


class Full:
    """Fails the given calls from a number on (once, or always) as a full disk does."""

    def __init__(self, number, calls, always):
        self.number, self.calls, self.always = number, calls, always
        self.count = 0

    def __call__(self, name, function, args):
        if name not in self.calls:
            return
        self.count += 1
        if self.count == self.number or (self.always and self.count > self.number):
            if name == "close":
                function(*args)
            if name == "write":
                function(args[0], args[1][: len(args[1]) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("always", [False, True], ids=["once", "from then on"])
@pytest.mark.parametrize("name", ["step-5.ckpt", "step-10.ckpt", "a/b/step-10.ckpt"])
def test_a_disk_that_is_full_at_each_call(tmp_path, name, always):
    calls = ("mkdir", "write", "fsync") if always else ("mkdir", "open", "write", "fsync", "close", "rename")
    failed = 0
    for number in range(1, 1000):
        here = tmp_path / str(number)
        write(here / "step-5.ckpt", OLD)
        full = Full(number, calls, always)
        error = None
        with shimmed(full):
            try:
                write(here / name, NEW)
            except OSError as raised:
                error = raised
        if error is None:
            assert found(here / name) == (10, False)
        else:
            assert error.errno == errno.ENOSPC
            assert found(here / "step-5.ckpt") == (5, False)
            assert sorted(here.rglob(".*")) + list(here.rglob("*.ckpt")) == [here / "step-5.ckpt"]
            failed += 1
        if full.count < number:
            break
    assert failed >= (12 if always else 25)  # beside others 3 files, their folder and its parent
    assert not folder._writing


def test_an_error_of_the_disk_is_noted_and_training_goes_on(two):
    outcome = SaveOutcome()
    for number in (1, 4, 9):
        with shimmed(Full(number, ("write", "fsync"), True)):
            FolderIO().save_checkpoint(content(15), two / "step-15.ckpt", storage_options=outcome)
        assert outcome.error is not None
        assert outcome.error.errno == errno.ENOSPC
        assert sorted(os.listdir(two)) == ["step-10.ckpt", "step-5.ckpt"]
    with shimmed(Full(1, ("write",), True)), pytest.raises(OSError, match="No space left"):
        FolderIO().save_checkpoint(content(15), two / "step-15.ckpt")
    FolderIO().save_checkpoint(content(15), two / "step-15.ckpt", storage_options=outcome)
    assert outcome.error is None
    assert_same(read(two / "step-15.ckpt"), content(15))


def test_a_real_limit_of_the_system(two):
    """RLIMIT_FSIZE: the kernel itself refuses the write, half-way through the tensors."""
    large = content(15) | {"large": torch.ones(50_000)}
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            write(two / "step-10.ckpt", large)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert sorted(os.listdir(two)) == ["step-10.ckpt", "step-5.ckpt"]
    assert_same(read(two / "step-10.ckpt"), NEW)


def test_too_little_room_is_said_before_anything_is_written(two, monkeypatch):
    large = content(15) | {"large": torch.ones(1_000_000)}
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(0, 0, 4_900_000))
    touched = []
    with (
        shimmed(lambda *call: touched.append(call)),
        pytest.raises(OSError, match=r"5.0 MB needed, 4.9 MB free") as no,
    ):
        write(two / "step-15.ckpt", large)
    assert no.value.errno == errno.ENOSPC
    assert touched == []
    write(two / "step-15.ckpt", content(15))


def found(path):
    """What the usable checkpoint holds (5 or 10), and whether there was a warning."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        state = read(usable(path))
    assert_same(state, content(state["global_step"]))
    return state["global_step"], bool(told)


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """Folders in each of which a writer was killed, one call later each time, by the name it was to write."""
    root = tmp_path_factory.mktemp("killed")
    names = ("step-5.ckpt", "step-10.ckpt")
    subprocess.run([sys.executable, writer_process.__file__, root, *names], check=True, timeout=400)
    folders = {name: sorted((root / name).iterdir()) for name in names}
    assert all(len(made) > 25 for made in folders.values())
    return folders


def test_killed_at_each_call_while_it_replaces_a_checkpoint(killed):
    seen = []
    for here in killed["step-5.ckpt"]:
        step, warned = found(here / "step-5.ckpt")
        seen.append(step)
        assert warned == (not (here / "step-5.ckpt").exists())
        sweep(here)
        assert os.listdir(here) == ["step-5.ckpt"]
        assert found(here / "step-5.ckpt") == (step, False)
    assert seen == sorted(seen)  # never back from the new one to the old one
    assert set(seen) == {5, 10}


def test_killed_at_each_call_while_it_writes_beside_a_checkpoint(killed):
    there = []
    for here in killed["step-10.ckpt"]:
        there.append((here / "step-10.ckpt").exists())
        sweep(here)
        assert sorted(os.listdir(here)) == ["step-10.ckpt"] * there[-1] + ["step-5.ckpt"]
        assert found(here / "step-5.ckpt") == (5, False)
        assert not there[-1] or found(here / "step-10.ckpt") == (10, False)
    assert there == sorted(there)
    assert set(there) == {False, True}


@pytest.mark.parametrize("where", ["another filesystem", "missing"])
def test_the_folder_for_temporary_files_makes_no_difference(tmp_path, monkeypatch, where):
    shared = Path("/dev/shm")
    if where == "another filesystem" and (
        not os.access(shared, os.W_OK) or shared.stat().st_dev == tmp_path.stat().st_dev
    ):
        pytest.skip("no second filesystem here")
    monkeypatch.setenv("TMPDIR", str(shared if where == "another filesystem" else tmp_path / "none"))
    monkeypatch.setattr(tempfile, "tempdir", None)
    places = set()

    def watch(name, function, args):
        if name not in ("write", "fsync", "close") and isinstance(args[0], str | Path):
            places.add(str(args[0]))

    with shimmed(watch):
        write(tmp_path / "run" / "step-5.ckpt", OLD)
    outside = [place for place in places if os.path.isabs(place) and not place.startswith(str(tmp_path))]
    assert outside == []
    assert len(places) > 4
    assert_same(read(tmp_path / "run" / "step-5.ckpt"), OLD)


def test_all_is_on_the_disk_before_it_is_seen(two):
    """The order that survives a loss of power: bytes, their names, the new name; only then is the old deleted."""
    order = []

    def watch(name, function, args):
        if name in ("write", "fsync"):
            target = os.path.basename(os.readlink(f"/proc/self/fd/{args[0]}"))
            order.append((name, "temp" if ".tmp-" in target else target))
        elif name in ("rename", "unlink", "rmdir"):
            order.append((name, os.path.basename(str(args[0])).split("-")[0]))

    with shimmed(watch):
        write(two / "step-10.ckpt", content(11))
    parent = two.name
    last = [index for index, (name, _) in enumerate(order) if name == "write"][-1]
    for name in FILES:
        writes = [index for index, call in enumerate(order) if call == ("write", name)]
        assert order.index(("fsync", name)) > writes[-1]
    assert order[last] == ("write", "manifest.json")
    assert order[last + 1 : last + 7] == [
        ("fsync", "manifest.json"),
        ("fsync", "temp"),
        ("rename", "step"),
        ("fsync", parent),
        ("rename", ".step"),
        ("fsync", parent),
    ]
    assert {name for name, _ in order[last + 7 :]} == {"unlink", "rmdir"}
    assert {name for name, _ in order[: last + 7]} == {"write", "fsync", "rename"}


def test_an_interruption_leaves_the_old_one_and_nothing_else(two):
    for number in range(1, 1000):
        count = 0

        def interrupt(name, function, args, number=number):
            nonlocal count
            count += 1
            if count == number:
                raise KeyboardInterrupt

        with contextlib.suppress(KeyboardInterrupt), shimmed(interrupt):
            write(two / "step-10.ckpt", content(12))
        if count < number:
            break
        assert found(two / "step-10.ckpt")[1] is False
        for leftover in two.glob(".*"):
            shutil.rmtree(leftover)
    assert number > 30


def test_what_another_writer_puts_in_the_place_meanwhile_is_left_alone(two):
    """Only possible where locks do not work; then our checkpoint is lost, with an error, and no other one is."""
    path = two / "step-10.ckpt"
    write(two / "other.ckpt", content(11))

    def overtake(name, function, args):
        if name == "rename" and ".tmp-" in str(args[0]):
            shutil.rmtree(args[0])
            function(two / "other.ckpt", path)

    with shimmed(overtake), pytest.raises(OSError, match=r"tmp-"):
        write(path, content(12))
    assert found(path) == (11, False)
    sweep(two)
    assert sorted(os.listdir(two)) == ["step-10.ckpt", "step-5.ckpt"]
