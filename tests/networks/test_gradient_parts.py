import math

import pytest
import torch
from fakes import grpo, prompt_data, tiny, trainer
from torch import nn

from lit_posttrain.methods.base import StepStatistics
from lit_posttrain.names import is_known
from lit_posttrain.networks import LoraSettings, PromptTuning, build
from lit_posttrain.networks.gradient_parts import PARTS, by_part, gradient_metrics, part_of
from lit_posttrain.networks.sharding import gradient_norm, gradient_norms


@pytest.mark.parametrize(
    ("part", "names"),
    [
        (
            "embedding",
            [
                "model.model.embed_tokens.weight",
                "model.transformer.wte.weight",
                "model.transformer.wpe.weight",
                "model.gpt_neox.embed_in.weight",
                "model.transformer.word_embeddings.weight",
                "model.model.decoder.embed_positions.weight",
            ],
        ),
        (
            "attention",
            [
                "model.model.layers.0.self_attn.q_proj.bias",
                "model.model.layers.11.self_attn.sinks",
                "model.transformer.h.0.attn.c_proj.weight",
                "model.gpt_neox.layers.0.attention.dense.weight",
                "model.transformer.h.0.self_attention.query_key_value.weight",
                "model.base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight",
                "model.base_model.model.model.layers.0.self_attn.k_proj.ia3_l.default",
                "model.base_model.model.model.layers.0.self_attn.v_proj.oft_R.default.weight",
            ],
        ),
        (
            "mlp",
            [
                "model.model.layers.0.mlp.gate_proj.weight",
                "model.transformer.h.0.mlp.c_fc.weight",
                "model.model.layers.0.mlp.experts.gate_up_proj",
                "model.model.layers.0.mlp.router.weight",
                "model.model.layers.0.block_sparse_moe.gate.weight",
                "model.model.decoder.layers.0.fc1.weight",
                "model.transformer.blocks.0.ffn.up_proj.weight",
                "model.base_model.model.model.layers.0.mlp.up_proj.lora_magnitude_vector.default.weight",
            ],
        ),
        (
            "norm",
            [
                "model.model.norm.weight",
                "model.model.layers.0.post_attention_layernorm.weight",
                "model.model.layers.0.pre_feedforward_layernorm.weight",
                "model.model.layers.0.self_attn.q_norm.weight",
                "model.model.decoder.layers.0.self_attn_layer_norm.weight",
                "model.transformer.h.0.ln_1.weight",
                "model.transformer.ln_f.bias",
                "model.transformer.word_embeddings_layernorm.weight",
            ],
        ),
        ("head", ["model.lm_head.weight", "model.score.weight", "model.gpt_neox.embed_out.weight"]),
        ("adapter", ["model.prompt_encoder.default.embedding.weight"]),
        ("other", ["layer.weight", "model.backbone.layers.0.mixer.in_proj.weight"]),
    ],
)
def test_a_name_says_the_part(part, names):
    assert [part_of(name) for name in names] == [part] * len(names)


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        (tiny(), ["embedding", "attention", "mlp", "norm", "head"]),
        (tiny(shape={"tie_word_embeddings": True}), ["embedding", "attention", "mlp", "norm"]),
        (tiny(lora=LoraSettings(rank=2)), ["attention", "mlp"]),
        (tiny(adapter=PromptTuning(tokens=2)), ["adapter"]),
    ],
)
def test_every_trained_parameter_is_of_one_part(settings, parts):
    network = build(settings)
    found = by_part(network)
    assert list(found) == parts
    trained = [id(p) for p in network.trainable_parameters()]
    assert sorted(trained) == sorted(id(p) for held in found.values() for p in held)


def part_with(**gradients):
    """A module with a parameter of each name; those of which a gradient is given have it."""
    module = nn.Module()
    for name, gradient in gradients.items():
        parameter = nn.Parameter(torch.zeros_like(torch.tensor(gradient)))
        parameter.grad = torch.tensor(gradient)
        module.register_parameter(name, parameter)
    return module


def test_norms_of_parts_and_networks():
    """Policy: attention 3-4 → 5, norm 12 → 13 with it; value: 84; all: sqrt(169 + 7056) = 85."""
    policy = part_with(attn=[3.0, -4.0], ln=[12.0])
    policy.register_parameter("mlp", nn.Parameter(torch.zeros(2)))  # trained, and without a gradient
    policy.register_parameter("embed", nn.Parameter(torch.zeros(2), requires_grad=False))
    alone = gradient_metrics({"policy": policy})
    assert {name: float(norm) for name, norm in alone.items()} == {
        "train/gradient_norm_attention": 5.0,
        "train/gradient_norm_mlp": 0.0,
        "train/gradient_norm_norm": 12.0,
        "train/gradient_norm": 13.0,
    }
    both = gradient_metrics({"policy": policy, "value": part_with(attn=[84.0])})
    more = {name: float(norm) for name, norm in both.items() if name not in alone}
    assert more == {"train/gradient_norm_policy": 13.0, "train/gradient_norm_value": 84.0}
    assert float(both["train/gradient_norm"]) == 85.0
    assert float(both["train/gradient_norm_attention"]) == 5.0  # of the policy alone
    assert all(is_known(name) and norm.shape == () for name, norm in both.items())
    assert not set(PARTS) & {"policy", "value"}  # or one would hide the other


def test_groups_of_gradients_together_have_the_norm_of_all():
    generator = torch.Generator().manual_seed(0)
    held = [nn.Parameter(torch.zeros(7)) for _ in range(5)]
    for parameter in held:
        parameter.grad = torch.randn(7, generator=generator)
    norms = gradient_norms({"a": held[:2], "b": held[2:], "none": []})
    for name, group in {"a": held[:2], "b": held[2:]}.items():
        squares = [float(x) ** 2 for p in group if p.grad is not None for x in p.grad]
        assert float(norms[name]) == pytest.approx(math.sqrt(math.fsum(squares)), rel=1e-6)
    assert float(norms["none"]) == 0
    assert float(gradient_norm(held)) == pytest.approx(math.hypot(*map(float, norms.values())), rel=1e-7)


def test_training_tells_the_parts_of_its_last_step():
    module = grpo()
    fit = trainer(max_steps=2, log_every_n_steps=1)
    fit.fit(module, datamodule=prompt_data())
    told = {name: float(value) for name, value in fit.callback_metrics.items() if "gradient_norm" in name}
    parts = {name: value for name, value in told.items() if name != "train/gradient_norm"}
    assert {name.removeprefix("train/gradient_norm_") for name in parts} == {
        "embedding",
        "attention",
        "mlp",
        "norm",
        "head",
    }
    assert all(value > 0 for value in parts.values())
    assert told["train/gradient_norm"] == pytest.approx(math.hypot(*parts.values()), rel=1e-6)


def test_a_step_keeps_the_smallest_and_the_largest():
    """Two micro-batches, one dead token each: (2, [-9], 3) and ([99], 1.5, 5), and then those of another rank."""
    statistics = StepStatistics()
    for values, live in (
        ([2.0, -9.0, 3.0], [True, False, True]),
        ([99.0, 1.5, 5.0], [False, True, True]),
    ):
        token = torch.tensor(values)
        told = {"policy/correction_min": token, "policy/correction_max": token, "policy/ratio_mean": token}
        statistics.add(torch.zeros(()), torch.tensor(2), torch.tensor(live), told)
    alone = statistics.result(lambda tensor, how: tensor)
    assert float(alone["policy/correction_min"]) == 1.5
    assert float(alone["policy/correction_max"]) == 5.0
    assert float(alone["policy/ratio_mean"]) == pytest.approx((2 + 3 + 1.5 + 5) / 4, abs=1e-6)

    def with_another(tensor, how):  # a rank whose smallest is 0.5 and whose largest is 4
        other = {-1.5: -0.5, 5.0: 4.0}
        return torch.maximum(tensor, torch.tensor(other[float(tensor)])) if how == "max" else tensor

    joint = statistics.result(with_another)
    assert float(joint["policy/correction_min"]) == 0.5
    assert float(joint["policy/correction_max"]) == 5.0
