"""Preparing tokens: once, in any number of processes alike, and never from a cache that is not what was written."""

import json
import multiprocessing
import os
import shutil
import signal
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from fakes import TEXT, Numbers

from lit_posttrain import interruption
from lit_posttrain.contracts import ProblemSource
from lit_posttrain.data import ChatData, sealed
from lit_posttrain.data import preparation as preparing
from lit_posttrain.data import tokenising as tokenise_module
from lit_posttrain.data.formats import Conversation, TextRow
from lit_posttrain.data.preparation import Preparation, fingerprint_of, prepared
from lit_posttrain.data.report import LengthLimit
from lit_posttrain.data.sources import Arithmetic, Table
from lit_posttrain.data.tokenising import Tokenising
from lit_posttrain.errors import InputError
from lit_posttrain.loss_mask import LossOn
from lit_posttrain.text import TextConfig, load_text

CHARACTERS = load_text(TEXT)


@dataclass(frozen=True)
class Rows(ProblemSource):
    """Rows as they are given; counts how often they are read."""

    rows: tuple
    reads: list

    def problems(self, split):
        raise NotImplementedError

    def chats(self, split):
        self.reads.append(split)
        return iter(self.rows)


def chat(question: str, answer: str, **message):
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer, **message}]


SUMS = tuple(chat(f"{i}+1=", str(i + 1)) for i in range(30))


def source(rows=SUMS):
    return Rows(tuple(rows), [])


def work(max_tokens=0, policy="error", loss=None, text=CHARACTERS):
    return Tokenising(text, loss or LossOn(), LengthLimit(max_tokens, policy, "train"))


@pytest.fixture
def cached(tmp_path):
    return Preparation(0, str(tmp_path / "cache"))


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(tokenise_module, "CHUNK_ROWS", 4)


def same(one, two):
    assert one.ids.tolist() == two.ids.tolist()
    assert one.mask.tolist() == two.mask.tolist()
    assert one.starts.tolist() == two.starts.tolist()
    assert one.counts.tolist() == two.counts.tolist()
    assert (one.scale is None) == (two.scale is None)
    assert one.scale is None or one.scale.tolist() == two.scale.tolist()
    assert one.digest == two.digest


def folder_of(settings):
    (place,) = [p for p in Path(settings.cache_dir).iterdir() if p.is_dir()]
    return place


def test_tokens_of_a_row_by_hand():
    table, told = prepared(source([chat("1+1=", "2")]), "train", work(), Preparation(0))
    ids = CHARACTERS.tokenizer.convert_tokens_to_ids(["1", "+", "1", "=", "2", "<eos>"])
    assert table.ids.tolist() == ids
    assert table.mask.tolist() == [False] * 4 + [True] * 2
    assert table.counts.tolist() == [2]
    assert (told.rows, told.tokens, told.answer_tokens) == (1, 6, 2)


def test_texts_and_conversations_are_rows_too():
    rows = [TextRow("12"), Conversation(chat("1+", "2")), chat("1+", "2", weight=0.5)]
    table, _ = prepared(source(rows), "train", work(), Preparation(0))
    assert table.mask.tolist() == [False, True, True] + [False, False, True, True] * 2
    assert table.scale is not None
    assert table.scale.tolist() == [0, 1, 1, 0, 0, 1, 1, 0, 0, 0.5, 0.5]
    assert table.counts.tolist() == [2, 2, 1]


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("workers", [1, 3])
def test_other_processes_give_the_same(workers, tmp_path):
    rows = [*SUMS, TextRow("12"), chat("1+", "2", weight=0.5)]
    here = prepared(source(rows), "train", work(7, "cut"), Preparation(0))
    there = prepared(source(rows), "train", work(7, "cut"), Preparation(workers, str(tmp_path)))
    same(here[0], there[0])
    assert here[1] == there[1]


@pytest.mark.usefixtures("small_chunks")
def test_an_error_in_another_process_names_the_row():
    rows = [*SUMS, chat("1x", "2")]
    for workers in (0, 2):
        with pytest.raises(InputError, match=r"row 30 of 'train': the tokenizer does not know 'x'"):
            prepared(source(rows), "train", work(), Preparation(workers))


@pytest.mark.usefixtures("small_chunks")
def test_a_dead_worker_is_told(monkeypatch):
    monkeypatch.setattr(tokenise_module, "tokenise", lambda *_: os._exit(1))
    with pytest.raises(InputError, match=r"lower preparation\.workers"):
        prepared(source(), "train", work(), Preparation(2))


def test_the_cache_gives_what_was_made(cached):
    rows = source([*SUMS, chat("1+", "2", weight=0.25)])
    made, told = prepared(rows, "train", work(), cached)
    again, told_again = prepared(rows, "train", work(), cached)
    in_memory, _ = prepared(rows, "train", work(), Preparation(0))
    same(made, again)
    same(made, in_memory)
    assert isinstance(again.ids, np.memmap)
    assert isinstance(again.mask, np.memmap)
    assert told_again == replace(told, note=f"tokens from the cache in {cached.cache_dir}")


def test_a_warm_cache_tokenises_nothing(cached, monkeypatch):
    prepared(source(), "train", work(), cached)
    monkeypatch.setattr(tokenise_module, "tokenise", None)
    prepared(source(), "train", work(), cached)


def test_small_data_stay_in_memory(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    prepared(source(), "train", work(), Preparation(0))
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(preparing, "SMALL_TOKENS", 40)
    table, _ = prepared(source(), "train", work(), Preparation(0))
    assert (tmp_path / "lit-posttrain" / "tokens").is_dir()
    assert len(table) == 30


CHANGED = {  # everything that tokens depend on, each changed alone
    "rows": (source([*SUMS[1:], SUMS[0]]), work()),
    "weight": (source([chat("0+1=", "1", weight=0.5), *SUMS[1:]]), work()),
    "tokenizer": (source(), work(text=load_text(TextConfig(characters="0123456789+=-")))),
    "template": (source(), work(text=load_text(TextConfig(characters=TEXT.characters, template="plain")))),
    "loss": (source(), work(loss=LossOn("all"))),
    "roles": (source(), work(loss=LossOn("all", {"user": 0.5}))),
    "limit": (source(), work(30)),
    "policy": (source(), work(0, "cut")),
}


@pytest.mark.parametrize("changed", CHANGED)
def test_another_fingerprint_for_what_is_changed(changed):
    rows, task = CHANGED[changed]
    assert fingerprint_of(rows, "train", task) != fingerprint_of(source(), "train", work())


def test_the_same_fingerprint_for_the_same_and_another_split(tmp_path):
    assert fingerprint_of(source(), "train", work()) == fingerprint_of(source(), "train", work())
    assert fingerprint_of(source(), "train", work()) != fingerprint_of(source(), "test", work())
    file = tmp_path / "rows.jsonl"
    seen = []
    for answer in ("2", "3", "2"):
        file.write_text(json.dumps({"prompt": "1+1=", "completion": answer}) + "\n")
        os.utime(file, ns=(0, len(seen)))
        seen.append(fingerprint_of(Table(str(file)), "train", work()))
    assert seen[0] == seen[2] != seen[1]
    with_settings = [
        Arithmetic(digits=n, train_size=10**9) for n in (2, 3, 2)
    ]  # never read: that would take days
    one, two, three = (fingerprint_of(a, "train", work()) for a in with_settings)
    assert one == three != two


def flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


DAMAGE = {
    "a flipped bit in the ids": lambda place: flip(place / "ids.bin"),
    "a flipped bit in the counts": lambda place: flip(place / "counts.bin"),
    "a shorter file": lambda place: os.truncate(place / "mask.bin", 10),
    "a missing file": lambda place: (place / "starts.bin").unlink(),
    "a foreign scale": lambda place: (place / "scale.bin").write_bytes(b"1234"),
    "no manifest": lambda place: (place / "manifest.json").unlink(),
    "a manifest that is no JSON": lambda place: (place / "manifest.json").write_text("{"),
    "a manifest that is a list": lambda place: (place / "manifest.json").write_text("[]"),
    "another version": lambda place: edit(place, version=2),
    "tokens of something else": lambda place: edit(place, fingerprint="0" * 32),
    "a link": lambda place: link(place / "ids.bin"),
    "nothing at all": lambda place: [file.unlink() for file in place.iterdir()],
}


def edit(place, **values):
    content = json.loads((place / "manifest.json").read_text())
    (place / "manifest.json").write_text(json.dumps(content | values))


def link(file):
    shutil.move(file, file.parent.parent / "elsewhere")
    file.symlink_to(file.parent.parent / "elsewhere")


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_cache_is_made_anew(damage, cached, caplog):
    rows = source()
    first, _ = prepared(rows, "train", work(), cached)
    expected = (first.ids.tolist(), first.mask.tolist(), first.counts.tolist())
    DAMAGE[damage](folder_of(cached))
    again, told = prepared(rows, "train", work(), cached)
    assert (again.ids.tolist(), again.mask.tolist(), again.counts.tolist()) == expected
    assert told.note == "" or damage == "a foreign scale"
    assert "made anew" in caplog.text or damage == "a foreign scale"
    assert prepared(rows, "train", work(), cached)[1].note


def test_what_fails_leaves_nothing_behind(cached):
    with pytest.raises(InputError, match="30 of 30 rows of 'train' have more than 3 tokens"):
        prepared(source(), "train", work(3), cached)
    with pytest.raises(InputError, match="row 30"):
        prepared(source([*SUMS, chat("x", "1")]), "train", work(), cached)
    assert {path.suffix for path in Path(cached.cache_dir).iterdir()} == {".lock"}


def test_a_killed_writer_leaves_nothing_that_is_believed(cached):
    """Another process is killed while it writes; what it left is swept, and the tokens are made."""

    def write_for_ever():
        sealed._seal = lambda *_: time.sleep(60)
        prepared(source(), "train", work(), cached)

    child = multiprocessing.get_context("fork").Process(target=write_for_ever, daemon=True)
    child.start()
    folder = Path(cached.cache_dir)
    while not (left := [*folder.glob(".*/starts.bin")]):
        time.sleep(0.01)
    child.kill()
    child.join(20)
    assert child.exitcode == -signal.SIGKILL
    table, told = prepared(source(), "train", work(), cached)
    assert (len(table), told.note) == (30, "")
    assert not left[0].parent.exists()


def test_one_makes_the_tokens_while_others_wait(cached, monkeypatch):
    """Two at once: the second waits for the first and then reads what it made."""
    made, begun, go_on = [], threading.Event(), threading.Event()
    write = preparing.write

    def slow(folder, chunks):
        made.append(folder)
        begun.set()
        assert go_on.wait(20)
        return write(folder, chunks)

    monkeypatch.setattr(preparing, "write", slow)
    results = []
    threads = [
        threading.Thread(target=lambda: results.append(prepared(source(), "train", work(), cached)))
        for _ in range(2)
    ]
    threads[0].start()
    assert begun.wait(20)
    threads[1].start()
    time.sleep(0.3)
    go_on.set()
    for thread in threads:
        thread.join(20)
    assert len(made) == 1
    assert sorted(bool(told.note) for _, told in results) == [False, True]
    same(*(table for table, _ in results))


def test_waiting_ends_when_a_stop_is_asked_for(cached):
    fingerprint = fingerprint_of(source(), "train", work())
    store = preparing.TokenCache.of(cached.cache_dir)
    with store.lock(fingerprint):
        interruption.request("SIGTERM")
        try:
            with pytest.raises(interruption.Interrupted), store.lock(fingerprint):
                pass
        finally:
            interruption.clear()


def test_a_folder_that_cannot_be_used(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"set preparation\.cache_dir to a folder"):
        prepared(source(), "train", work(), Preparation(0, str(tmp_path / "file" / "cache")))


def test_empty_sources_and_negative_workers():
    with pytest.raises(InputError, match="Rows has no rows in split 'train'"):
        prepared(source([]), "train", work(), Preparation(0))
    with pytest.raises(InputError, match=r"preparation\.workers must be at least 0 \(got -1\)"):
        Preparation(-1)


def test_progress_is_shown_once_it_takes_long(monkeypatch, capsys):
    monkeypatch.setattr(tokenise_module, "CHUNK_ROWS", 10)
    prepared(source(), "train", work(), Preparation(0))
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("lit_posttrain.data.progress.QUIET_S", 0)
    prepared(Numbers(30), "train", work(), Preparation(0))
    assert capsys.readouterr().err.startswith("train: tokenising, 10 of 30 rows (33%)")


def test_a_run_prepares_each_split_once_and_says_so(capsys):
    rows = source()
    data = ChatData(rows, text=CHARACTERS, batch_sequences=8, preparation=Preparation(0))
    data.setup("fit")
    read = len(rows.reads)
    assert [*data.train_dataloader(), *data.val_dataloader()]
    assert len(rows.reads) == read
    assert "train: 30 rows, 30 kept" in capsys.readouterr().out
    assert [entry["context"] for entry in data.datasets()] == ["training", "validation"]
