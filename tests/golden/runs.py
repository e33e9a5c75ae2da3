"""The fixed runs whose losses are recorded: 20 steps of each method on the tiny network."""

import torch
from fakes import TEXT, Numbers, grpo, prompt_data, tiny, trainer
from lightning.pytorch import Callback

from lit_posttrain.contracts import Reuse
from lit_posttrain.data import ChatData
from lit_posttrain.methods import SFTModule
from lit_posttrain.networks import LoraSettings

STEPS = 20


def adamw(parameters):
    return torch.optim.AdamW(parameters, lr=1e-3)


class Losses(Callback):
    """The loss of every optimiser step."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step > len(self.values):
            self.values.append(float(trainer.callback_metrics["train/loss"]))


def sft():
    return SFTModule(tiny(), TEXT, optimizer=adamw), ChatData(
        Numbers(), batch_sequences=8, validation_split=None
    )


def sft_packed_lora():
    data = ChatData(Numbers(), batch_sequences=8, packed=True, validation_split=None)
    return SFTModule(tiny(lora=LoraSettings(4, 8.0)), TEXT, optimizer=adamw), data


def grpo_plain():
    return grpo(optimizer=adamw, reuse=Reuse(minibatches=2)), prompt_data()


def grpo_reference():
    return grpo(optimizer=adamw, kl_weight=0.1, rollouts={"rescore": True}), prompt_data()


RUNS = {f.__name__: f for f in (sft, sft_packed_lora, grpo_plain, grpo_reference)}


def losses(name: str) -> list[float]:
    """The losses of a run by name."""
    module, data = RUNS[name]()
    keep = Losses()
    trainer(max_steps=STEPS, accumulate_grad_batches=2, callbacks=[keep]).fit(module, datamodule=data)
    return keep.values
