"""The first ratio: near 1 against the sampler, exactly 1 when recomputed in the same micro-batches."""

import pytest
import torch
from fakes import KeepBatches, grpo, prompt_data, tiny, trainer

from lit_posttrain.networks import LoraSettings, token_logprobs
from lit_posttrain.rollouts.provenance import policy_digest


class Ratios(KeepBatches):
    """The log-ratios that each training step sees."""

    def __init__(self):
        super().__init__()
        self.gaps = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
        new = token_logprobs(pl_module.policy, batch, temperature=batch.temperature)
        self.gaps.append(float((new.detach() - batch.old_logprobs)[batch.mask].abs().max()))


DROPOUTS = {"attention_dropout": 0.4}
LORA = LoraSettings(4, 8.0, dropout=0.5)


@pytest.mark.parametrize("temperature", [0.7, 1.0])
@pytest.mark.parametrize("lora", [None, LORA])
@pytest.mark.parametrize("packed", [False, True])
def test_first_ratio(temperature, lora, packed):
    for rescore, limit in [(False, 1e-5), (True, 0.0)]:
        seen = Ratios()
        module = grpo(tiny(lora=lora, shape=DROPOUTS), temperature=temperature, rollouts={"rescore": rescore})
        trainer(max_steps=1, accumulate_grad_batches=2, callbacks=[seen]).fit(
            module, datamodule=prompt_data(packed=packed)
        )
        assert max(seen.gaps) <= limit
        assert seen.batches[0].temperature == temperature


def test_the_second_minibatch_is_off_policy():
    from lit_posttrain.contracts import Reuse

    seen = Ratios()
    module = grpo(rollouts={"rescore": True}, reuse=Reuse(epochs=2, minibatches=2))
    trainer(max_steps=4, callbacks=[seen]).fit(module, datamodule=prompt_data())
    assert seen.gaps[0] == 0.0
    assert min(seen.gaps[1:]) > 1e-5


def test_the_reference_is_the_start_and_does_not_move():
    for lora in (None, LORA):
        seen = Ratios()
        module = grpo(tiny(lora=lora), kl_weight=0.5, rollouts={"rescore": True})
        trainer(max_steps=3, callbacks=[seen]).fit(module, datamodule=prompt_data())
        first, last = seen.batches[0], seen.batches[2]
        assert torch.equal(first.reference_logprobs[first.mask], first.old_logprobs[first.mask])
        assert not torch.allclose(last.reference_logprobs[last.mask], last.old_logprobs[last.mask], atol=1e-4)
        start = grpo(tiny(lora=lora), kl_weight=0.5)
        start.configure_model()
        expected = start.reference.digest(start)
        with module.reference.network(module) as network:
            digest = policy_digest(network) if lora is None else network.base_digest
        assert digest == module.reference.digest(module) == expected
        assert policy_digest(module.policy) != expected


def test_on_policy_after_every_update():
    """A huge step must show in the next rollout: the engine reads the weights in place (PITFALLS 49)."""
    seen = Ratios()
    module = grpo(optimizer=lambda p: torch.optim.SGD(p, lr=5.0))
    trainer(max_steps=4, callbacks=[seen]).fit(module, datamodule=prompt_data())
    assert max(seen.gaps) < 1e-5
    assert [int(batch.policy_version[0]) for batch in seen.batches] == [0, 1, 2, 3]
