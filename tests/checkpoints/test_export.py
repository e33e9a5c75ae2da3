import json
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from lit_posttrain.batches import TokenBatch
from lit_posttrain.checkpoints.export import export, export_command
from lit_posttrain.errors import InputError
from lit_posttrain.networks import LoraSettings, NetworkConfig, build, network_state, token_logprobs
from lit_posttrain.text import TextConfig, load_text

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


@pytest.fixture
def trained(tmp_path):
    """A checkpoint file as a fit writes it, of a network whose every weight has moved; and the network."""

    def trained(shape, **settings):
        network = build(NetworkConfig(config=shape, **settings))
        text = load_text(TextConfig(characters="0123456789+= "))
        torch.manual_seed(1)
        with torch.no_grad():
            for parameter in network.trainable_parameters():
                parameter.add_(torch.randn_like(parameter) * 0.3)
        weights = {f"policy.{name}": value for name, value in network.state_dict().items()}
        path = tmp_path / "fit.ckpt"
        state = network_state(network, text)
        torch.save({"state_dict": weights | {"reference.x": torch.ones(1)}, "lit_posttrain": state}, path)
        return SimpleNamespace(path=path, network=network, text=text, output=tmp_path / "out")

    return trained


def logits(model, ids):
    with torch.no_grad():
        return model.eval()(input_ids=ids).logits


@pytest.mark.parametrize("shape", [LLAMA, TIED, GPT2], ids=["llama", "tied", "gpt2"])
@pytest.mark.parametrize("lora", [None, LoraSettings(rank=2)], ids=["full", "lora"])
def test_the_folder_loads_elsewhere_and_gives_the_same_logits(trained, shape, lora):
    made = trained(shape, lora=lora)
    export(made.path, made.output)
    ids = torch.arange(20)[None]
    theirs = logits(AutoModelForCausalLM.from_pretrained(made.output), ids)
    ours = logits(made.network.model, ids)
    assert (theirs - ours).abs().max() < (1e-5 if lora is None else 1e-4)
    assert ours.std() > 0.1
    if lora is not None:
        with made.network.adapter_off():
            assert (logits(made.network.model, ids) - theirs).abs().max() > 0.01
    assert list(made.output.glob("*.safetensors"))
    assert not list(made.output.glob("*adapter*"))


def test_tokenizer_template_and_end_tokens_come_along(trained):
    made = trained(LLAMA)
    export(made.path, made.output)
    messages = [{"role": "user", "content": "1+2="}]
    tokenizer = AutoTokenizer.from_pretrained(made.output)
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
    assert ids == made.text.prompt_ids(messages)
    generation = json.loads((made.output / "generation_config.json").read_text())
    assert generation["eos_token_id"] == made.text.end_id
    assert generation["pad_token_id"] == made.text.pad_id
    assert load_text(made.output).fingerprint == made.text.fingerprint


def test_the_folder_is_a_network_for_us(trained):
    made = trained(LLAMA, dtype="bfloat16")
    export(made.path, made.output)
    again = build(NetworkConfig(path=str(made.output), dtype="bfloat16"))
    ids = torch.arange(20)[None]
    ones = torch.ones_like(ids)
    batch = TokenBatch(ids, ones, ids, ones.bool(), ones.float())
    assert torch.equal(token_logprobs(again, batch), token_logprobs(made.network, batch))
    assert json.loads((made.output / "config.json").read_text())["dtype"] == "bfloat16"


def test_the_adapter_alone(trained):
    from peft import PeftModel

    made = trained(LLAMA, lora=LoraSettings(rank=2))
    export_command(made.path, made.output, adapter=True)
    names = {path.name for path in made.output.iterdir()}
    assert {"adapter_model.safetensors", "adapter_config.json", "tokenizer.json"} <= names
    assert "model.safetensors" not in names
    base = build(NetworkConfig(config=LLAMA)).model
    model = PeftModel.from_pretrained(base, str(made.output))
    ids = torch.arange(20)[None]
    assert (logits(model, ids) - logits(made.network.model, ids)).abs().max() < 1e-5


def test_dropout_turned_off_for_training_is_not_exported(trained):
    from lit_posttrain.networks import disable_dropout

    made = trained(GPT2)
    assert disable_dropout(made.network) > 0
    content = torch.load(made.path, weights_only=True)
    content["lit_posttrain"] = network_state(made.network, made.text)
    torch.save(content, made.path)
    export(made.path, made.output)
    assert json.loads((made.output / "config.json").read_text())["resid_pdrop"] == 0.1


def test_what_is_no_checkpoint_is_refused(trained, tmp_path):
    made = trained(LLAMA)
    with pytest.raises(InputError, match="no adapter"):
        export(made.path, made.output, merge=False)
    with pytest.raises(InputError, match="there is no checkpoint"):
        export(tmp_path / "none.ckpt", made.output)
    with pytest.raises(InputError, match="consolidate_checkpoint"):
        export(tmp_path, made.output)
    (tmp_path / "text.ckpt").write_text("hello")
    with pytest.raises(InputError, match="torch wrote"):
        export(tmp_path / "text.ckpt", made.output)
    torch.save({"code": SimpleNamespace()}, tmp_path / "pickle.ckpt")
    with pytest.raises(InputError, match="read safely"):
        export(tmp_path / "pickle.ckpt", made.output)
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    with pytest.raises(InputError, match="lit_posttrain"):
        export(tmp_path / "other.ckpt", made.output)
    content = torch.load(made.path, weights_only=True)
    content["state_dict"].pop("policy.model.lm_head.weight")
    torch.save(content, tmp_path / "short.ckpt")
    with pytest.raises(InputError, match="missing"):
        export(tmp_path / "short.ckpt", made.output)
    assert not made.output.exists()


def test_nothing_is_overwritten_and_nothing_half_written_stays(trained, monkeypatch):
    made = trained(LLAMA)
    made.output.mkdir()
    with pytest.raises(InputError, match="exists already"):
        export(made.path, made.output)
    made.output.rmdir()
    monkeypatch.setattr(
        "lit_posttrain.checkpoints.export._write_network", lambda *_: (_ for _ in ()).throw(OSError)
    )
    with pytest.raises(OSError):  # noqa: PT011
        export(made.path, made.output)
    assert [path.name for path in made.path.parent.iterdir()] == ["fit.ckpt"]


def test_file_names_stay_inside_the_folder(trained):
    made = trained(LLAMA)
    content = torch.load(made.path, weights_only=True)
    content["lit_posttrain"]["tokenizer"]["../outside.txt"] = "x"
    torch.save(content, made.path)
    with pytest.raises(InputError, match="outside"):
        export(made.path, made.output)
