import hashlib
import json
import os
import re

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.demos.boring_classes import BoringModel
from writer_process import assert_same, content

from lit_posttrain.checkpoints import folder, hashed_files, manifest, recovery
from lit_posttrain.checkpoints.io import FolderIO
from lit_posttrain.checkpoints.manifest import Damaged, FileEntry, Manifest
from lit_posttrain.errors import InputError


def sealed(content):
    """The text of a manifest with its own hash, as the form has it."""
    compact = {"separators": (",", ":")}
    bare = json.dumps(content | {"sha256": ""}, **compact) + "\n"
    return json.dumps(content | {"sha256": hashlib.sha256(bare.encode()).hexdigest()}, **compact) + "\n"


@pytest.fixture
def saved(tmp_path):
    folder.write(tmp_path / "step-5.ckpt", content(5))
    return tmp_path / "step-5.ckpt"


def damage(path):
    (path / "state.json").write_text("{}")


def test_the_folder_and_its_manifest(saved):
    assert sorted(os.listdir(saved)) == ["manifest.json", "state.json", "tensors.safetensors"]
    text = (saved / "manifest.json").read_text()
    content = json.loads(text)
    assert text == sealed(content)
    assert (content["schema"], content["kind"], content["step"], content["world"]) == (1, "single", 5, 1)
    for name in ("state.json", "tensors.safetensors"):
        data = (saved / name).read_bytes()
        assert content["files"][name] == {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    told = folder.verify(saved)
    assert told == manifest.manifest_of(saved)
    assert told.files["state.json"] == FileEntry(**content["files"]["state.json"])
    assert oct(saved.stat().st_mode & 0o777) == oct(0o777 & ~umask())


def umask():
    current = os.umask(0)
    os.umask(current)
    return current


def test_what_is_read_is_what_was_written(saved, tmp_path):
    assert_same(folder.read(saved), content(5))
    assert_same(folder.read_state(saved), content(5))
    folder.write(tmp_path / "new" / "folder" / "empty", {})
    assert folder.read(tmp_path / "new" / "folder" / "empty") == {}


def test_reading_on_a_device(saved):
    weights = folder.read(saved, "meta")["state_dict"]
    assert {value.device.type for value in weights.values()} == {"meta"}


def test_a_checkpoint_is_replaced(saved):
    folder.write(saved, content(6))
    assert_same(folder.read(saved), content(6))
    assert os.listdir(saved.parent) == ["step-5.ckpt"]
    damage(saved)
    folder.write(saved, content(7))
    assert_same(folder.read(saved), content(7))


def test_a_link_is_replaced_and_not_what_it_names(saved):
    link = saved.with_name("last.ckpt")
    link.symlink_to(saved.name)
    folder.write(link, content(6))
    assert not link.is_symlink()
    assert_same(folder.read(link), content(6))
    assert_same(folder.read(saved), content(5))


@pytest.mark.parametrize("what", ["file", "folder", "one file of ours"])
def test_nothing_else_is_ever_replaced_or_removed(tmp_path, what):
    path = tmp_path / "mine"
    if what == "file":
        path.write_text("mine")
    else:
        path.mkdir()
        (path / ("manifest.json" if what == "one file of ours" else "thesis.tex")).write_text("mine")
    for action in (lambda: folder.write(path, content(5)), lambda: folder.remove(path)):
        with pytest.raises(InputError, match="no checkpoint of ours"):
            action()
    assert os.listdir(tmp_path) == ["mine"]
    assert "mine" in (path if what == "file" else next(path.iterdir())).read_text()


@pytest.mark.parametrize(
    "strange", [{"global_step": 1.0}, {"global_step": True}, {"a": {1}}, {"b": object()}]
)
def test_what_cannot_be_stored_leaves_the_old_one(saved, strange):
    with pytest.raises(TypeError, match=r"content\["):
        folder.write(saved, strange)
    assert os.listdir(saved.parent) == ["step-5.ckpt"]
    assert_same(folder.read(saved), content(5))


def test_pickles_and_other_files_are_refused(tmp_path):
    torch.save({"state_dict": {}}, tmp_path / "old.ckpt")
    (tmp_path / "link.ckpt").symlink_to("old.ckpt")
    for name in ("old.ckpt", "link.ckpt"):
        for action in (
            folder.read,
            folder.read_state,
            folder.verify,
            recovery.usable,
            FolderIO().load_checkpoint,
        ):
            with pytest.raises(InputError, match=r"never are: export") as refused:
                action(tmp_path / name)
            assert type(refused.value) is InputError


def test_a_newer_form_is_refused_and_nothing_takes_its_place(saved):
    folder.write(saved.with_name("step-4.ckpt"), content(4))
    file = saved / "manifest.json"
    file.write_text(sealed(json.loads(file.read_text()) | {"schema": 2, "more": []}))
    for action in (folder.read, folder.verify, recovery.usable):
        with pytest.raises(InputError, match="newer lit-posttrain") as refused:
            action(saved)
        assert type(refused.value) is InputError


@pytest.mark.parametrize(
    "change",
    [
        {"schema": 0},
        {"schema": True},
        {"kind": "other"},
        {"step": 5.0},
        {"world": None},
        {"more": 1},
        {"files": []},
        {"files": {"state.json": {"size": 1, "sha256": ""}}},
        {"files": {"../state.json": {"size": 1, "sha256": ""}}},
        {"files": {"/etc/passwd": {"size": 1, "sha256": ""}}},
        {"files": {"more": {"size": 1}}},
        {"files": {"more": {"size": "1", "sha256": ""}}},
    ],
    ids=json.dumps,
)
def test_a_manifest_with_anything_else_is_damaged(saved, change):
    file = saved / "manifest.json"
    content = json.loads(file.read_text())
    if len(change.get("files", ())) == 1 and "state.json" not in change["files"]:
        change = {"files": content["files"] | change["files"]}
    file.write_text(sealed(content | change))
    with pytest.raises(Damaged, match=r"manifest\.json"):
        manifest.manifest_of(saved)


@pytest.mark.parametrize("state", [[], "text", {"$set": []}, {"a": {"$tensor": "none"}}, {"$tuple": []}])
def test_a_state_of_another_form_is_damaged_even_with_a_right_hash(saved, state):
    data = json.dumps(state).encode()
    (saved / "state.json").write_bytes(data)
    content = json.loads((saved / "manifest.json").read_text())
    content["files"]["state.json"] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (saved / "manifest.json").write_text(sealed(content))
    folder.verify(saved)
    with pytest.raises(Damaged, match=r"state\.json"):
        folder.read(saved)


@pytest.mark.parametrize(
    "header",
    [
        b"{}",
        b'{"__metadata__":{"format":"tf"}}',
        b'{"__metadata__":{"format":"pt"},"x":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}',
        b'{"__metadata__":{"format":"pt"},"x":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}',
        b'{"__metadata__":{"format":"pt"},"x":{"dtype":"F31","shape":[1],"data_offsets":[0,4]}}',
        b'{"__metadata__":{"format":"pt"},"x":{"dtype":"F32","shape":[-1],"data_offsets":[0,-4]}}',
        b'{"__metadata__":{"format":"pt"},"x":{"dtype":"F32","shape":[0,4e99],"data_offsets":[0,0]}}',
        b'{"__metadata__":{"format":"pt"},"x":{"dtype":"F32","shape":[0,%d],"data_offsets":[0,0]}}' % 2**70,
        b'{"__metadata__":{"format":"pt"},"x":7}',
    ],
)
def test_a_tensor_file_of_another_form_is_damaged(tmp_path, header):
    for length in (len(header), 2**63, 3):
        data = length.to_bytes(8, "little") + header + bytes(4)
        (tmp_path / "t").write_bytes(data)
        with pytest.raises(Damaged):
            hashed_files.read_tensors(tmp_path / "t", FileEntry(len(data), hashlib.sha256(data).hexdigest()))


def steps(parent, *numbers):
    for number in numbers:
        folder.write(parent / f"step-{number:08d}.ckpt", content(number))


def named(parent, number):
    return parent / f"step-{number:08d}.ckpt"


def test_usable_is_the_one_asked_for_when_it_is_whole(tmp_path):
    steps(tmp_path, 1, 2, 3)
    (tmp_path / "last.ckpt").symlink_to(named(tmp_path, 2).name)
    assert recovery.usable(tmp_path / "last.ckpt") == named(tmp_path, 2)
    assert recovery.usable(named(tmp_path, 1)) == named(tmp_path, 1)


def test_usable_steps_back_to_the_newest_that_is_whole_and_never_forward(tmp_path):
    steps(tmp_path, 1, 9, 10, 11, 12)
    (tmp_path / "last.ckpt").symlink_to(named(tmp_path, 11).name)
    (tmp_path / "notes").mkdir()
    damage(named(tmp_path, 11))
    told = re.escape(f"{named(tmp_path, 11)}/state.json is damaged: has 2 bytes")
    with pytest.warns(UserWarning, match=f"{told}.*; {re.escape(str(named(tmp_path, 10)))} is used"):
        assert recovery.usable(tmp_path / "last.ckpt") == named(tmp_path, 10)
    damage(named(tmp_path, 10))
    (named(tmp_path, 9) / "tensors.safetensors").unlink()
    with pytest.warns(UserWarning, match="step-00000001.ckpt is used"):
        assert recovery.usable(tmp_path / "last.ckpt") == named(tmp_path, 1)
    (named(tmp_path, 11) / "manifest.json").unlink()  # now only the name tells the step
    with pytest.warns(UserWarning, match="step-00000001.ckpt is used"):
        assert recovery.usable(tmp_path / "last.ckpt") == named(tmp_path, 1)
    damage(named(tmp_path, 1))
    with pytest.raises(Damaged, match="no checkpoint beside it"):
        recovery.usable(tmp_path / "last.ckpt")
    assert recovery.usable(named(tmp_path, 12)) == named(tmp_path, 12)


def test_a_link_to_nothing_steps_back_but_a_wrong_name_does_not(tmp_path):
    steps(tmp_path, 1, 3)
    (tmp_path / "last.ckpt").symlink_to(named(tmp_path, 2).name)
    with pytest.warns(UserWarning, match=r"step-00000002\.ckpt is not there; .*00000001\.ckpt is used"):
        assert recovery.usable(tmp_path / "last.ckpt") == named(tmp_path, 1)
    for path in (named(tmp_path, 2), tmp_path / "none" / "a.ckpt"):
        with pytest.raises(InputError, match="there is no checkpoint") as refused:
            recovery.usable(path)
        assert type(refused.value) is InputError


def test_sweep_leaves_what_lives_and_what_is_not_ours(saved):
    parent = saved.parent
    living = folder.begin(parent / "step-6.ckpt")
    (living / "state.json").write_text("{}")
    dead = parent / ".step-7.ckpt.tmp-0123456789abcdef"
    replaced = parent / ".step-5.ckpt.old-0123456789abcdef"
    kept = parent / ".export.tmp-abcdefgh"
    for made in (dead, replaced, kept):
        made.mkdir()
        (made / "manifest.json").write_text("{}")
    recovery.sweep(parent)
    assert sorted(parent.iterdir()) == sorted([saved, living, kept])
    folder.abandon(living)
    assert sorted(parent.iterdir()) == sorted([saved, kept])
    recovery.sweep(parent / "none")


@pytest.mark.parametrize("whole", [False, True], ids=["half", "whole"])
def test_sweep_ends_what_a_killed_writer_began(saved, whole):
    token = "0123456789abcdef"
    aside = saved.with_name(f".step-5.ckpt.old-{token}")
    temp = saved.with_name(f".step-5.ckpt.tmp-{token}")
    folder.write(saved.with_name("new.ckpt"), content(6))
    saved.rename(aside)
    saved.with_name("new.ckpt").rename(temp)
    if not whole:
        (temp / "manifest.json").unlink()
    expected = content(6 if whole else 5)
    with pytest.warns(UserWarning, match="is not there"):
        assert_same(folder.read(recovery.usable(saved)), expected)
    recovery.sweep(saved.parent)
    assert os.listdir(saved.parent) == ["step-5.ckpt"]
    assert_same(folder.read(saved), expected)


def test_the_pieces_for_a_writer_of_many_processes(tmp_path):
    path = tmp_path / "step-3.ckpt"
    temp = folder.begin(path, 1000)
    assert temp.parent == tmp_path
    (temp / "shards").mkdir()
    (temp / "shards" / "a").write_text("one")
    (temp / "state.json").write_text("{}\n")
    files = {
        "shards/a": hashed_files.seal(temp / "shards" / "a"),
        "state.json": hashed_files.seal(temp / "state.json"),
    }
    assert files["shards/a"] == FileEntry(3, hashlib.sha256(b"one").hexdigest())
    files["tensors.safetensors"] = FileEntry(48, "0" * 64)
    with pytest.raises(Damaged, match="is not there with its 48 bytes"):
        folder.publish(temp, path, Manifest("sharded", 3, 4, files))
    files["tensors.safetensors"] = hashed_files.write_tensors(temp / "tensors.safetensors", {})
    with pytest.raises(ValueError, match="step"):
        folder.publish(temp, path, Manifest("sharded", True, 4, files))
    folder.publish(temp, path, Manifest("sharded", 3, 4, files))
    assert folder.verify(path) == Manifest("sharded", 3, 4, files)
    assert folder.read_state(path) == {}
    (path / "shards" / "a").write_text("two")
    with pytest.raises(Damaged, match="shards/a"):
        folder.verify(path)
    with pytest.raises(Damaged, match="shards/a"):
        folder.read(path)
    assert os.listdir(tmp_path) == ["step-3.ckpt"]


def test_too_big_is_refused_at_once(tmp_path):
    with pytest.raises(OSError, match="MB needed"):
        folder.begin(tmp_path / "a.ckpt", 2**60)
    assert os.listdir(tmp_path) == []


def test_removing(saved):
    link = saved.with_name("last.ckpt")
    link.symlink_to(saved.name)
    folder.remove(link)
    assert folder.verify(saved)
    FolderIO().remove_checkpoint(str(saved))
    folder.remove(saved)
    assert os.listdir(saved.parent) == []


@pytest.mark.parametrize(
    "wrong", [{"map_location": lambda storage, place: storage}, {"map_location": {"a": "b"}}]
)
def test_settings_that_lightning_may_give(saved, wrong):
    io = FolderIO()
    assert_same(io.load_checkpoint(str(saved), map_location="cpu", weights_only=False), content(5))
    with pytest.raises(TypeError, match="must be a device"):
        io.load_checkpoint(saved, **wrong)
    with pytest.raises(TypeError, match="SaveOutcome"):
        io.save_checkpoint(content(5), saved, storage_options={"a": 1})


class Keeping(FolderIO):
    """Also keeps what Lightning wants to have saved."""

    def save_checkpoint(self, checkpoint, path, storage_options=None):
        self.given = checkpoint
        super().save_checkpoint(checkpoint, path, storage_options)


def fitted(root, io, **settings):
    quiet = {
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "accelerator": "cpu",
    }
    sizes = {"max_steps": 3, "limit_val_batches": 0, "enable_checkpointing": False}
    trainer = pl.Trainer(default_root_dir=root, plugins=[io], **quiet, **sizes)
    module = BoringModel()
    trainer.fit(module, **settings)
    return trainer, module.state_dict()


@pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers")
@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch")
def test_lightning_saves_and_resumes_through_it(tmp_path):
    io = Keeping()
    run, weights = fitted(tmp_path, io)
    run.save_checkpoint(tmp_path / "here.ckpt")
    assert manifest.manifest_of(tmp_path / "here.ckpt").step == 3
    assert_same(folder.read(tmp_path / "here.ckpt"), io.given)
    assert {"loops", "optimizer_states", "lr_schedulers"} <= io.given.keys()
    again, resumed = fitted(tmp_path, FolderIO(), ckpt_path=str(tmp_path / "here.ckpt"))
    assert again.global_step == 3
    assert_same(resumed, weights)
