import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from fakes import DigitCount
from transformers import AutoModelForCausalLM, AutoTokenizer

from lit_posttrain import cli
from lit_posttrain.batches import Request, SampleKey, Sampling, TokenBatch
from lit_posttrain.checkpoints import folder, manifest
from lit_posttrain.checkpoints.export import export
from lit_posttrain.checkpoints.strategy import ShardedStrategy
from lit_posttrain.errors import InputError
from lit_posttrain.ledger import Ledger, Phase
from lit_posttrain.methods import GRPOModule
from lit_posttrain.networks import LoraSettings, NetworkConfig, build, network_state, token_logprobs
from lit_posttrain.networks.state import stored_names
from lit_posttrain.rollouts import TorchEngine
from lit_posttrain.text import ChatText, TextConfig, character_tokenizer, load_text

SHAPE = {
    "vocab_size": 24,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 32,
    "initializer_range": 0.3,
}
LLAMA = {"model_type": "llama", **SHAPE, "intermediate_size": 24, "num_key_value_heads": 1}
TIED = {**LLAMA, "model_type": "qwen2", "tie_word_embeddings": True}
GPT2 = {"model_type": "gpt2", **SHAPE, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32}
LORA = LoraSettings(rank=2, alpha=2.0)
IDS = torch.arange(20)[None]


def write(path: Path, network, text, **more) -> None:
    """A checkpoint as a fit writes it."""
    own = network.state_dict()
    weights = {f"policy.{name}": own[name].detach() for name in stored_names(network)}
    state = network_state(network, text)
    folder.write(path, {"state_dict": weights, "lit_posttrain": state, "global_step": 3, **more})


def change(path: Path, to: Path, edit) -> None:
    """Another checkpoint, with its content edited."""
    content = folder.read(path)
    edit(content)
    folder.write(to, content)


@pytest.fixture
def trained(tmp_path):
    """A checkpoint of a network whose every trained weight has moved; and the network."""

    def trained(shape=LLAMA, text=None, **settings):
        source = {} if "path" in settings else {"config": shape}
        network = build(NetworkConfig(**source, **settings))
        text = text or load_text(TextConfig(characters="0123456789+= "))
        torch.manual_seed(1)
        with torch.no_grad():
            for parameter in network.trainable_parameters():
                parameter.add_(torch.randn_like(parameter) * 0.3)
        write(tmp_path / "fit.ckpt", network, text)
        return SimpleNamespace(
            path=tmp_path / "fit.ckpt", network=network, text=text, output=tmp_path / "out", folder=tmp_path
        )

    return trained


def logits(model, ids=IDS):
    with torch.no_grad():
        return model.eval()(input_ids=ids).logits


def logprobs(network, ids=IDS):
    ones = torch.ones_like(ids)
    return token_logprobs(network, TokenBatch(ids, ones, ids, ones.bool(), ones.float()))


def greedy(network, text):
    """What the engine writes after each of three prompts."""
    engine, sampling = TorchEngine(network, text, Ledger()), Sampling(temperature=0.0, max_new_tokens=12)
    prompts = [text.prompt_ids([{"role": "user", "content": prompt}]) for prompt in ("1+2=", "40+2=", "7=")]
    with engine.ledger.phase(Phase.ROLLOUT):
        results = engine.generate([Request(ids, SampleKey(0, str(ids)), sampling) for ids in prompts])
    return [completions[0].tokens.tolist() for completions in results]


@pytest.mark.parametrize("shape", [LLAMA, TIED, GPT2], ids=["llama", "tied", "gpt2"])
@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
def test_the_folder_loads_elsewhere_and_gives_the_same_logits(trained, shape, lora):
    made = trained(shape, lora=lora)
    export(made.path, made.output)
    theirs = logits(AutoModelForCausalLM.from_pretrained(made.output))
    ours = logits(made.network.model)
    assert (theirs - ours).abs().max() < (1e-5 if lora is None else 1e-4)
    assert ours.std() > 0.1
    if lora is not None:
        with made.network.adapter_off():
            assert (logits(made.network.model) - theirs).abs().max() > 0.01
    assert list(made.output.glob("*.safetensors"))
    assert not list(made.output.glob("*adapter*"))


@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
def test_the_next_method_starts_from_the_folder(trained, lora):
    made = trained(lora=lora)
    export(made.path, made.output)
    module = GRPOModule(NetworkConfig(path=str(made.output)), DigitCount())
    module.configure_model()
    assert module.text.fingerprint == made.text.fingerprint
    assert torch.allclose(logprobs(module.policy), logprobs(made.network), atol=1e-4 if lora else 1e-6)
    texts = greedy(made.network, made.text)
    assert greedy(module.policy, module.text) == texts
    assert len({str(text) for text in texts}) > 1
    model, tokenizer = (kind.from_pretrained(made.output) for kind in (AutoModelForCausalLM, AutoTokenizer))
    asked = tokenizer("1+2=", return_tensors="pt")
    written = model.generate(**asked, do_sample=False, max_new_tokens=12)
    assert written[0, 4:].tolist() == texts[0]


def test_tokenizer_template_and_end_tokens_come_along(trained):
    made = trained()
    export(made.path, made.output)
    messages = [{"role": "user", "content": "1+2="}]
    tokenizer = AutoTokenizer.from_pretrained(made.output)
    assert tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"] == (
        made.text.prompt_ids(messages)
    )
    assert "message['content']" in (made.output / "chat_template.jinja").read_text()
    generation = json.loads((made.output / "generation_config.json").read_text())
    assert generation["eos_token_id"] == made.text.end_id
    assert generation["pad_token_id"] == made.text.pad_id
    card = (made.output / "README.md").read_text()
    assert "- Optimiser steps: 3\n" in card
    assert 'AutoModelForCausalLM.from_pretrained("out")' in card


def test_added_tokens_several_ends_and_pad_that_is_an_end(trained):
    tokenizer = character_tokenizer("0123456789+= ")
    tokenizer.add_tokens(["<think>"])
    tokenizer.add_special_tokens({"additional_special_tokens": ["<turn>"]})
    tokenizer.pad_token = tokenizer.eos_token
    template = "{% for m in messages %}{{ m['content'] }}\r\n<turn>{% endfor %}"
    tokenizer.chat_template = template.replace("\r\n", "")
    text = ChatText(tokenizer, end_ids=[7])
    made = trained(text=text)
    export(made.path, made.output)
    again = load_text(made.output)
    assert again.fingerprint == text.fingerprint
    assert (again.end_id, again.pad_id) == (text.end_id, 1)
    assert again.eos_ids == {1, 7, text.end_id}
    ids = AutoTokenizer.from_pretrained(made.output)("1<think>2<turn>")["input_ids"]
    assert ids == [4, 16, 5, 17]
    model = AutoModelForCausalLM.from_pretrained(made.output)
    assert sorted(model.generation_config.eos_token_id) == [1, 7, 17]
    assert model.config.vocab_size == 24  # more than the tokenizer's 18


def test_a_plain_text_stays_plain(trained):
    made = trained(text=load_text(TextConfig(characters="0123456789+= ", template="plain")))
    export(made.path, made.output)
    assert not (made.output / "chat_template.jinja").exists()
    assert load_text(made.output).template is None


def test_a_tokenizer_larger_than_the_network_is_refused(trained):
    made = trained(text=load_text(TextConfig(characters="0123456789+= abcdefghijkl")))
    with pytest.raises(InputError, match="ids up to 27, its network has 24 embeddings"):
        export(made.path, made.output)
    assert not made.output.exists()


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_the_config_says_the_dtype_of_the_weights(trained, dtype):
    made = trained({**LLAMA, "torch_dtype": "float16"}, dtype=dtype)
    export(made.path, made.output)
    config = json.loads((made.output / "config.json").read_text())
    assert (config["dtype"], config.get("torch_dtype")) == (dtype, None)
    assert not [key for key in config if "attn_implementation" in key]
    again = build(NetworkConfig(path=str(made.output), dtype=dtype))
    assert torch.equal(logprobs(again), logprobs(made.network))


def test_a_bfloat16_adapter_merges_to_within_its_rounding(trained):
    made = trained(dtype="bfloat16", lora=LORA)
    export(made.path, made.output)
    theirs = logits(AutoModelForCausalLM.from_pretrained(made.output, dtype="bfloat16")).float()
    ours = logits(made.network.model).float()
    assert (theirs - ours).abs().max() < 0.03 * ours.abs().max()


def test_dropout_turned_off_for_training_is_not_exported(trained):
    from lit_posttrain.networks import disable_dropout

    made = trained(GPT2)
    assert disable_dropout(made.network) > 0
    write(made.folder / "silent.ckpt", made.network, made.text)
    export(made.folder / "silent.ckpt", made.output)
    assert json.loads((made.output / "config.json").read_text())["resid_pdrop"] == 0.1


def test_generation_settings_that_transformers_would_not_save(trained):
    made = trained()
    made.network.causal.generation_config.temperature = 0.5  # without do_sample
    write(made.folder / "hot.ckpt", made.network, made.text)
    export(made.folder / "hot.ckpt", made.output)
    assert json.loads((made.output / "generation_config.json").read_text())["temperature"] == 0.5


def saved(network, where: Path) -> Path:
    network.causal.save_pretrained(where)
    return where


def test_a_base_that_moved_is_named_and_checked(trained, tmp_path):
    first = saved(build(NetworkConfig(config=LLAMA)), tmp_path / "base")
    made = trained(path=str(first), lora=LORA)
    stored = folder.read(made.path)["state_dict"]
    assert all("lora_" in name for name in stored)
    first.rename(tmp_path / "moved")
    with pytest.raises(InputError, match="say by --base where it is"):
        export(made.path, made.output)
    other = saved(build(NetworkConfig(config=LLAMA, seed=1)), tmp_path / "other")
    with pytest.raises(InputError, match=rf"digest {made.network.base_digest}; .*other has [0-9a-f]{{32}}"):
        export(made.path, made.output, base=str(other))
    assert not made.output.exists()
    export(made.path, made.output, base=str(tmp_path / "moved"))
    theirs = logits(AutoModelForCausalLM.from_pretrained(made.output))
    assert (theirs - logits(made.network.model)).abs().max() < 1e-4
    card = (made.output / "README.md").read_text()
    assert "the local network `moved`" in card
    assert str(tmp_path) not in card


def test_the_same_weights_with_another_config_are_refused(trained, tmp_path):
    first = saved(build(NetworkConfig(config=LLAMA)), tmp_path / "base")
    made = trained(path=str(first), lora=LORA)
    config = json.loads((first / "config.json").read_text())
    (first / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 0.1}))
    with pytest.raises(InputError, match=r"its config differs in \['rms_norm_eps'\]"):
        export(made.path, made.output)


def test_the_adapter_alone_needs_no_base(trained, tmp_path):
    from peft import AutoPeftModelForCausalLM, PeftModel

    first = saved(build(NetworkConfig(config=LLAMA)), tmp_path / "base")
    made = trained(path=str(first), lora=LORA)
    first.rename(tmp_path / "moved")
    assert cli.main(["export", str(made.path), str(made.output), "--adapter"]) == 0
    names = {path.name for path in made.output.iterdir()}
    assert {"adapter_model.safetensors", "adapter_config.json", "tokenizer.json", "README.md"} <= names
    assert "model.safetensors" not in names
    ours = logits(made.network.model)
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "moved")
    theirs = logits(PeftModel.from_pretrained(base, str(made.output)))
    assert (theirs - ours).abs().max() < 1e-5
    named = tmp_path / "named"
    command = ["export", str(made.path), str(named), "--adapter", "--base", str(tmp_path / "moved")]
    assert cli.main(command) == 0
    assert (logits(AutoPeftModelForCausalLM.from_pretrained(named)) - ours).abs().max() < 1e-5
    assert AutoTokenizer.from_pretrained(named)("1+2=")["input_ids"] == [4, 13, 5, 14]


@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
def test_the_sharded_form_gives_the_same_folder(trained, lora):
    made = trained(TIED, lora=lora)
    content = folder.read(made.path)
    ShardedStrategy().save_checkpoint(content, made.folder / "sharded.ckpt")
    assert folder.verify(made.folder / "sharded.ckpt").kind == manifest.SHARDED
    export(made.path, made.output)
    export(made.folder / "sharded.ckpt", made.folder / "second")
    for file in made.output.iterdir():
        other = (made.folder / "second" / file.name).read_bytes()
        assert other == file.read_bytes().replace(b'"out"', b'"second"').replace(b"# out", b"# second")


def test_a_link_is_followed_and_a_damaged_checkpoint_is_not_exported(trained):
    made = trained()
    (made.folder / "last.ckpt").symlink_to("fit.ckpt")
    export(made.folder / "last.ckpt", made.output)
    weights = made.path / "tensors.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(InputError, match=r"tensors\.safetensors"):
        export(made.path, made.folder / "second")
    assert not (made.folder / "second").exists()


def test_what_is_no_checkpoint_is_refused(trained, tmp_path):
    made = trained()
    with pytest.raises(InputError, match="no adapter"):
        export(made.path, made.output, merge=False)
    with pytest.raises(InputError, match="holds all its weights"):
        export(made.path, made.output, base="elsewhere")
    with pytest.raises(InputError, match=r"none\.ckpt"):
        export(tmp_path / "none.ckpt", made.output)
    (tmp_path / "text.ckpt").write_text("hello")
    with pytest.raises(InputError, match=r"text\.ckpt"):
        export(tmp_path / "text.ckpt", made.output)
    folder.write(tmp_path / "other.ckpt", {"state_dict": {}})
    with pytest.raises(InputError, match="lit_posttrain"):
        export(tmp_path / "other.ckpt", made.output)
    assert not made.output.exists()


HEAD = "policy.model.lm_head.weight"


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda weights: weights.pop(HEAD), r"missing \['model.lm_head.weight'"),
        (lambda weights: weights.update({"policy.model.more": torch.ones(1)}), r"unknown \['model.more'"),
        (lambda weights: weights.update({HEAD: torch.ones(3, 3)}), r"another shape \['model.lm_head.weight'"),
    ],
    ids=["missing", "unknown", "shape"],
)
def test_weights_that_do_not_fit_are_refused(trained, edit, said):
    made = trained()
    change(made.path, made.folder / "bad.ckpt", lambda content: edit(content["state_dict"]))
    with pytest.raises(InputError, match=said):
        export(made.folder / "bad.ckpt", made.output)


def test_tied_weights_may_stand_once_but_not_differ(trained):
    made = trained(TIED)
    change(made.path, made.folder / "once.ckpt", lambda content: content["state_dict"].pop(HEAD))
    export(made.folder / "once.ckpt", made.output)
    theirs = logits(AutoModelForCausalLM.from_pretrained(made.output))
    assert (theirs - logits(made.network.model)).abs().max() < 1e-5

    def untie(content):
        content["state_dict"][HEAD] = content["state_dict"][HEAD] + 1

    change(made.path, made.folder / "twice.ckpt", untie)
    with pytest.raises(InputError, match="holds two that differ"):
        export(made.folder / "twice.ckpt", made.folder / "second")


def test_large_networks_are_cut_into_several_files(trained, monkeypatch):
    monkeypatch.setattr("lit_posttrain.checkpoints.export.SHARD_SIZE", "5KB")
    made = trained()
    export(made.path, made.output)
    assert len(list(made.output.glob("model-*.safetensors"))) > 1
    again = build(NetworkConfig(path=str(made.output)))
    assert torch.equal(logprobs(again), logprobs(made.network))


def test_nothing_is_overwritten_and_nothing_half_written_stays(trained, monkeypatch):
    made = trained()
    made.output.mkdir()
    with pytest.raises(InputError, match="exists already"):
        export(made.path, made.output)
    made.output.rmdir()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lit_posttrain.checkpoints.export.model_card", full)
    with pytest.raises(OSError, match="No space"):
        export(made.path, made.output)
    assert [path.name for path in made.folder.iterdir()] == ["fit.ckpt"]


@pytest.mark.parametrize("name", ["../outside.txt", "..", "/outside.txt", ""])
def test_file_names_stay_inside_the_folder(trained, name):
    made = trained()

    def edit(content):
        content["lit_posttrain"]["tokenizer"][name] = "x"

    change(made.path, made.folder / "bad.ckpt", edit)
    with pytest.raises(InputError, match="outside of the folder"):
        export(made.folder / "bad.ckpt", made.output)
    assert not made.output.exists()
