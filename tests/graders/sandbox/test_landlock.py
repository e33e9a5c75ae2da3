"""Landlock's rules, put on a forked process."""

import ctypes
import os
from pathlib import Path

import pytest

from lit_posttrain.graders.sandbox import landlock

pytestmark = pytest.mark.skipif(landlock.abi() < 1, reason="this kernel offers no Landlock")


def within(rules, action):
    """Runs an action under the rules: its result as text, or the name of the error."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            ctypes.CDLL(None).prctl(38, 1, 0, 0, 0)
            landlock.restrict(rules)
            os.write(writing, str(action()).encode())
        except OSError as error:
            os.write(writing, type(error).__name__.encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        said = pipe.read()
    os.waitpid(pid, 0)
    return said


@pytest.fixture
def tree(tmp_path):
    for name in ("shown", "hidden", "box"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    rules = landlock.ruleset([str(tmp_path / "shown"), str(tmp_path / "none")], [str(tmp_path / "box")])
    yield tmp_path, rules
    os.close(rules)


def test_what_is_shown_can_be_read_and_not_written(tree):
    path, rules = tree
    assert within(rules, (path / "shown" / "file").read_text) == "shown"
    assert within(rules, lambda: os.listdir(path / "shown")) == "['file']"
    assert within(rules, lambda: (path / "shown" / "file").write_text("x")) == "PermissionError"
    assert within(rules, lambda: (path / "shown" / "new").write_text("x")) == "PermissionError"
    assert within(rules, lambda: (path / "shown" / "file").unlink()) == "PermissionError"


def test_nothing_else_can_be_opened(tree):
    path, rules = tree
    assert within(rules, (path / "hidden" / "file").read_text) == "PermissionError"
    assert within(rules, lambda: os.listdir(path)) == "PermissionError"
    assert within(rules, Path("/proc/self/environ").read_text) == "PermissionError"


def test_a_writable_folder_holds_files_and_folders_but_no_links_or_devices(tree):
    path, rules = tree
    assert within(rules, lambda: (path / "box" / "new").write_text("xyz")) == "3"
    assert (path / "box" / "new").read_text() == "xyz"
    assert within(rules, lambda: os.mkdir(path / "box" / "folder")) == "None"
    assert within(rules, lambda: os.symlink("/", path / "box" / "link")) == "PermissionError"
    assert within(rules, lambda: os.mkfifo(path / "box" / "pipe")) == "PermissionError"


def test_the_null_device_takes_everything(tree):
    _, rules = tree
    assert within(rules, lambda: Path(os.devnull).write_text("gone")) == "4"


def test_without_landlock_there_are_no_rules(monkeypatch):
    monkeypatch.setattr(landlock, "abi", lambda: 0)
    with pytest.raises(OSError, match="no Landlock"):
        landlock.ruleset([])
