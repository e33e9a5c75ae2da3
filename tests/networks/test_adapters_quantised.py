"""Networks of 4 bits per weight: what they hold, what they compute, and what they stand for."""

import builtins
import json

import pytest
import torch
from networks.adapter_kinds import FP4, NF4, WIDE, needs_bitsandbytes

from lit_posttrain.errors import InputError
from lit_posttrain.ledger import Ledger, Phase
from lit_posttrain.networks import LoraSettings, NetworkConfig, Quantisation, build, estimate, token_logprobs
from lit_posttrain.networks.digest import base_digest
from lit_posttrain.networks.quantised import (
    count,
    dense_weight,
    dequantise,
    is_quantised,
    packed_bytes,
    quantise,
    scales,
)
from lit_posttrain.networks.targets import linear_layers

SHAPE = {
    "model_type": "llama",
    "vocab_size": 61,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
LORA = LoraSettings(rank=2)
LEVELS = 16
"""Of each weight."""


def layers_of(network) -> dict:
    return {name: m for name, m in network.model.named_modules() if is_quantised(m)}


def four(make, kind="llama", quantisation=NF4, **settings):
    """A tiny network of 4 bits without adapters."""
    network = make(kind, shape=dict(WIDE), **settings)
    quantise(network.model, quantisation, torch.float32)
    return network.eval()


def test_what_is_not_installed_is_named(make, monkeypatch):
    found = builtins.__import__

    def without(name, *rest, **named):
        if name == "bitsandbytes":
            raise ImportError("No module named 'bitsandbytes'")
        return found(name, *rest, **named)

    network = make(shape=dict(WIDE))
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError, match=r"pip install 'lit-posttrain\[quant\]'"):
        quantise(network.model, NF4, torch.float32)


def test_a_folder_that_is_stored_quantised_is_refused(make, tmp_path):
    network = make()
    network.model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    stored = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (tmp_path / "config.json").write_text(json.dumps({**config, "quantization_config": stored}))
    with pytest.raises(InputError, match="stored quantised"):
        build(NetworkConfig(path=str(tmp_path)))


def test_rows_of_broken_blocks_are_refused_before_anything_is_loaded(monkeypatch):
    """bitsandbytes 0.50.2 would give 32 x 32 weights scales that are not theirs: an error of 0.3 instead of 0.1."""
    monkeypatch.setattr("lit_posttrain.networks.load.random_model", lambda *_: pytest.fail("loaded"))
    for size, name in ({"hidden_size": 96}, "q_proj"), ({"intermediate_size": 96}, "down_proj"):
        with pytest.raises(InputError, match=rf"{name} takes 96 inputs, which are no multiple of 64"):
            build(NetworkConfig(config={**SHAPE, **size}, lora=LORA, quantisation=NF4))


@needs_bitsandbytes
@pytest.mark.parametrize("quantisation", [NF4, FP4], ids=["nf4", "fp4"])
@pytest.mark.parametrize("kind", ["llama", "gpt2", "qwen2"])
def test_every_linear_layer_but_the_head_is_replaced(make, kind, quantisation):
    plain, network = make(kind, shape=dict(WIDE)), four(make, kind, quantisation)
    assert set(layers_of(network)) == set(linear_layers(plain.model))
    assert not is_quantised(network.model.get_output_embeddings())
    for name, layer in layers_of(network).items():
        was = plain.model.get_submodule(name).weight
        weight = dense_weight(layer) if kind != "gpt2" else dense_weight(layer).T
        error = (weight - was).norm() / was.norm()
        assert error < (0.1 if quantisation.kind == "nf4" else 0.15)
        assert layer.weight.dtype == torch.uint8
        assert count(layer.weight) == was.numel()
        assert len(weight.unique()) > LEVELS  # levels times scales


@needs_bitsandbytes
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_forward_computes_with_what_the_weights_stand_for_with_and_without_a_gradient(make, kind, rows):
    network, plain = four(make, kind), four(make, kind)
    dequantise(plain.model)
    assert not layers_of(plain)
    batch = rows([[9], [5]])
    with torch.no_grad():
        expected = token_logprobs(plain, batch)
        without = token_logprobs(network, batch)
    again = token_logprobs(network.train(), batch) if kind == "llama" else token_logprobs(network, batch)
    assert (without - expected).abs().max() < 1e-5
    assert (again - expected).abs().max() < 1e-5


@needs_bitsandbytes
def test_gradients_flow_after_a_forward_without_one():
    """Where a processor has bfloat16 units, bitsandbytes would repack its weights and give no gradient."""
    model = build(NetworkConfig(config={**SHAPE, "vocab_size": 64})).model
    quantise(model, NF4, torch.float32)
    four_bits = next(m for m in model.modules() if is_quantised(m))
    states = torch.randn(3, 5, four_bits.in_features, requires_grad=True)
    with torch.no_grad():
        before = four_bits.eval()(states)
    after = four_bits(states)
    after.sum().backward()
    expected = dense_weight(four_bits).sum(0).expand_as(states)
    assert torch.equal(before, after)
    assert (states.grad - expected).abs().max() < 1e-5


@needs_bitsandbytes
@pytest.mark.parametrize("quantisation", [NF4, FP4, Quantisation(kind="fp4"), Quantisation(double=False)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_memory_is_known_before_anything_is_loaded(quantisation, dtype):
    """The estimate against what the network really holds, scales and all."""
    for shape in (SHAPE, {**SHAPE, "model_type": "qwen2"}):  # Qwen 2 has biases
        settings = NetworkConfig(config=shape, dtype=dtype, lora=LORA, quantisation=quantisation)
        network = build(settings)
        held = sum(p.numel() * p.itemsize for p in network.parameters())
        held += sum(tensor.numel() * tensor.itemsize for _, tensor in scales(network.model))
        sizes = estimate(settings)
        assert sizes.weights == held
        assert sizes.weights < estimate(NetworkConfig(config=shape, dtype=dtype, lora=LORA)).weights


def test_packed_bytes_by_hand():
    """128 x 256 weights: half a byte each, and 512 blocks with a scale of 4 bytes; 16 levels of 4 bytes.

    Doubled: 512 scales of 1 byte, 2 blocks of them with a scale of 4 bytes, 256 levels of 4 bytes, one offset.
    """
    assert packed_bytes(128 * 256, FP4) == 16384 + 64 + 2048
    assert packed_bytes(128 * 256, NF4) == 16384 + 64 + 512 + 8 + 1024 + 4


@needs_bitsandbytes
def test_the_digest_speaks_of_the_scales_too():
    network = build(NetworkConfig(config=SHAPE, lora=LORA, quantisation=NF4))
    again = build(NetworkConfig(config=SHAPE, lora=LORA, quantisation=NF4))
    other = build(NetworkConfig(config=SHAPE, lora=LORA, quantisation=Quantisation(double=False)))
    assert network.base_digest == again.base_digest != other.base_digest
    inner = network.model.unload()
    assert base_digest(inner) == network.base_digest
    next(m for m in inner.modules() if is_quantised(m)).weight.quant_state.offset += 1e-3
    assert base_digest(inner) != network.base_digest


@needs_bitsandbytes
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("compute", [None, "bfloat16"])
def test_the_first_forward_changes_no_parameter(dtype, compute, rows):
    shape = {**SHAPE, "model_type": "qwen2"}
    quantisation = Quantisation(compute_dtype=compute)
    network = build(NetworkConfig(config=shape, dtype=dtype, lora=LORA, quantisation=quantisation))
    ledger = Ledger()
    with ledger.phase(Phase.SCORING):
        token_logprobs(network, rows([[9]]), ledger=ledger).sum().backward()
    assert base_digest(network.model.unload()) == network.base_digest
    assert ledger.spent[Phase.SCORING].flops > 0
