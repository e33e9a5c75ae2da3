import json

import pytest
import torch
from fakes import tiny, trainer
from reward_cases import data_of, reward
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from lit_posttrain.batches import TokenBatch
from lit_posttrain.checkpoints.export import export, padding_of
from lit_posttrain.checkpoints.io import FolderIO
from lit_posttrain.errors import InputError
from lit_posttrain.methods import SFTModule
from lit_posttrain.networks import (
    IA3,
    LoraSettings,
    NetworkConfig,
    PromptTuning,
    ScoreHead,
    build,
    last_tokens,
    stored_head,
)
from lit_posttrain.solution_steps import StepFormat

SEQUENCES = [[3, 4, 5, 6, 1], [8, 9, 1], [10, 11, 12, 3, 4, 5, 1]]  # 1 is the end token, 0 padding
ADAPTERS = {
    "full": {},
    "lora": {"lora": LoraSettings(rank=2)},
    "ia3": {"adapter": IA3()},
    "bfloat16 lora": {"lora": LoraSettings(rank=2), "dtype": "bfloat16"},
}


def padded() -> TokenBatch:
    ids = torch.zeros(3, 7, dtype=torch.int64)
    for row, one in enumerate(SEQUENCES):
        ids[row, : len(one)] = torch.tensor(one)
    real = ids > 0
    segments = torch.arange(1, 4)[:, None] * real
    return TokenBatch(ids, segments, torch.arange(7).expand(3, 7), real, real.float())


def trained(folder, kind="pairs", **network):
    """A checkpoint of three steps, and the scores of its network."""
    module = reward(
        network=tiny(head=ScoreHead(2), **network), optimizer=lambda p: torch.optim.AdamW(p, lr=3e-2)
    )
    fitting = trainer(max_steps=3, plugins=[FolderIO()])
    fitting.fit(module, datamodule=data_of(kind))
    fitting.save_checkpoint(folder / "fit.ckpt")
    given = padded()
    with torch.no_grad():
        return folder / "fit.ckpt", module.policy.eval().scores(given, last_tokens(given))


@pytest.mark.parametrize("name", ADAPTERS)
def test_transformers_gives_the_same_scores(name, tmp_path):
    path, ours = trained(tmp_path, **ADAPTERS[name])
    out = export(path, tmp_path / "out")
    given, tolerance = padded(), 0.1 if "bfloat16" in name else 1e-5
    model = AutoModelForSequenceClassification.from_pretrained(out).eval()
    assert model.config.num_labels == 2
    with torch.no_grad():
        theirs = model(given.input_ids, attention_mask=(given.segments > 0).long()).logits.float()
    assert (theirs - ours).abs().max() < tolerance
    start = build(tiny(head=ScoreHead(2), **ADAPTERS[name])).eval()
    assert (start.scores(given, last_tokens(given)) - ours).abs().max() > 20 * tolerance or "bfloat16" in name
    assert stored_head(str(out)) == ScoreHead(2)
    again = build(NetworkConfig(path=str(out), head=ScoreHead(2))).eval()
    assert (again.scores(given, last_tokens(given)) - ours).abs().max() < tolerance
    assert AutoTokenizer.from_pretrained(out).decode([3, 4]) == "01"


def test_the_adapter_alone_holds_the_head(tmp_path):
    from peft import AutoPeftModelForSequenceClassification

    build(tiny()).causal.save_pretrained(tmp_path / "base")
    module = reward(
        network=NetworkConfig(path=str(tmp_path / "base"), head=ScoreHead(2), lora=LoraSettings(rank=2)),
        optimizer=lambda p: torch.optim.AdamW(p, lr=3e-2),
    )
    fitting = trainer(max_steps=3, plugins=[FolderIO()])
    fitting.fit(module, datamodule=data_of())
    fitting.save_checkpoint(tmp_path / "fit.ckpt")
    out = export(tmp_path / "fit.ckpt", tmp_path / "out", merge=False)
    given, ids = padded(), torch.tensor(SEQUENCES[:1])
    theirs = AutoPeftModelForSequenceClassification.from_pretrained(out, num_labels=2).eval()
    with torch.no_grad():
        ours = module.policy.eval().scores(given, last_tokens(given))
        assert (theirs(ids).logits - ours[:1]).abs().max() < 1e-5
    assert "AutoPeftModelForSequenceClassification.from_pretrained" in (out / "README.md").read_text()


def test_steps_and_card_travel_with_the_folder(tmp_path):
    path, _ = trained(tmp_path, "steps")
    out = export(path, tmp_path / "out")
    assert StepFormat.load(out) == StepFormat("=")
    card = (out / "README.md").read_text()
    assert "A reward model, post-trained" in card
    assert "log odds that the step is right" in card
    assert "ensemble of 2" in card
    assert 'AutoModelForSequenceClassification.from_pretrained("out")' in card


def test_folder_of_pairs_has_no_steps(tmp_path):
    path, _ = trained(tmp_path)
    out = export(path, tmp_path / "out")
    with pytest.raises(InputError, match="no step separator"):
        StepFormat.load(out)
    assert "judges a whole answer" in (out / "README.md").read_text()
    assert json.loads((out / "generation_config.json").read_text())["eos_token_id"] == 1
    with pytest.raises(InputError, match="it has no logits"):
        SFTModule(NetworkConfig(path=str(out))).configure_model()


def test_padding_that_is_the_end_is_left_out():
    assert padding_of({"eos_token_id": 1, "pad_token_id": 0}) == 0
    assert padding_of({"eos_token_id": [1, 0], "pad_token_id": 0}) == 0
    assert padding_of({"eos_token_id": [1, 0], "pad_token_id": 1}) is None


def test_virtual_tokens_cannot_be_merged(tmp_path):
    path, _ = trained(tmp_path, adapter=PromptTuning(2))
    with pytest.raises(InputError, match="cannot be merged"):
        export(path, tmp_path / "out")
