"""GRPO and PPO stopped after any optimiser step, inside inner epochs and with rollouts drawn ahead, and long runs."""

import gc
import math
import os
from pathlib import Path

import pytest
import torch
from fakes import grpo, ppo, prompt_data, trainer
from lightning.pytorch import Callback

from lit_posttrain.contracts import Reuse
from lit_posttrain.methods import KLInLoss, KLInReward, Terms
from lit_posttrain.methods.references import ResetEvery
from lit_posttrain.objectives.entropy import EntropyBonus
from lit_posttrain.objectives.kl_coefficients import Adaptive

STEPS = 9
REUSE = Reuse(epochs=2, minibatches=2)


def adamw(parameters):
    return torch.optim.AdamW(parameters, lr=3e-3)


def moving(kl):
    """Everything that changes on the way: the weight of the KL, that of the entropy, the reference."""
    term = kl(Adaptive(0.1, target_nats=0.01, horizon=100), reference=ResetEvery(steps=3))
    return Terms(kl=term, entropy=EntropyBonus(0.01, target_nats=2.0))


RUNS = {
    "grpo": (lambda: grpo(terms=moving(KLInLoss), reuse=REUSE, optimizer=adamw), {"staleness": 0}),
    "grpo ahead": (lambda: grpo(terms=moving(KLInReward), reuse=REUSE, optimizer=adamw), {"staleness": 5}),
    "ppo": (lambda: ppo(terms=moving(KLInReward), reuse=REUSE, optimizer=adamw), {"staleness": 0}),
    "ppo ahead": (lambda: ppo(terms=moving(KLInReward), reuse=REUSE, optimizer=adamw), {"staleness": 3}),
}


class SaveEach(Callback):
    """Saves after each optimiser step."""

    def __init__(self, folder):
        self.folder = folder

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        trainer.save_checkpoint(self.folder / f"{trainer.global_step}.ckpt")


def weights(module) -> dict[str, torch.Tensor]:
    return {
        f"{name}.{k}": p.detach().clone()
        for name, network in module.trained_networks().items()
        for k, p in network.named_parameters()
    }


@pytest.mark.parametrize("kind", RUNS)
def test_resumed_after_any_step_it_is_the_run_that_never_stopped(kind, tmp_path):
    make, data = RUNS[kind]
    whole = make()
    trainer(max_steps=STEPS, callbacks=[SaveEach(tmp_path)]).fit(whole, datamodule=prompt_data(**data))
    expected = weights(whole)
    for step in range(1, STEPS):
        again = make()
        go_on = trainer(max_steps=STEPS)
        go_on.fit(again, datamodule=prompt_data(**data), ckpt_path=tmp_path / f"{step}.ckpt")
        found = weights(again)
        assert all(torch.equal(expected[name], found[name]) for name in expected), step
        assert again.terms.state() == whole.terms.state()
        assert again.reference.version == whole.reference.version == 2


class Watch(Callback):
    """Resident memory (MiB) after every 25th step, and whether every logged number is finite."""

    def __init__(self):
        self.memory, self.strange = [], set()

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step % 25 == 0:
            gc.collect()
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            self.memory.append(pages * os.sysconf("SC_PAGE_SIZE") / 2**20)
        told = trainer.callback_metrics.items()
        self.strange |= {name for name, value in told if not math.isfinite(float(value))}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["grpo", "grpo ahead", "ppo"])
def test_three_hundred_rollouts(kind):
    """1,200 optimiser steps: no number that is none, and memory that has stopped growing."""
    make, data = RUNS[kind]
    module, watch = make(), Watch()
    trainer(max_steps=300 * REUSE.steps, callbacks=[watch]).fit(module, datamodule=prompt_data(**data))
    assert module.global_step == 1200
    assert not watch.strange
    assert all(bool(p.isfinite().all()) for p in weights(module).values())
    print(f"\n{kind}: MiB after every 100 steps", [round(m) for m in watch.memory[3::4]])
    third = len(watch.memory) // 3
    assert max(watch.memory[-third:]) - max(watch.memory[third : 2 * third]) < 8
