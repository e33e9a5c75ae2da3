"""Log-probs of the reference: computed once, verified, and never those of another one."""

import json
import threading
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from unit_rows import HERE, PAIRS, TEXT, VERDICTS, RowsGiven

from lit_posttrain.data import PreferenceData, ReferenceCache, UnpairedData
from lit_posttrain.data.reference_cache import ReferenceScorer, reference_logprobs
from lit_posttrain.data.units import UnitTable
from lit_posttrain.errors import InputError
from lit_posttrain.ranks import Ranks


class Scorer:
    """Log-probs that tell where they belong: -(id + place / 100), shifted by which reference it is."""

    device = "cpu"

    def __init__(self, digest="base", shift=0.0):
        self.digest, self.shift, self.calls = digest, shift, 0

    def reference_digest(self):
        return self.digest

    def score_reference(self, batch):
        self.calls += 1
        return expected(batch, self.shift)


def expected(batch, shift=0.0):
    return -(batch.input_ids + batch.position_ids / 100 + shift).float()


def units(rows=PAIRS):
    return UnitTable(
        PreferenceData(RowsGiven(tuple(rows)), text=TEXT, preparation=HERE).prepare("train").table
    )


def scored(scorer, settings, rows=PAIRS, ranks=None):
    return reference_logprobs(units(rows), scorer, settings, pad_id=0, ranks=ranks or Ranks())


@pytest.fixture
def cache(tmp_path):
    return ReferenceCache(str(tmp_path / "kept"), batch_tokens=40)


def test_computed_once_and_in_the_order_of_the_table(cache):
    first, again = Scorer(), Scorer()
    values = scored(first, cache)
    members = [member for row in range(len(PAIRS)) for member in units().unit(row)]
    by_hand = [
        -(int(i) + place / 100) if marked else 0.0
        for member in members
        for place, (i, marked) in enumerate(zip(member.ids, member.mask, strict=True))
    ]
    assert values.tolist() == pytest.approx(by_hand, abs=1e-5)
    assert first.calls > 1
    assert scored(again, cache).tolist() == values.tolist()
    assert again.calls == 0
    assert isinstance(scored(again, cache), np.memmap)


def test_another_reference_or_table_is_computed_anew(cache):
    values = scored(Scorer(), cache)
    other, shorter = Scorer("other", 1.0), Scorer()
    moved = scored(other, cache)
    assert other.calls > 0
    assert moved.min() == pytest.approx(values.min() - 1)
    assert len(scored(shorter, cache, PAIRS[:5])) < len(values)
    assert shorter.calls > 0


def test_a_named_cache_of_another_reference_or_table_is_refused(tmp_path):
    named = ReferenceCache(str(tmp_path), name="mine")
    scored(Scorer(), named)
    with pytest.raises(
        InputError, match=r"mine belong to another reference: they are of reference 'base', not other"
    ):
        scored(Scorer("other"), named)
    with pytest.raises(InputError, match="belong to another table"):
        scored(Scorer(), named, PAIRS[:5])
    assert scored(Scorer(), named).min() < 0


@pytest.mark.parametrize("damage", ["flipped", "short", "gone", "manifest", "foreign"])
def test_what_is_not_as_written_is_computed_anew(cache, damage, caplog):
    before = scored(Scorer(), cache).tolist()
    [place] = [p for p in Path(cache.folder).iterdir() if p.is_dir()]
    file, manifest = place / "logprobs.bin", place / "manifest.json"
    if damage == "flipped":
        data = bytearray(file.read_bytes())
        data[-1] ^= 1
        file.write_bytes(data)
    elif damage == "short":
        file.write_bytes(file.read_bytes()[:-4])
    elif damage == "gone":
        file.unlink()
    elif damage == "manifest":
        manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"reference": "other"}))
    else:
        manifest.write_text("[]")
    again = Scorer()
    assert scored(again, cache).tolist() == before
    assert again.calls > 0
    assert "computed anew" in caplog.text


def test_log_probs_that_are_not_finite_stop_the_run(cache):
    with pytest.raises(InputError, match="not finite"):
        scored(Scorer(shift=float("nan")), cache)
    assert [p for p in Path(cache.folder).iterdir() if p.is_dir()] == []


def test_a_folder_that_cannot_be_used(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"log-probs cannot be kept in .*set reference_cache.folder"):
        scored(Scorer(), ReferenceCache(str(tmp_path / "file" / "kept")))
    with pytest.raises(InputError, match="batch_tokens must be at least 1"):
        ReferenceCache(batch_tokens=0)


class Together(Ranks):
    """One of several ranks that are threads of this process."""

    def __init__(self, index, count, meeting):
        super().__init__(index, count)
        object.__setattr__(self, "meeting", meeting)

    def gather_all(self, mine):
        barrier, told = self.meeting
        told[self.index] = mine
        barrier.wait(20)
        everything = sorted(told.items())
        barrier.wait(20)
        return everything


def test_ranks_share_the_work_and_find_the_same(cache, monkeypatch):
    alone = scored(Scorer(), ReferenceCache(cache.folder + "-alone"))
    meeting, number = (threading.Barrier(3), {}), threading.local()
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: number.rank)
    found, scorers = {}, [Scorer() for _ in range(3)]

    def work(rank):
        number.rank = rank
        found[rank] = scored(scorers[rank], cache, ranks=Together(rank, 3, meeting)).tolist()

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [found[rank] for rank in range(3)] == [alone.tolist()] * 3
    calls = [scorer.calls for scorer in scorers]
    assert calls[0] == calls[1] == calls[2] > 1  # collective networks need that


class Method(pl.LightningModule):
    """What the data module asks of a method."""

    def __init__(self):
        super().__init__()
        self.text, self.max_positions, self.scorer = TEXT, 64, Scorer()

    def reference_digest(self):
        return self.scorer.reference_digest()

    def score_reference(self, batch):
        return self.scorer.score_reference(batch)


def with_module(data, module):
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.strategy.connect(module)
    data.trainer = trainer
    data.setup("fit")
    return data


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(("kind", "rows"), [(PreferenceData, PAIRS), (UnpairedData, VERDICTS)])
def test_batches_bring_the_log_probs_of_their_tokens(cache, kind, rows, packed):
    data = kind(RowsGiven(rows), text=TEXT, packed=packed, preparation=HERE, reference_cache=cache)
    with_module(data, Method())
    for loader in (data.train_dataloader(), data.val_dataloader()):
        for batch in loader:
            assert batch.reference_logprobs.shape == batch.input_ids.shape
            assert torch.allclose(batch.reference_logprobs, expected(batch) * batch.mask, atol=1e-5)
            assert batch.reference_logprobs.min() < 0


class Splits(RowsGiven):
    """Other rows in the validation split."""

    def rows(self, split):
        return self.given if split == "train" else self.given[:5]


def test_every_split_has_a_table_of_its_own_under_one_name(tmp_path):
    named = ReferenceCache(str(tmp_path), name="mine")
    for computes in (True, False):
        data = PreferenceData(Splits(PAIRS), text=TEXT, preparation=HERE, reference_cache=named)
        module = Method()
        with_module(data, module)
        for loader in (data.train_dataloader(), data.val_dataloader()):
            for batch in loader:
                assert torch.allclose(batch.reference_logprobs, expected(batch) * batch.mask, atol=1e-5)
        assert (module.scorer.calls > 0) == computes
    module.scorer = Scorer("other")
    data = PreferenceData(Splits(PAIRS), text=TEXT, preparation=HERE, reference_cache=named)
    with pytest.raises(InputError, match="mine-train belong to another reference"):
        with_module(data, module).train_dataloader()


def test_without_a_cache_batches_bring_none_and_methods_need_a_reference(cache):
    plain = PreferenceData(RowsGiven(PAIRS), text=TEXT, preparation=HERE)
    assert next(iter(plain.train_dataloader())).reference_logprobs is None
    data = PreferenceData(RowsGiven(PAIRS), text=TEXT, preparation=HERE, reference_cache=cache)
    with pytest.raises(InputError, match="has no fixed reference"):
        data.train_dataloader()
    assert isinstance(Method(), ReferenceScorer)
