"""The ledger against torch's own counter over whole training steps: rollout, scoring, forward and backward."""

import pytest
from fakes import TEXT, Numbers, grpo, prompt_data, tiny, trainer
from lightning.pytorch import Callback
from torch.utils.flop_counter import FlopCounterMode

from lit_posttrain.data import ChatData
from lit_posttrain.ledger import Phase
from lit_posttrain.methods import SFTModule
from lit_posttrain.networks import LoraSettings

LORA = LoraSettings(4, 8.0)
STEPS = 4


class CountAfterTheFirstStep(Callback):
    """Counts from the second step on: in the first the ledger finds its rates, which torch would count too."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step == 1 and not hasattr(self, "counter"):
            self.before = pl_module.ledger.training.flops
            self.counter = FlopCounterMode(display=False)
            self.counter.__enter__()

    def on_train_end(self, trainer, pl_module):
        self.counter.__exit__(None, None, None)
        self.counted = self.counter.get_total_flops()
        self.booked = pl_module.ledger.training.flops - self.before


def run(module, data, **arguments):
    counts = CountAfterTheFirstStep()
    trainer(max_steps=STEPS, callbacks=[counts], **arguments).fit(module, datamodule=data)
    assert counts.counted > 0
    assert counts.booked == pytest.approx(counts.counted, rel=0.01)
    spent = module.ledger.spent
    assert sum(spent[p].flops for p in Phase if p is not Phase.EVALUATION) == module.ledger.training.flops
    return spent


@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
def test_sft(lora, packed):
    network = tiny(attention="eager", chunk_tokens=0, lora=lora)
    data = ChatData(Numbers(), batch_sequences=8, packed=packed, validation_split=None)
    spent = run(SFTModule(network, TEXT), data, accumulate_grad_batches=2)
    assert spent[Phase.ROLLOUT].flops == spent[Phase.SCORING].flops == 0


@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
@pytest.mark.parametrize("kl_weight", [0.0, 0.1], ids=["alone", "reference"])
def test_grpo(lora, packed, kl_weight):
    network = tiny(attention="eager", chunk_tokens=0, lora=lora)
    spent = run(grpo(network, kl_weight=kl_weight), prompt_data(packed=packed), accumulate_grad_batches=2)
    assert spent[Phase.ROLLOUT].flops > 0
    assert (spent[Phase.SCORING].flops > 0) == (kl_weight > 0)
    assert spent[Phase.ROLLOUT].generated_tokens >= spent[Phase.UPDATE].trained_tokens > 0


def test_recomputation_is_counted_too():
    network = tiny(attention="eager", chunk_tokens=3, gradient_checkpointing=True)
    run(grpo(network), prompt_data())
