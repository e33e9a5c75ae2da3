"""Settings of adapters, what they attach to, and what they leave alone."""

import logging
import subprocess
import sys

import pytest
import torch
from networks.adapter_kinds import FP4, KINDS, NF4, SEQUENCE, WIDE, every_kind, move, needs_bitsandbytes

from lit_posttrain.batches import TokenBatch
from lit_posttrain.errors import InputError
from lit_posttrain.networks import (
    IA3,
    OFT,
    LoraSettings,
    NetworkConfig,
    PrefixTuning,
    PromptTuning,
    Quantisation,
    build,
    disable_dropout,
    estimate,
    token_logprobs,
)
from lit_posttrain.networks.adapters import quiet
from lit_posttrain.networks.digest import base_digest
from lit_posttrain.networks.masks import left_padded_mask
from lit_posttrain.networks.quantised import quantise
from lit_posttrain.networks.sharding import refuse_undivided
from lit_posttrain.networks.state import check_stored, stored_names
from lit_posttrain.networks.tensor_parallel import refuse_adapters

LLAMA = {
    "model_type": "llama",
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.1,
}
EVERY = list(KINDS)


def of_kind(adapter, quantisation) -> NetworkConfig:
    """A tiny network with adapters, wide enough for 4 bits where they are asked for."""
    shape = LLAMA if quantisation is None else {**LLAMA, **WIDE}
    return NetworkConfig(config=shape, adapter=adapter, quantisation=quantisation)


def tuned(network) -> set[str]:
    """The last parts of the names of the layers that have adapters."""
    names = [name for name, parameter in network.named_parameters() if parameter.requires_grad]
    return {part for name in names for part in name.split(".") if part.endswith("proj")}


@pytest.mark.parametrize(("adapter", "quantisation"), every_kind())
def test_off_is_the_base_and_on_is_not(rows, adapter, quantisation):
    network = build(of_kind(adapter, quantisation))
    batch = rows([[9], [5]])
    with torch.no_grad():
        plain = build(NetworkConfig(config=network.settings.config))
        if quantisation is not None:
            quantise(plain.model, quantisation, torch.float32)
        base = token_logprobs(plain, batch)
        with network.adapter_off():
            off = token_logprobs(network, batch)
        assert (off - base).abs().max() < 1e-6
        if not adapter.tokens:
            assert (
                token_logprobs(network, batch) - off
            ).abs().max() < 1e-5  # a fresh adapter changes nothing
        move(network)
        assert (token_logprobs(network, batch) - off).abs().max() > 1e-3
        with network.adapter_off():
            assert torch.equal(token_logprobs(network, batch), off)


@pytest.mark.parametrize(("adapter", "quantisation"), every_kind())
def test_a_backward_reaches_the_adapters_alone_and_the_base_stays(rows, adapter, quantisation):
    network = build(of_kind(adapter, quantisation))
    move(network)
    before = network.base_digest
    optimizer = torch.optim.SGD(network.trainable_parameters(), lr=0.1)
    first = {name: p.detach().clone() for name, p in network.named_parameters() if p.requires_grad}
    with network.decoding():  # without a gradient first: quantised layers must not be repacked by it
        token_logprobs(network, rows([[9]]))
    token_logprobs(network, rows([[9], [5]])).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.trainable_parameters())
    optimizer.step()
    now = dict(network.named_parameters())
    assert all(not torch.equal(value, now[name]) for name, value in first.items())
    inner = network.model.get_base_model() if adapter.tokens else network.model.unload()
    assert base_digest(inner) == before


@pytest.mark.parametrize(("adapter", "quantisation"), every_kind())
def test_a_checkpoint_holds_the_adapters_alone(adapter, quantisation):
    settings = of_kind(adapter, quantisation)
    network = build(settings)
    own = network.state_dict()
    weights = {f"policy.{name}": own[name] for name in stored_names(network)}
    base = sum(p.numel() for p in build(NetworkConfig(config=settings.config)).parameters())
    assert 0 < sum(value.numel() for value in weights.values()) < base / 4
    told = {"state_dict": weights, "lit_posttrain": {"base_digest": network.base_digest}}
    check_stored(build(settings), told, prefix="policy.")
    with pytest.raises(InputError, match="trained on a base network with digest"):
        check_stored(build(NetworkConfig(**{**vars(settings), "seed": 1})), told, prefix="policy.")


@pytest.mark.parametrize("adapter", KINDS.values(), ids=EVERY)
@pytest.mark.parametrize("quantisation", [None, NF4, FP4])
def test_settings_survive_a_checkpoint(adapter, quantisation):
    settings = NetworkConfig(config=LLAMA, adapter=adapter, quantisation=quantisation)
    assert NetworkConfig.from_dict(settings.to_dict()) == settings
    if isinstance(adapter, LoraSettings):
        other = NetworkConfig(config=LLAMA, lora=adapter, quantisation=quantisation)
        assert NetworkConfig.from_dict(other.to_dict()) == other
        assert other.adaptation == adapter


def test_settings_stored_before_there_were_kinds_are_read():
    old = {"rank": 4, "alpha": 8.0, "dropout": 0.1, "target_modules": "all-linear"}
    state = NetworkConfig(config=LLAMA).to_dict()
    del state["adapter"], state["quantisation"]
    assert NetworkConfig.from_dict({**state, "lora": old}).lora == LoraSettings(4, 8.0, 0.1)
    with pytest.raises(InputError, match=r"'LoHa' is stored .* known are \['IA3', 'LoraSettings'"):
        NetworkConfig.from_dict({**state, "lora": None, "adapter": {"kind": "LoHa"}})


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"lora": KINDS["lora"], "adapter": IA3()}, "both given"),
        ({"quantisation": NF4}, "4-bit weights cannot be trained"),
        ({"adapter": PrefixTuning(), "gradient_checkpointing": True}, "prefix tuning does not work with"),
        ({"adapter": PromptTuning(), "attention": "flash_attention_2"}, "flash attention"),
    ],
)
def test_combinations_that_make_no_sense(settings, said):
    with pytest.raises(InputError, match=said):
        NetworkConfig(config=LLAMA, **settings)


@pytest.mark.parametrize(
    ("make_settings", "said"),
    [
        (lambda: LoraSettings(rank=0), "lora.rank is 0"),
        (lambda: LoraSettings(dropout=1.0), "lora.dropout is 1.0"),
        (lambda: LoraSettings(init="pissa"), r"lora.init is 'pissa'.*\['kaiming', 'gaussian'\]"),  # type: ignore[arg-type]
        (lambda: LoraSettings(target_modules="all"), "'all-linear', 'architecture' or a list"),
        (lambda: IA3(target_modules="linear"), "IA3.target_modules is 'linear'"),
        (lambda: OFT(block_size=1), "OFT.block_size is 1"),
        (lambda: PromptTuning(tokens=0), "PromptTuning.tokens is 0"),
        (lambda: PromptTuning(init="text"), "PromptTuning.init is 'text'"),  # type: ignore[arg-type]
        (lambda: PrefixTuning(spread=0.0), "PrefixTuning.spread is 0.0"),
        (lambda: Quantisation(kind="int8"), "quantisation.kind is 'int8'"),  # type: ignore[arg-type]
    ],
)
def test_settings_that_make_no_sense(make_settings, said):
    with pytest.raises(InputError, match=said):
        make_settings()


def test_targets_by_name_by_architecture_and_all():
    llama = {
        "all-linear": {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"},
        "architecture": {"q_proj", "v_proj"},
        ("up_proj", "mlp.gate_proj"): {"up_proj", "gate_proj"},
    }
    for given, expected in llama.items():
        targets = given if isinstance(given, str) else list(given)
        network = build(NetworkConfig(config=LLAMA, lora=LoraSettings(rank=2, target_modules=targets)))
        assert tuned(network) == expected
    assert tuned(build(NetworkConfig(config=LLAMA, adapter=IA3()))) == {"k_proj", "v_proj", "down_proj"}


def test_the_inputs_of_the_inner_projection_are_scaled():
    network = build(NetworkConfig(config=LLAMA, adapter=IA3()))
    shapes = {
        name.split(".")[-3]: tuple(p.shape) for name, p in network.named_parameters() if p.requires_grad
    }
    assert shapes == {"k_proj": (16, 1), "v_proj": (16, 1), "down_proj": (1, 48)}
    outputs = build(NetworkConfig(config=LLAMA, adapter=IA3(feedforward_modules=[])))
    assert {p.shape[1] for p in outputs.trainable_parameters()} == {1}
    with pytest.raises(InputError, match=r"\['up_proj'\] are not among its target_modules"):
        build(NetworkConfig(config=LLAMA, adapter=IA3(feedforward_modules=["up_proj"])))


@pytest.mark.parametrize("kind", [LoraSettings, IA3, OFT])
def test_targets_that_match_nothing_are_refused_before_anything_is_loaded(kind, tmp_path, monkeypatch):
    monkeypatch.setattr("lit_posttrain.networks.load.random_model", lambda *_: pytest.fail("loaded"))
    with pytest.raises(InputError, match=r"\['q_porj'\] match no layer of LlamaForCausalLM.*'q_proj'"):
        build(NetworkConfig(config=LLAMA, adapter=kind(target_modules=["q_porj", "v_proj"])))
    with pytest.raises(InputError, match="output head 'lm_head'"):
        build(NetworkConfig(config=LLAMA, adapter=kind(target_modules=["lm_head"])))
    with pytest.raises(InputError, match="match no layer"):
        build(NetworkConfig(config=LLAMA, adapter=kind(target_modules=["embed_tokens"])))
    with pytest.raises(InputError, match=r"peft has no list for granite; name some of \['down_proj'"):
        build(
            NetworkConfig(
                config={**LLAMA, "model_type": "granite"}, adapter=kind(target_modules="architecture")
            )
        )


def test_blocks_that_do_not_fit_are_refused():
    with pytest.raises(
        InputError, match=r"block_size 32 does not divide the 48 inputs of .*down_proj.*16, 24"
    ):
        build(NetworkConfig(config=LLAMA, adapter=OFT()))
    build(NetworkConfig(config=LLAMA, adapter=OFT(target_modules=["q_proj"])))


def test_rotations_of_gpt2_are_refused(make):
    with pytest.raises(InputError, match="peft cannot rotate the layers of gpt2"):
        make("gpt2", adapter=OFT(block_size=8))


def test_a_rank_stabilised_adapter_is_scaled_by_the_root_of_its_rank():
    """alpha 8 at rank 4: 8 / 4 = 2, or 8 / sqrt(4) = 4."""
    for use, scale in ((False, 2.0), (True, 4.0)):
        network = build(NetworkConfig(config=LLAMA, lora=LoraSettings(4, 8.0, use_rslora=use)))
        layer = network.causal.model.layers[0].self_attn.q_proj
        assert layer.scaling["default"] == scale


@pytest.mark.parametrize("name", EVERY)
def test_fresh_adapters_depend_on_the_seed_alone(name):
    settings = NetworkConfig(config=LLAMA, adapter=KINDS[name])
    state = torch.get_rng_state()
    first = build(settings)
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(77)
    again = build(settings)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))


@pytest.mark.parametrize("name", ["lora", "dora"])
def test_dropout_of_adapters_is_turned_off(name, rows):
    adapter = LoraSettings(rank=2, dropout=0.5, use_dora=name == "dora")
    network = build(NetworkConfig(config=LLAMA, lora=adapter))
    move(network)
    assert disable_dropout(network) == 14
    assert torch.equal(token_logprobs(network, rows([[9]])), token_logprobs(network, rows([[9]])))


@pytest.mark.parametrize("name", SEQUENCE)
@pytest.mark.parametrize("kind", ["llama", "gpt2", "qwen2"])
def test_decoding_behind_virtual_tokens_agrees_with_a_forward(make, name, kind):
    """Two rows, one of them padded on the left by 2, read in pieces of 3, 1 and 1 tokens."""
    network = make(kind, adapter=KINDS[name])
    move(network)
    ids = torch.tensor([[0, 0, 7, 8, 9], [3, 4, 5, 6, 7]])
    padding, cache = torch.tensor([2, 0]), network.new_cache(5)
    got = []
    with network.decoding():
        for start, end in ((0, 3), (3, 4), (4, 5)):
            positions = (torch.arange(start, end) - padding[:, None]).clamp(min=0)
            mask = left_padded_mask(padding, length=end, queries=end - start)
            got.append(network.decode(ids[:, start:end], positions, mask, cache))
        assert (cache.length, cache.rows, cache.virtual) == (5, 2, 3)
        short = network.head(network.states(ids[:1, 2:]))[0]
        long = network.head(network.states(ids[1:]))[0]
    for column, logits in zip((2, 3, 4), got, strict=True):
        assert (logits[0] - short[column - 2]).abs().max() < 1e-4
        assert (logits[1] - long[column]).abs().max() < 1e-4


@pytest.mark.parametrize("name", SEQUENCE)
def test_virtual_tokens_take_room_and_refuse_packing(rows, name):
    network = build(NetworkConfig(config=LLAMA, adapter=KINDS[name]))
    assert network.max_positions == 61
    token_logprobs(network, rows([[61]]))
    with pytest.raises(InputError, match="61 positions and was given 62"):
        token_logprobs(network, rows([[62]]))
    with network.adapter_off():
        token_logprobs(network, rows([[64]]))
    with pytest.raises(InputError, match="turn packing off"):
        token_logprobs(network, rows([[3, 2]]))
    with pytest.raises(InputError, match="has 64 positions in all"):
        build(NetworkConfig(config=LLAMA, adapter=type(KINDS[name])(tokens=64)))


def test_virtual_tokens_before_a_sliding_window_are_refused(make):
    with pytest.raises(InputError, match="sliding window of 4"):
        make("gemma2", adapter=PromptTuning(tokens=2))


def test_a_prompt_of_real_tokens_acts_like_them(rows):
    """Virtual tokens with the embeddings of tokens 5 and 6 give what those tokens would."""
    network = build(NetworkConfig(config=LLAMA, adapter=PromptTuning(tokens=2)))
    embeddings = network.causal.get_input_embeddings().weight
    with torch.no_grad():
        network.trainable_parameters()[0].copy_(embeddings[5:7])
        ids = torch.tensor([[9, 10, 11]])
        behind = network.states(ids)
        with network.adapter_off():
            whole = network.states(torch.tensor([[5, 6, 9, 10, 11]]))
    assert (behind - whole[:, 2:]).abs().max() < 1e-6


def test_padding_behind_virtual_tokens_changes_nothing(rows):
    for name in SEQUENCE:
        network = build(NetworkConfig(config=LLAMA, adapter=KINDS[name]))
        alone, padded = rows([[5]]), rows([[5]], extra=4)
        with torch.no_grad():
            difference = token_logprobs(network, padded)[:, :5] - token_logprobs(network, alone)
        assert difference.abs().max() < 1e-5
        assert isinstance(padded, TokenBatch)


def test_processes_cannot_share_what_fsdp_would_not_divide():
    for settings, said in (
        (NetworkConfig(config=LLAMA, lora=KINDS["lora"], quantisation=NF4), "4-bit weights hold scales"),
        (NetworkConfig(config=LLAMA, adapter=PrefixTuning()), "prefix tuning runs beside"),
    ):
        with pytest.raises(InputError, match=said):
            refuse_undivided(settings)
    refuse_undivided(NetworkConfig(config=LLAMA, adapter=OFT()))
    with pytest.raises(InputError, match="does not know the layers of IA3"):
        refuse_adapters(NetworkConfig(config=LLAMA, adapter=IA3()))


def test_memory_is_known_for_every_kind():
    """By hand: IA3 on llama scales 16 + 16 outputs and 48 inputs in each of 2 layers, in float32."""
    sizes = estimate(NetworkConfig(config=LLAMA, adapter=IA3()))
    assert sizes.gradients == 4 * 2 * (16 + 16 + 48)
    for name in EVERY:
        settings = NetworkConfig(config=LLAMA, adapter=KINDS[name])
        network = build(settings)
        sizes = estimate(settings, rows=3, row_tokens=7)
        assert sizes.gradients == sum(4 * p.numel() for p in network.trainable_parameters())
        assert sizes.weights == sum(4 * p.numel() for p in network.parameters())
        assert sizes.cache == 2 * 2 * 3 * 2 * (7 + KINDS[name].tokens) * 8 * 4


@pytest.mark.slow
@needs_bitsandbytes
def test_nothing_is_said_of_a_kernel_that_is_not_there():
    script = (
        "from lit_posttrain.networks import NetworkConfig, LoraSettings, Quantisation, build; "
        f"build(NetworkConfig(config={LLAMA | WIDE!r}, lora=LoraSettings(rank=2), quantisation=Quantisation()))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "kernel" not in done.stderr + done.stdout


def test_warnings_of_bitsandbytes_are_kept_back_for_an_import_alone(caplog):
    logger = logging.getLogger("bitsandbytes.backends")
    with quiet():
        logger.warning("no kernel")
        logger.error("broken")
    logger.warning("later")
    assert [record.message for record in caplog.records] == ["broken", "later"]
