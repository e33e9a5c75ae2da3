"""Every kind of adapter through real SFT and GRPO steps: what moves, what is stored, how it goes on."""

import pytest
import torch
from fakes import TEXT, Numbers, difference, grpo, prompt_data, prompts, tiny, trainer
from lightning.pytorch import Callback
from networks.adapter_kinds import WIDE, main_kinds

from lit_posttrain.data import ChatData
from lit_posttrain.ledger import Phase
from lit_posttrain.methods import SFTModule
from lit_posttrain.networks import NetworkConfig, build, token_logprobs
from lit_posttrain.networks.digest import base_digest

RATES = {"IA3": 0.3, "PromptTuning": 0.1, "PrefixTuning": 0.1}
"""Learning rates of kinds with few parameters; 0.02 for the others."""


def network(adapter, quantisation=None) -> NetworkConfig:
    return tiny(adapter=adapter, quantisation=quantisation, shape=WIDE if quantisation else {})


def sft(adapter, quantisation=None) -> SFTModule:
    rate = RATES.get(type(adapter).__name__, 0.02)
    return SFTModule(
        network(adapter, quantisation),
        TEXT,
        optimizer=lambda p: torch.optim.AdamW(p, lr=rate, weight_decay=0.0),
    )


def sums() -> ChatData:
    return ChatData(Numbers(), batch_sequences=8, validation_split=None)


def base_of(module) -> str:
    """The digest of the network below the adapters of a module, which it loses."""
    model = module.policy.model
    inner = model.get_base_model() if module.network.adaptation.tokens else model.unload()
    return base_digest(inner)


class Losses(Callback):
    """The loss of every step."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.values.append(float(trainer.callback_metrics["train/loss"]))


@pytest.mark.parametrize(("adapter", "quantisation"), main_kinds())
def test_supervised_steps_move_the_adapters_alone_and_the_loss_falls(adapter, quantisation):
    module = sft(adapter, quantisation)
    keep = Losses()
    trainer(max_steps=12, callbacks=[keep]).fit(module, datamodule=sums())
    assert sum(keep.values[-3:]) < 0.98 * sum(keep.values[:3])
    fresh = dict(build(module.network).named_parameters())
    for name, parameter in module.policy.named_parameters():
        assert torch.equal(parameter, fresh[name]) != parameter.requires_grad
    digest = module.policy.base_digest
    assert base_of(module) == digest


@pytest.mark.parametrize(("adapter", "quantisation"), main_kinds())
def test_policy_steps_move_the_adapters_alone_and_the_reference_is_the_base(adapter, quantisation):
    module = grpo(network(adapter, quantisation), kl_weight=0.1)
    trainer(max_steps=2).fit(module, datamodule=prompt_data())
    fresh = dict(build(module.network).named_parameters())
    moved = {n for n, p in module.policy.named_parameters() if not torch.equal(p, fresh[n])}
    assert moved == {n for n, p in module.policy.named_parameters() if p.requires_grad}
    with module.ledger.phase(Phase.ROLLOUT):
        experience = module.collect(prompts(module.text), 0).experience
    assert experience is not None
    module.score(experience)
    with torch.no_grad():
        ours = token_logprobs(module.policy, experience)
        with module.policy.adapter_off():
            base = token_logprobs(module.policy, experience)
    assert (ours - experience.sampled_logprobs).abs().max() < 1e-4
    assert (base - experience.reference_logprobs).abs().max() < 1e-6
    assert (base - ours).abs().max() > 1e-5
    digest = module.policy.base_digest
    assert base_of(module) == digest


@pytest.mark.parametrize(("adapter", "quantisation"), main_kinds())
def test_a_resumed_run_is_the_run_that_never_stopped(adapter, quantisation, tmp_path):
    whole, first, second = (sft(adapter, quantisation) for _ in range(3))
    trainer(max_steps=6).fit(whole, datamodule=sums())
    stopped = trainer(max_steps=3)
    stopped.fit(first, datamodule=sums())
    stopped.save_checkpoint(tmp_path / "at_3.ckpt")
    stored = torch.load(tmp_path / "at_3.ckpt")["state_dict"]
    trained = {f"policy.{n}" for n, p in first.policy.named_parameters() if p.requires_grad}
    assert set(stored) == trained
    trainer(max_steps=6).fit(second, datamodule=sums(), ckpt_path=tmp_path / "at_3.ckpt")
    ends = [
        {n: p.detach() for n, p in m.policy.named_parameters() if p.requires_grad} for m in (whole, second)
    ]
    assert difference(*ends) == 0
