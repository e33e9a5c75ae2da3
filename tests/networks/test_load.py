import json

import pytest
import torch

from lit_posttrain.batches import TokenBatch
from lit_posttrain.errors import InputError
from lit_posttrain.networks import (
    LoraSettings,
    NetworkConfig,
    build,
    disable_dropout,
    estimate,
    token_logprobs,
)
from lit_posttrain.networks.verify import verify

LLAMA = {
    "model_type": "llama",
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}


def test_exactly_one_of_path_and_config():
    with pytest.raises(InputError, match="neither"):
        NetworkConfig()
    with pytest.raises(InputError, match="both"):
        NetworkConfig(path="x", config=LLAMA)


def test_a_folder_that_is_no_model_says_what_is_missing(tmp_path):
    with pytest.raises(InputError, match=r"config\.json and weights"):
        build(NetworkConfig(path=str(tmp_path)))
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    with pytest.raises(InputError, match=r"not a model: weights as \*\.safetensors missing"):
        build(NetworkConfig(path=str(tmp_path)))
    with pytest.raises(InputError, match="is no folder"):
        build(NetworkConfig(path=str(tmp_path / "none")))


def test_unknown_kinds_and_settings_are_refused():
    with pytest.raises(InputError, match="'lama'"):
        build(NetworkConfig(config={**LLAMA, "model_type": "lama"}))
    with pytest.raises(InputError, match="model_type is None"):
        build(NetworkConfig(config={"vocab_size": 3}))
    with pytest.raises(InputError, match="dtype"):
        NetworkConfig(config=LLAMA, dtype="int8")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="attention: eager"):
        build(NetworkConfig(config={**LLAMA, "model_type": "gemma2"}))


def test_lora_targets_that_match_nothing():
    with pytest.raises(InputError, match=r"\['q_porj'\] match no layer .*'q_proj'"):
        build(NetworkConfig(config=LLAMA, lora=LoraSettings(target_modules=["q_porj", "v_proj"])))
    with pytest.raises(InputError, match="output head 'lm_head'"):
        build(NetworkConfig(config=LLAMA, lora=LoraSettings(target_modules=["q_proj", "lm_head"])))
    with pytest.raises(InputError, match="rank"):
        LoraSettings(rank=0)


def test_random_networks_depend_on_their_seed_alone():
    state = torch.get_rng_state()
    first = build(NetworkConfig(config=LLAMA, seed=3, lora=LoraSettings(rank=2)))
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(77)
    again = build(NetworkConfig(config=LLAMA, seed=3, lora=LoraSettings(rank=2)))
    other = build(NetworkConfig(config=LLAMA, seed=4, lora=LoraSettings(rank=2)))
    pairs = list(zip(first.parameters(), again.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in pairs)
    assert not torch.equal(next(first.parameters()), next(other.parameters()))


def test_settings_survive_a_checkpoint():
    for settings in (NetworkConfig(path="x/y"), NetworkConfig(config=LLAMA, lora=LoraSettings(rank=2))):
        assert NetworkConfig.from_dict(settings.to_dict()) == settings


def test_only_adapters_are_trained_and_the_base_is_the_reference(rows):
    network = build(NetworkConfig(config=LLAMA, lora=LoraSettings(rank=2, dropout=0.5)))
    assert network.trainable_parameters()
    assert all("lora_" in name for name, p in network.named_parameters() if p.requires_grad)
    assert disable_dropout(network) == 14
    batch = rows([[9]])
    base = token_logprobs(build(NetworkConfig(config=LLAMA)), batch)
    with torch.no_grad():
        for parameter in network.trainable_parameters():
            parameter.add_(torch.randn_like(parameter))
        assert (token_logprobs(network, batch) - base).abs().max() > 1e-3
        with network.adapter_off():
            assert torch.equal(token_logprobs(network, batch), base)
    with pytest.raises(InputError, match="no adapter"), build(NetworkConfig(config=LLAMA)).adapter_off():
        pass


def test_a_head_that_we_read_wrongly_is_refused(monkeypatch):
    network = build(NetworkConfig(config=LLAMA))
    assert verify(network)
    monkeypatch.setattr(type(network), "_scaled", lambda self, logits: logits * 1.5)
    with pytest.raises(InputError, match="LlamaForCausalLM"):
        verify(network)


def test_scaled_heads_of_other_families():
    shapes = {"granite": {"logits_scaling": 4.0}, "cohere": {"logit_scale": 0.25, "pad_token_id": 0}}
    for kind, extra in shapes.items():
        assert build(NetworkConfig(config={**LLAMA, "model_type": kind, **extra})).packs


def test_too_long_for_the_network(rows):
    with pytest.raises(InputError, match="64 positions and was given 65"):
        token_logprobs(build(NetworkConfig(config=LLAMA)), rows([[65]]))


def test_packing_is_refused_where_sequences_would_mix(rows):
    network = build(NetworkConfig(config=LLAMA))
    network.packs = False
    assert isinstance(rows([[3, 2]]), TokenBatch)
    with pytest.raises(InputError, match="turn packing off"):
        token_logprobs(network, rows([[3, 2]]))


def test_memory_is_known_before_anything_is_loaded():
    """By hand: 2 layers of 32x32x2 + 32x16x2 + 3x32x48 + 2x32, embedding and head 61x32, last norm 32."""
    parameters = 2 * (2048 + 1024 + 4608 + 64) + 2 * 61 * 32 + 32
    sizes = estimate(NetworkConfig(config=LLAMA), micro_batch_tokens=10, rows=3, row_tokens=7)
    assert (
        sizes.weights
        == 4 * parameters
        == sum(4 * p.numel() for p in build(NetworkConfig(config=LLAMA)).parameters())
    )
    assert (sizes.gradients, sizes.optimizer) == (4 * parameters, 8 * parameters)
    assert (
        sizes.cache == 2 * 2 * 3 * 2 * 7 * 8 * 4
    )  # keys and values, layers, rows, heads, tokens, dimension, bytes
    small = estimate(
        NetworkConfig(config=LLAMA, dtype="bfloat16", lora=LoraSettings(rank=2), gradient_checkpointing=True)
    )
    assert small.weights < sizes.weights
    assert small.gradients < sizes.gradients / 4
    assert "at once in an update" in str(sizes)
