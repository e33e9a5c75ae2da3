"""Rollouts drawn ahead within Lightning: over epochs, with accumulation, and after a resume from a checkpoint."""

import shutil

import lightning.pytorch as pl
import pytest
import torch
from scripted_rollouts import experience, same

from lit_posttrain.batches import Problem
from lit_posttrain.checkpoints.keeper import CheckpointKeeper
from lit_posttrain.contracts import Attempt, Collected, Reuse
from lit_posttrain.data import DynamicSampling, NoPositiveResampling, PromptData
from lit_posttrain.errors import InputError
from lit_posttrain.objectives.weights import TokenMean

K = 3


class Learner(pl.LightningModule):
    """One parameter; solves a problem in 5 of 10 when it is first drawn, in all later. Notes what it sees."""

    def __init__(self, reuse=Reuse()):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.reuse, self.weighting, self.needs_scoring = reuse, TokenMean(), False
        self.selective = True
        self.collected, self.seen, self.told = [], [], []

    def collect(self, prompts, index):
        self.collected.append((index, self.global_step, [p.uid for p in prompts.problems]))
        correct = 5 if index < 4 else 10
        went = tuple(Attempt(p.uid, 10, correct) for p in prompts.problems)
        return Collected(experience(index, 4, self.global_step), went)

    def score(self, experience):
        raise AssertionError("nothing is to be scored")

    def settle(self, experience):
        experience.advantages = experience.advantages * 2

    def record(self, values):
        self.told.append((self.global_step, dict(values)))

    def stop(self, reason):
        self.trainer.should_stop = True

    def training_step(self, batch, batch_idx):
        self.seen.append((self.global_step, batch.to_state()))
        return (self.weight * batch.weights * batch.advantages).sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Source:
    """Forty problems."""

    def problems(self, split):
        return [Problem((), None, f"p{i}") for i in range(40)]


class Text:
    """Every prompt is one token."""

    def prompt_ids(self, messages):
        return [1]


def data(staleness, **options):
    settings = {"problems_per_rollout": 3, "rollouts_per_epoch": 4, "max_prompt_tokens": 4, "text": Text()}
    return PromptData(Source(), staleness=staleness, **(settings | options))  # type: ignore[arg-type]


class Saves(CheckpointKeeper):
    """Every step is kept; notes what the module had done by then."""

    def __init__(self, folder):
        super().__init__(folder, every_n_train_steps=1, save_top_k=0, keep_last=99)
        self.done = {}

    def on_step_finished(self, trainer, pl_module):
        super().on_step_finished(trainer, pl_module)
        self.done[trainer.global_step] = (len(pl_module.collected), len(pl_module.told), len(pl_module.seen))


def fit(module, folder, staleness, max_steps, resume=None, **options):
    trainer = pl.Trainer(
        accelerator="cpu", max_steps=max_steps, accumulate_grad_batches=2, logger=False, callbacks=[Saves(folder)],
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder,
        use_distributed_sampler=False,
    )  # fmt: skip
    trainer.fit(module, datamodule=data(staleness, **options), ckpt_path=resume)
    return trainer.checkpoint_callback


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
@pytest.mark.parametrize("reuse", [Reuse(), Reuse(epochs=1, minibatches=2)])
def test_the_first_step_of_every_rollout_is_k_behind_over_epochs(tmp_path, reuse):
    module = Learner(reuse)
    fit(module, tmp_path, K, 6 * reuse.minibatches)
    told = "rollout/policy_version"
    versions = [(step, values[told]) for step, values in module.told if told in values]
    begun = [reuse.minibatches * j for j in range(6)]
    assert versions == [(step, max(0, step - K)) for step in begun]


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_a_resumed_run_draws_and_learns_as_the_one_without_a_stop(tmp_path):
    options = {"curriculum": NoPositiveResampling(), "refill": DynamicSampling(2)}
    reuse = Reuse(epochs=2, minibatches=1)
    whole = Learner(reuse)
    saved = fit(whole, tmp_path / "whole", K, 10, **options)
    drawn = [uid for index, _, uids in whole.collected for uid in uids if index >= 4]
    assert len(drawn) == len(set(drawn))
    for stop in (1, 2, 5, 7, 8, 9):
        later = Learner(reuse)
        shutil.copytree(
            tmp_path / "whole" / f"step-{stop:08d}.ckpt", tmp_path / f"{stop}" / f"step-{stop:08d}.ckpt"
        )
        fit(
            later,
            tmp_path / f"{stop}",
            K,
            10,
            resume=tmp_path / f"{stop}" / f"step-{stop:08d}.ckpt",
            **options,
        )
        collected, told, seen = saved.done[stop]
        assert later.collected == whole.collected[collected:]
        assert later.told == whole.told[told:]
        assert [step for step, _ in later.seen] == [step for step, _ in whole.seen[seen:]]
        assert same([batch for _, batch in later.seen], [batch for _, batch in whole.seen[seen:]])
        assert torch.equal(later.weight, whole.weight)


def test_a_negative_staleness_is_refused():
    with pytest.raises(InputError, match="staleness is -1"):
        data(-1)
