import errno
import json
import os
import random
import sys
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch import Callback

sys.path.insert(0, str(Path(__file__).parent.parent / "tracking"))
from scripted_run import LEARNING, MemoryLogger, Questions, ScriptedMethod, fit

from lit_posttrain.batches import Sampling
from lit_posttrain.checkpoints import folder
from lit_posttrain.checkpoints.keeper import CheckpointKeeper
from lit_posttrain.checkpoints.run_state import RunState
from lit_posttrain.errors import InputError
from lit_posttrain.interruption import Interrupted
from lit_posttrain.ledger import Phase
from lit_posttrain.tracking.compute import ComputeMeter
from lit_posttrain.tracking.probe import AccuracyProbe

UIDS = [f"q{i}" for i in range(20)]


class RisingThenFalling(ScriptedMethod):
    """Gets better for four steps, then worse."""

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        return loss if int(batch) <= 4 else -loss


class Whole(ScriptedMethod):
    """With all that a resume could get wrong: randomness, a validation, rollouts in the books; fails on demand."""

    def __init__(self, fail=None, **settings):
        super().__init__(**settings)
        self.fail = fail or (lambda place, step: False)
        self.drawn, self.validated = [], []
        self.steps.on_fetch = self.collect

    def at(self, place):
        if self.fail(place, self.global_step):
            self.fail = lambda place, step: False
            raise Interrupted("SIGTERM")

    def collect(self):
        with self.ledger.phase(Phase.ROLLOUT):
            self.ledger.add(flops=7.0, generated_tokens=1, positions=1)
            self.at("rollout")

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.drawn.append((float(torch.rand(())), random.random(), float(np.random.rand())))
        self.at("step")
        self.log("train/loss", float(self.drawn[-1][0]))
        return loss

    def validation_step(self, batch, batch_idx):
        self.validated.append((self.global_step, float(torch.rand(()))))
        self.ledger.add(flops=3.0, positions=1)
        self.at("validation")
        self.log("val/loss", self.validated[-1][1])

    def val_dataloader(self):
        return Numbers()


class Numbers:
    """Two numbers; a plain list would be taken for two loaders."""

    def __len__(self):
        return 2

    def __iter__(self):
        return iter(torch.zeros(2, 1))


def probe(**settings):
    return AccuracyProbe(**{"data": Questions(UIDS), "every_n_steps": 1, **settings})


def names(path):
    return sorted(
        f"{p.name} -> {p.readlink()}" if p.is_symlink() else p.name
        for p in path.iterdir()
        if p.suffix == ".ckpt"
    )


def skill(path):
    return float(folder.read(path)["state_dict"]["policy.skill"])


def test_keeps_the_newest_two_and_the_best(tmp_path):
    kept = CheckpointKeeper(tmp_path)
    fit(RisingThenFalling(batches=7), [kept, probe(), ComputeMeter()])
    assert names(tmp_path) == [
        "best.ckpt -> step-00000004.ckpt",
        "last.ckpt -> step-00000007.ckpt",
        "step-00000004.ckpt",
        "step-00000006.ckpt",
        "step-00000007.ckpt",
    ]
    assert kept.best_model_path == str(tmp_path / "best.ckpt")
    assert skill(tmp_path / "best.ckpt") == pytest.approx(4 * LEARNING)
    assert skill(tmp_path / "last.ckpt") == pytest.approx(1 * LEARNING)
    for path in tmp_path.glob("*.ckpt"):
        folder.verify(path)


def test_of_equally_good_points_the_older_is_best_and_min_turns_the_order(tmp_path):
    fit(
        ScriptedMethod(batches=6),
        [CheckpointKeeper(tmp_path / "a", monitor="scurve/problems"), probe(), ComputeMeter()],
    )
    assert (tmp_path / "a" / "best.ckpt").readlink() == Path("step-00000001.ckpt")
    worst = CheckpointKeeper(tmp_path / "b", mode="min", save_top_k=2, keep_last=1)
    fit(RisingThenFalling(batches=7), [worst, probe(), ComputeMeter()])
    assert names(tmp_path / "b")[2:] == ["step-00000001.ckpt", "step-00000007.ckpt"]


def test_a_checkpoint_knows_the_probe_the_books_and_what_is_kept(tmp_path):
    fit(ScriptedMethod(batches=3), [CheckpointKeeper(tmp_path), probe(), ComputeMeter()])
    stored = folder.read(tmp_path / "last.ckpt")["callbacks"]
    assert [point["step"] for point in stored["AccuracyProbe"]["points"]] == [0, 1, 2, 3]
    assert stored["ComputeMeter"]["ledger"]["update"]["flops"] == 3000.0
    assert stored["CheckpointKeeper"]["saved"] == ["step-00000002.ckpt", "step-00000003.ckpt"]


def test_saves_between_probes_and_at_the_end(tmp_path):
    seen = []

    class Spy(ScriptedMethod):
        def on_train_batch_start(self, batch, batch_idx):
            seen.append(skill(tmp_path / "last.ckpt") if (tmp_path / "last.ckpt").exists() else None)

    kept = CheckpointKeeper(tmp_path, every_n_train_steps=2, save_top_k=0)
    fit(Spy(batches=5), [kept, probe(every_n_steps=100, at_end=False), ComputeMeter()])
    assert seen == [None, None, 2 * LEARNING, 2 * LEARNING, 4 * LEARNING]
    assert skill(tmp_path / "last.ckpt") == 5 * LEARNING
    assert not (tmp_path / "best.ckpt").exists()


def test_what_a_step_logs_is_logged_before_it_is_saved(tmp_path):
    logger, seen = MemoryLogger(), []

    class Saving(CheckpointKeeper):
        def _save(self, trainer):
            seen.append((trainer.global_step, len(logger.of("train/loss")), len(logger.of("val/loss"))))
            super()._save(trainer)

    callbacks = [ComputeMeter(), Saving(tmp_path, every_n_train_steps=1)]
    fit(Whole(batches=4), callbacks, logger=logger, val_check_interval=2)
    assert seen == [(1, 1, 0), (2, 2, 1), (3, 3, 1), (4, 4, 2)]


def run(path, fail=None, ckpt_path=None, logger=None):
    """3 epochs of 4 batches, 2 to a step, validations after batch 2 and 4 of each epoch."""
    method = Whole(fail, batches=4, accumulate=2)
    watched, meter = probe(every_n_steps=2), ComputeMeter()
    settings = {"max_epochs": 3, "val_check_interval": 2, "logger": logger, "ckpt_path": ckpt_path}
    callbacks = [watched, meter, RunState(), CheckpointKeeper(path, every_n_train_steps=5)]
    seed()
    fit(method, callbacks, **settings)
    return method, watched, meter


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    path, log = tmp_path_factory.mktemp("whole"), MemoryLogger()
    return run(path, logger=log), log, path


def seed():
    """The same global randomness for each run."""
    torch.manual_seed(3)
    random.seed(3)
    np.random.seed(3)


def work_of(meter):
    return {name: value for name, value in meter.figures().items() if name.startswith("compute/")}


@pytest.mark.parametrize("place", ["rollout", "step", "validation"])
@pytest.mark.parametrize("step", [1, 2, 3, 5])
def test_an_interrupted_run_goes_on_bit_for_bit_as_if_it_had_not_been(undisturbed, tmp_path, place, step):
    (method, points, meter), whole_log, whole_path = undisturbed
    log = MemoryLogger()

    def fail(where, now):
        return where == place and now == step

    with pytest.raises(SystemExit):
        run(tmp_path / "cut", fail, logger=log)
    torch.rand(5)
    again, resumed, books = run(tmp_path / "cut", ckpt_path=tmp_path / "cut" / "last.ckpt", logger=log)
    left = len(again.drawn)
    assert left == len(method.drawn) - 2 * step
    assert again.drawn == method.drawn[-left:]
    assert again.trained == method.trained[-left:]
    assert [s for s, _ in again.validated] == [
        s for s, _ in method.validated if s > step - (place == "validation")
    ]
    assert again.validated == method.validated[-len(again.validated) :]
    assert work_of(books) == work_of(meter)
    for name in ("train/loss", "val/loss", "scurve/accuracy", "scurve/flops"):
        assert dict(log.of(name)) == dict(whole_log.of(name)), name
    assert timeless(resumed.points) == timeless(points.points)
    one, other = (folder.read(path / "last.ckpt") for path in (whole_path, tmp_path / "cut"))
    if place == "validation":  # the counter of validations in this epoch, which nothing reads
        one["loops"]["fit_loop"]["epoch_loop.val_loop.batch_progress"].pop("total")
        other["loops"]["fit_loop"]["epoch_loop.val_loop.batch_progress"].pop("total")
    assert one["loops"]["fit_loop"] == other["loops"]["fit_loop"]
    assert torch.equal(one["run_state"]["random"][0]["torch"], other["run_state"]["random"][0]["torch"])


def timeless(points):
    return [{k: v for k, v in point.items() if "device" not in k} for point in points]


@pytest.fixture(scope="module")
def every_checkpoint(tmp_path_factory):
    source = tmp_path_factory.mktemp("source")
    seed()
    everything = CheckpointKeeper(source, every_n_train_steps=1, keep_last=9)
    parts = [probe(every_n_steps=2), ComputeMeter(), RunState(), everything]
    fit(Whole(batches=4, accumulate=2), parts, max_epochs=3, val_check_interval=2)
    return source


@pytest.mark.parametrize("step", range(1, 7))
def test_any_checkpoint_goes_on_bit_for_bit(undisturbed, every_checkpoint, tmp_path, step):
    """At all places of the epochs, of which 2, 4 and 6 are the ends."""
    method, points, meter = undisturbed[0]
    again, resumed, books = run(tmp_path, ckpt_path=every_checkpoint / f"step-{step:08d}.ckpt")
    one, other = (folder.read(path / "last.ckpt") for path in (undisturbed[2], tmp_path))
    assert one["loops"]["fit_loop"] == other["loops"]["fit_loop"]
    left = len(method.drawn) - 2 * step
    assert again.drawn == method.drawn[len(method.drawn) - left :]
    assert [s for s, _ in again.validated] == [s for s, _ in method.validated if s > step]
    assert work_of(books) == work_of(meter)
    assert timeless(resumed.points) == timeless(points.points)


class CutProbe(AccuracyProbe):
    """Is interrupted in the middle of a point."""

    cut_at = None
    state_key = "AccuracyProbe"

    def _probe(self, trainer, module):
        if trainer.global_step == self.cut_at:
            self.cut_at, generate = None, module.engine.generate

            def stop(requests, finished=None):
                generate(requests, finished)
                raise Interrupted("SIGTERM")

            module.engine.generate = stop
        super()._probe(trainer, module)


@pytest.mark.parametrize("step", [2, 4, 5])
def test_a_point_that_was_cut_off_is_taken_first_thing_after_the_resume(tmp_path, step):
    """Steps 2 and 4 are due; 5 is the last point, of the trained policy, when no step is left."""
    settings = {"data": Questions(UIDS), "every_n_steps": 2, "sampling": Sampling(max_new_tokens=1)}
    whole_log, log = MemoryLogger(), MemoryLogger()
    whole, meter = AccuracyProbe(**settings), ComputeMeter()
    seed()
    callbacks = [whole, meter, RunState(), CheckpointKeeper(tmp_path / "a")]
    fit(Whole(batches=9), callbacks, max_steps=5, logger=whole_log)

    cut = CutProbe(**settings)
    cut.cut_at = step
    seed()
    callbacks = [cut, ComputeMeter(), RunState(), CheckpointKeeper(tmp_path / "b")]
    with pytest.raises(SystemExit):
        fit(Whole(batches=9), callbacks, max_steps=5, logger=log)
    assert [point["step"] for point in cut.points] == [s for s in (0, 2, 4, 5) if s < step]
    seen, resumed, books = [], AccuracyProbe(**settings), ComputeMeter()
    again = Whole(batches=9)
    again.steps.on_fetch = lambda: (again.collect(), seen.append([point["step"] for point in resumed.points]))
    kept = CheckpointKeeper(tmp_path / "b")
    last = tmp_path / "b" / "last.ckpt"
    fit(again, [resumed, books, RunState(), kept], max_steps=5, ckpt_path=last, logger=log)
    assert all(step in steps for steps in seen)
    assert timeless(resumed.points) == timeless(whole.points)
    assert work_of(books) == work_of(meter)
    assert [p["step"] for p in folder.read(last)["callbacks"]["AccuracyProbe"]["points"]] == [0, 2, 4, 5]
    for name in ("train/loss", "val/loss", "scurve/accuracy"):
        assert dict(log.of(name)) == dict(whole_log.of(name)), name


def test_nothing_is_saved_before_the_first_step(tmp_path):
    with pytest.raises(SystemExit):
        fit(ScriptedMethod(fail_at=1), [CheckpointKeeper(tmp_path), probe(), ComputeMeter()])
    assert names(tmp_path) == []


def test_a_full_disk_costs_a_checkpoint_and_not_the_run(tmp_path, monkeypatch):
    rename, refused = os.rename, []

    def full(source, target):
        if str(target).endswith("step-00000003.ckpt"):
            refused.append(target)
            raise OSError(errno.ENOSPC, "No space left on device", str(target))
        rename(source, target)

    monkeypatch.setattr(os, "rename", full)
    with pytest.warns(
        UserWarning, match=r"NOT WRITTEN: .*step-00000003.ckpt: .*No space left.*Training goes on"
    ):
        fit(ScriptedMethod(batches=4), [CheckpointKeeper(tmp_path), probe(), ComputeMeter()])
    assert refused
    assert names(tmp_path)[2:] == ["step-00000002.ckpt", "step-00000004.ckpt"]
    assert (
        folder.read(tmp_path / "last.ckpt")["callbacks"]["CheckpointKeeper"]["saved"] == names(tmp_path)[2:]
    )
    with pytest.raises(OSError, match=r"step-00000003\.ckpt"):
        fit(
            ScriptedMethod(batches=4),
            [CheckpointKeeper(tmp_path / "b", on_error="stop"), probe(), ComputeMeter()],
        )


def test_a_step_that_is_reached_again_is_replaced(tmp_path):
    """Resuming from an older checkpoint: those ahead stay until they are passed, and nothing is left over."""
    callbacks = [CheckpointKeeper(tmp_path, keep_last=9), probe(), ComputeMeter()]
    fit(ScriptedMethod(batches=8), callbacks, max_steps=5)
    before = (tmp_path / "step-00000004.ckpt").stat().st_ino
    resumed = CheckpointKeeper(tmp_path, keep_last=2)
    ckpt_path = tmp_path / "step-00000002.ckpt"
    fit(ScriptedMethod(batches=8), [resumed, probe(), ComputeMeter()], max_steps=4, ckpt_path=ckpt_path)
    assert (tmp_path / "step-00000004.ckpt").stat().st_ino != before
    assert names(tmp_path) == [
        "best.ckpt -> step-00000004.ckpt",
        "last.ckpt -> step-00000004.ckpt",
        "step-00000003.ckpt",
        "step-00000004.ckpt",
        "step-00000005.ckpt",
    ]


def test_a_damaged_checkpoint_does_not_count_among_those_kept(tmp_path):
    fit(ScriptedMethod(batches=8), [CheckpointKeeper(tmp_path), probe(), ComputeMeter()], max_steps=4)
    (tmp_path / "step-00000004.ckpt" / "tensors.safetensors").write_bytes(b"")
    kept = CheckpointKeeper(tmp_path, save_top_k=0)
    with pytest.warns(UserWarning, match=r"step-00000004.*step-00000003.ckpt is used in its place"):
        fit(
            ScriptedMethod(batches=8),
            [kept, probe(), ComputeMeter()],
            max_steps=5,
            ckpt_path=tmp_path / "last.ckpt",
        )
    assert kept.shelf.saved == ["step-00000004.ckpt", "step-00000005.ckpt"]
    folder.verify(tmp_path / "step-00000004.ckpt")


def test_two_runs_are_never_mixed(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    for path in (ours, theirs):
        fit(ScriptedMethod(batches=8), [CheckpointKeeper(path), probe(), ComputeMeter()], max_steps=2)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    fresh = ScriptedMethod(batches=8)
    with pytest.raises(InputError, match=r"holds checkpoints of an earlier run .*--ckpt_path last.*dirpath"):
        fit(fresh, [CheckpointKeeper(ours), probe(), ComputeMeter()])
    assert fresh.engine.calls == []  # not even the first probe was taken
    with pytest.raises(InputError, match="holds checkpoints of an earlier run"):
        fit(
            ScriptedMethod(),
            [CheckpointKeeper(ours), probe(), ComputeMeter()],
            ckpt_path=theirs / "last.ckpt",
        )
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    assert not list((tmp_path / "here").iterdir())
    (ours / "run.json").unlink()  # a folder that was copied without it
    fit(ScriptedMethod(), [CheckpointKeeper(ours), probe(), ComputeMeter()], ckpt_path=ours / "last.ckpt")


def test_a_run_that_left_no_checkpoint_is_begun_again_as_the_same_run(tmp_path):
    class Named(MemoryLogger):
        uid = "first"

        def state_dict(self):
            return {"uid": self.uid}

        def load_state_dict(self, state):
            self.uid = state["uid"]

    with pytest.raises(SystemExit):
        fit(ScriptedMethod(fail_at=1), [CheckpointKeeper(tmp_path)], logger=Named())
    uid = json.loads((tmp_path / "run.json").read_text())["run_uid"]
    again, logger = CheckpointKeeper(tmp_path), Named()
    logger.uid = "second"
    trainer = pl.Trainer(logger=logger, callbacks=[again], accelerator="cpu", enable_progress_bar=False)
    assert again.find(trainer, "last") is None
    again.start_over(trainer)
    assert (again.run_uid, logger.uid) == (uid, "first")


def test_last_and_best_are_found_where_the_settings_say(tmp_path):
    trainer = pl.Trainer(
        logger=MemoryLogger(), accelerator="cpu", enable_progress_bar=False, enable_checkpointing=False
    )
    with pytest.raises(InputError, match=r"run_name or checkpoint\.dirpath"):
        CheckpointKeeper().find(trainer, "last")
    kept = CheckpointKeeper(tmp_path, save_top_k=0)
    fit(ScriptedMethod(batches=3), [kept, probe(), ComputeMeter()])
    assert kept.find(trainer, "last") == tmp_path / "last.ckpt"
    assert kept.find(trainer, "best") is None
    (tmp_path / "last.ckpt").unlink()  # killed between the first checkpoint and its link
    assert kept.find(trainer, "last") == tmp_path / "step-00000003.ckpt"


def test_a_resumed_run_keeps_to_the_folder_of_its_logger(tmp_path):
    class NamedLogger(MemoryLogger):
        save_dir = str(tmp_path)

        def __init__(self, version):
            super().__init__()
            self.version = version

    class TakesTheOldName(Callback):
        def on_load_checkpoint(self, trainer, pl_module, checkpoint):
            trainer.logger.version = "old"

    old = tmp_path / "memory" / "old" / "checkpoints"
    with pytest.raises(SystemExit):
        fit(
            ScriptedMethod(fail_at=5),
            [CheckpointKeeper(), probe(), ComputeMeter()],
            logger=NamedLogger("old"),
        )
    callbacks = [CheckpointKeeper(), probe(), ComputeMeter(), TakesTheOldName()]
    fit(ScriptedMethod(), callbacks, logger=NamedLogger("new"), ckpt_path=old / "last.ckpt")
    assert not (tmp_path / "memory" / "new").exists()
    assert skill(old / "last.ckpt") == pytest.approx(8 * LEARNING)


def test_no_best_without_its_metric_is_said(tmp_path, caplog):
    kept = CheckpointKeeper(tmp_path, monitor="scurve/pass_at_2")
    fit(ScriptedMethod(batches=2), [kept, probe(), ComputeMeter()])
    assert "'scurve/pass_at_2', which the probe does not give" in caplog.text
    assert not (tmp_path / "best.ckpt").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"keep_last": 0}, "keep_last is 0"),
        ({"save_top_k": -1}, "save_top_k"),
        ({"every_n_train_steps": 0}, "every_n"),
    ],
)
def test_settings_that_keep_nothing_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        CheckpointKeeper(**settings)


def test_random_states_of_more_processes_than_there_were(caplog):
    from lit_posttrain.checkpoints.run_state import _restore, random_state

    states = [random_state(), random_state()]
    seed()
    states[1] = random_state()
    expected = (float(torch.rand(())), random.random(), float(np.random.rand()))
    _restore(states, rank=1, world=2)
    assert (float(torch.rand(())), random.random(), float(np.random.rand())) == expected
    drawn = set()
    for rank in (2, 3, 2):
        _restore(states, rank=rank, world=4)
        drawn.add((float(torch.rand(())), random.random(), float(np.random.rand())))
    assert len(drawn) == 2
    _restore(states, rank=0, world=1)
    assert "2 processes, the run goes on with 1" in caplog.text
