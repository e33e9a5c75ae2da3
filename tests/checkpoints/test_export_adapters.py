"""Every kind of adapter goes out, as an adapter and merged, and comes in elsewhere with the same logits."""

import json
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from checkpoints.test_export import GPT2, IDS, LLAMA, TIED, logits, saved, write
from networks.adapter_kinds import KINDS, NF4, QUANTISED, SEQUENCE, WEIGHTS, WIDE, move, needs_bitsandbytes
from peft import PeftModel
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from lit_posttrain.batches import TokenBatch
from lit_posttrain.checkpoints import folder
from lit_posttrain.checkpoints.export import export
from lit_posttrain.errors import InputError
from lit_posttrain.networks import NetworkConfig, Quantisation, build, token_logprobs
from lit_posttrain.text import TextConfig, load_text


def on_shapes(names, **shapes):
    """Each kind on each architecture; peft cannot rotate the layers of GPT-2."""
    pairs = [(kind, name) for kind in shapes for name in names]
    return [
        pytest.param(shapes[kind], name, id=f"{kind}-{name}")
        for kind, name in pairs
        if not (kind == "gpt2" and name.startswith("oft"))
    ]


@pytest.fixture
def trained(tmp_path):
    """A checkpoint of adapters whose every parameter has moved, and the folder of their base."""

    def trained(shape=LLAMA, **settings):
        if "quantisation" in settings:
            shape = {**shape, **WIDE}
        base = saved(build(NetworkConfig(config=shape)), tmp_path / "base")
        network = build(NetworkConfig(path=str(base), **settings))
        move(network)
        write(tmp_path / "fit.ckpt", network, load_text(TextConfig(characters="0123456789+= ")))
        return SimpleNamespace(
            path=tmp_path / "fit.ckpt", network=network, base=base, output=tmp_path / "out", folder=tmp_path
        )

    return trained


def logprobs(network):
    ones = torch.ones_like(IDS)
    with torch.no_grad():
        return token_logprobs(network.eval(), TokenBatch(IDS, ones, IDS, ones.bool(), ones.float()))


def of_logits(values):
    """Log-probabilities of the tokens of IDS from logits of another program, virtual tokens first."""
    return values.log_softmax(-1)[0, -IDS.shape[1] : -1].gather(-1, IDS[0, 1:, None])[:, 0]


@pytest.mark.parametrize("name", KINDS)
def test_an_adapter_loads_in_peft_and_gives_the_same_logprobs(trained, name):
    made = trained(adapter=KINDS[name])
    stored = folder.read(made.path)["state_dict"]
    assert sum(tensor.numel() for tensor in stored.values()) < 4000
    export(made.path, made.output, merge=False)
    base = AutoModelForCausalLM.from_pretrained(made.base)
    theirs = of_logits(logits(PeftModel.from_pretrained(base, str(made.output))))
    assert (theirs - logprobs(made.network)[0, 1:]).abs().max() < 1e-5
    with made.network.adapter_off():
        assert (theirs - logprobs(made.network)[0, 1:]).abs().max() > 0.01


@pytest.mark.parametrize(("shape", "name"), on_shapes(WEIGHTS, llama=LLAMA, tied=TIED, gpt2=GPT2))
def test_a_merged_network_gives_the_same_logits(trained, shape, name):
    made = trained(shape, adapter=KINDS[name])
    export(made.path, made.output)
    theirs = logits(AutoModelForCausalLM.from_pretrained(made.output))
    assert (of_logits(theirs) - logprobs(made.network)[0, 1:]).abs().max() < 1e-4
    assert not list(made.output.glob("*adapter*"))


@pytest.mark.parametrize("name", SEQUENCE)
def test_virtual_tokens_cannot_be_merged(trained, name):
    made = trained(adapter=KINDS[name])
    with pytest.raises(InputError, match=r"trains tokens, not weights, .* export it by --adapter"):
        export(made.path, made.output)
    assert not made.output.exists()


@needs_bitsandbytes
@pytest.mark.parametrize(
    ("shape", "name"), on_shapes([name for name in QUANTISED if name in WEIGHTS], llama=LLAMA, gpt2=GPT2)
)
def test_a_merged_network_of_four_bits_is_the_one_that_was_trained(trained, shape, name):
    made = trained(shape, adapter=KINDS[name], quantisation=NF4)
    export(made.path, made.output)
    config = json.loads((made.output / "config.json").read_text())
    assert "quantization_config" not in config
    theirs = of_logits(logits(AutoModelForCausalLM.from_pretrained(made.output)))
    assert (theirs - logprobs(made.network)[0, 1:]).abs().max() < 1e-4
    plain = of_logits(logits(AutoModelForCausalLM.from_pretrained(made.base)))
    with made.network.adapter_off():
        assert (plain - logprobs(made.network)[0, 1:]).abs().max() > 0.005  # quantising is not free


@needs_bitsandbytes
@pytest.mark.parametrize("name", QUANTISED)
@pytest.mark.parametrize("kind", ["nf4", "fp4"])
def test_an_adapter_of_a_network_of_four_bits_loads_on_one_that_transformers_quantised(trained, name, kind):
    made = trained(adapter=KINDS[name], quantisation=Quantisation(kind=kind, double=kind == "nf4"))
    export(made.path, made.output, merge=False)
    four = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=kind,
        bnb_4bit_use_double_quant=kind == "nf4",
        bnb_4bit_compute_dtype=torch.float32,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of accelerate and bitsandbytes
        base = AutoModelForCausalLM.from_pretrained(made.base, quantization_config=four, device_map="cpu")
        model = PeftModel.from_pretrained(base, str(made.output))
    with torch.enable_grad():  # without a gradient bitsandbytes would round to bfloat16 on some processors
        theirs = of_logits(model.train()(inputs_embeds=embedded(model)).logits.detach())
    ours = logprobs(made.network)[0, 1:]
    assert (theirs - ours).abs().max() < 1e-5


def embedded(model):
    """The embeddings of IDS, with a gradient."""
    return model.get_input_embeddings()(IDS).detach().requires_grad_()


@needs_bitsandbytes
def test_another_quantisation_is_another_base(trained):
    made = trained(lora=KINDS["lora"], quantisation=NF4)
    content = folder.read(made.path)
    content["lit_posttrain"]["network"]["quantisation"]["kind"] = "fp4"
    folder.write(made.folder / "other.ckpt", content)
    with pytest.raises(InputError, match="its weights are others"):
        export(made.folder / "other.ckpt", made.output)


def test_the_adapter_of_a_base_that_moved_is_checked_against_it(trained):
    made = trained(adapter=KINDS["oft"])
    made.base.rename(made.folder / "moved")
    with pytest.raises(InputError, match="say by --base where it is"):
        export(made.path, made.output)
    export(made.path, made.output, base=str(made.folder / "moved"))
    assert Path(made.output / "model.safetensors").exists()
