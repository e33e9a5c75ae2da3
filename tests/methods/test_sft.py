"""Supervised fine-tuning: what the loss is, by hand and beside torch, however it is batched."""

import json
import math
from pathlib import Path

import pytest
import torch
import yaml
from fakes import SHAPE, TEXT, KeepGradients, Numbers, difference, tiny, trainer
from torch.nn import functional

from lit_posttrain.batches import TokenBatch
from lit_posttrain.cli import main
from lit_posttrain.data import ChatData
from lit_posttrain.data.preparation import Preparation
from lit_posttrain.data.sources import Table
from lit_posttrain.data.sources.mixture import WithReplay
from lit_posttrain.errors import InputError
from lit_posttrain.loss_mask import LossOn
from lit_posttrain.methods import SFTModule
from lit_posttrain.networks import build, token_and_mean_logprobs, token_logprobs
from lit_posttrain.objectives.language import smoothed_cross_entropy
from lit_posttrain.objectives.weights import SequenceMean
from lit_posttrain.text import TextConfig

LETTERS = {"characters": "12345678ua\n"}
TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'assistant' %}a{{ m.content }}{{ eos_token }}"
    "{% else %}u{{ m.content }}\n{% endif %}{% endfor %}{% if add_generation_prompt %}a{% endif %}"
)

TALKING = TextConfig(**LETTERS, template=TEMPLATE)


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.1)


def fitted(data, k=1, weighting=None, network=None, **settings):
    """Loss and gradients of one step."""
    keep = KeepGradients()
    weigh = {} if weighting is None else {"weighting": weighting}
    module = SFTModule(network or tiny(), settings.pop("text", TEXT), optimizer=sgd, **weigh, **settings)
    fitting = trainer(max_steps=1, accumulate_grad_batches=k, callbacks=[keep])
    fitting.fit(module, datamodule=data)
    return float(fitting.callback_metrics["train/loss"]), keep.steps[0], fitting.callback_metrics


def numbers(**settings):
    return ChatData(
        Numbers(8),
        **({"batch_sequences": 8, "validation_split": None, "preparation": Preparation(0)} | settings),
    )


def test_smoothed_cross_entropy_by_hand():
    """Of three words with probabilities 1/2, 1/4, 1/4 the first one came; a tenth of the target is spread."""
    logprobs, mean = (
        torch.tensor([[math.log(0.5)]]),
        torch.tensor([[(math.log(0.5) + 2 * math.log(0.25)) / 3]]),
    )
    expected = 0.9 * 0.693147 + 0.1 * (0.693147 + 2 * 1.386294) / 3
    assert float(smoothed_cross_entropy(logprobs, mean, 0.1)) == pytest.approx(expected, abs=1e-6)
    assert float(smoothed_cross_entropy(logprobs, mean, 0.0)) == pytest.approx(0.693147, abs=1e-6)


def batch():
    ids = torch.tensor([[3, 4, 5, 6], [7, 8, 9, 0]])
    segments = torch.tensor([[1, 1, 1, 1], [2, 2, 2, 0]])
    mask = torch.tensor([[False, True, True, True], [False, False, True, False]])
    return TokenBatch(ids, segments, torch.arange(4).expand(2, 4), mask, mask.float())


@pytest.mark.parametrize("chunk_tokens", [0, 1, 3])
def test_smoothing_is_torchs_on_the_full_softmax(chunk_tokens):
    network, one = build(tiny(chunk_tokens=chunk_tokens)), batch()
    logprobs, mean = token_and_mean_logprobs(network, one)
    loss = smoothed_cross_entropy(logprobs, mean, 0.2)
    loss.sum().backward()
    found = {n: p.grad.clone() for n, p in network.named_parameters() if p.grad is not None}
    network.zero_grad()
    logits = network.causal(input_ids=one.input_ids).logits[:, :-1]
    expected = functional.cross_entropy(
        logits.transpose(1, 2), one.input_ids[:, 1:], label_smoothing=0.2, reduction="none"
    )
    torch.testing.assert_close(loss[:, 1:][one.mask[:, 1:]], expected[one.mask[:, 1:]], atol=1e-5, rtol=0)
    assert torch.equal(loss[~one.mask], torch.zeros(4))
    (expected * one.mask[:, 1:]).sum().backward()
    assert difference(found, {n: p.grad for n, p in network.named_parameters() if p.grad is not None}) < 1e-5
    assert torch.equal(logprobs, token_logprobs(network, one))


def test_a_smoothed_run_reports_the_likelihood_too():
    plain, gradients, told = fitted(numbers())
    smoothed, others, told_smoothed = fitted(numbers(), label_smoothing=0.3)
    assert abs(plain - smoothed) > 1e-2
    assert difference(gradients, others) > 1e-3
    name = "train/negative_log_likelihood_nats"
    assert float(told[name]) == pytest.approx(plain, abs=1e-6)
    assert float(told_smoothed[name]) == pytest.approx(plain, abs=1e-6)


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_smoothing_is_a_share(share):
    with pytest.raises(InputError, match=r"label_smoothing is a share in \[0, 1\)"):
        SFTModule(tiny(), TEXT, label_smoothing=share)


TALK = [
    {"role": "user", "content": "12"},
    {"role": "assistant", "content": "34"},
    {"role": "user", "content": "5"},
    {"role": "assistant", "content": "678"},
]


@pytest.fixture
def talks(tmp_path):
    """Conversations of one and two turns, the second turn of the last one at a quarter."""
    rows = [TALK[:2], TALK, [*TALK[:3], TALK[3] | {"weight": 0.25}]]
    file = tmp_path / "talks.jsonl"
    file.write_text("".join(json.dumps({"messages": row}) + "\n" for row in rows))
    return Table(str(file), held_out_share=1e-9)


def talking(source, loss, **settings):
    return ChatData(
        source,
        **(
            {"batch_sequences": 3, "validation_split": None, "preparation": Preparation(0), "loss": loss}
            | settings
        ),
    )


LOSSES = {
    "completion": (LossOn(), [3, 4, 4 * 0.25]),
    "assistant": (LossOn("assistant"), [3, 3 + 4, 3 + 4 * 0.25]),
    "assistant at a half": (LossOn("assistant", {"assistant": 0.5}), [1.5, 3.5, 2.0]),
    "users at a tenth": (
        LossOn("all", {"user": 0.1}),
        [0.3 + 4, 0.3 + 4 + 0.3 + 5, 0.3 + 4 + 0.3 + 5 * 0.25],
    ),
}
"""What counts, and the sum of the scales of each of the three conversations; `u`, `a` and line ends are
tokens, and the very first one never counts."""


@pytest.mark.parametrize("name", LOSSES)
def test_the_loss_is_the_weighted_likelihood(name, talks):
    """Against -sum(scale * log p) / sum(scale) of the network's own log-probs."""
    loss, counts = LOSSES[name]
    data = talking(talks, loss, batch_sequences=3)
    value, _, _ = fitted(data, network=tiny(), text=TALKING)
    table = data.prepare("train").table
    assert table.counts.tolist() == pytest.approx(counts, abs=1e-6)
    whole = table.batch([0, 1, 2], 0)
    with torch.no_grad():
        logprobs = token_logprobs(build(tiny()), whole)
    expected = -float((logprobs * whole.weights).sum()) / sum(counts)
    assert value == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("weighting", [None, SequenceMean()])
def test_scaled_losses_do_not_depend_on_the_batching(weighting, talks):
    def run(k, **settings):
        data = talking(talks, LossOn("all", {"user": 0.1}), **settings)
        return fitted(data, k, weighting, text=TALKING)

    loss, gradients, _ = run(1)
    for k, settings in (
        (3, {}),
        (1, {"packed": True, "row_tokens": 32}),
        (2, {"packed": True, "row_tokens": 32}),
    ):
        other, others, _ = run(k, **settings)
        assert other == pytest.approx(loss, abs=1e-5)
        assert difference(gradients, others) < 1e-5


def test_packed_steps_of_so_many_tokens_are_those_unpacked():
    def run(**settings):
        data = numbers(batch_sequences=0, batch_tokens=40, **settings)
        return fitted(data, 2, label_smoothing=0.1)

    loss, gradients, _ = run()
    packed, others, _ = run(packed=True, row_tokens=20)
    assert packed == pytest.approx(loss, abs=1e-5)
    assert difference(gradients, others) < 1e-5


def test_validation_is_apart_from_replay_and_smoothing(tmp_path):
    def losses(source, **settings):
        data = ChatData(source, batch_sequences=4, preparation=Preparation(0))
        module = SFTModule(tiny(), TEXT, optimizer=lambda p: torch.optim.SGD(p, lr=0.0), **settings)
        fitting = trainer(max_steps=1, limit_val_batches=1.0, val_check_interval=1)
        fitting.fit(module, datamodule=data)
        return {k: float(v) for k, v in fitting.callback_metrics.items() if k.startswith("val/")}

    alone = losses(Numbers(8))
    assert losses(WithReplay(Numbers(8), Numbers(5), 0.25), label_smoothing=0.5) == pytest.approx(
        alone, abs=1e-6
    )
    both = losses(WithReplay(Numbers(8), Numbers(5), 0.25, replay_validation=True))
    assert both["val/loss"] == pytest.approx(alone["val/loss"], abs=1e-6)
    assert both["val/replay_loss"] == pytest.approx(losses(Numbers(5))["val/loss"], abs=1e-6)


CONFIG = {
    "model": {"class_path": "SFTModule", "init_args": {"network": {"config": SHAPE}, "text": LETTERS}},
    "data": {
        "class_path": "ChatData",
        "init_args": {
            "source": {"class_path": "Table", "init_args": {"path": "rows.jsonl", "held_out_share": 1e-9}},
            "validation_split": None,
        },
    },
    "trainer": {"accelerator": "cpu", "max_steps": 1, "logger": False},
}
MIXTURE = {
    "class_path": "Mixture",
    "init_args": {
        "sources": [{"class_path": "Arithmetic"}, {"class_path": "Arithmetic"}],
        "weights": [1, 0],
    },
}
USER_ONLY = "{% for m in messages %}{{ m.content }}{% generation %}{% endgeneration %}{% endfor %}"
BAD = {
    "an empty completion": ({"prompt": "1", "completion": ""}, {}, "broken"),
    "an assistant-only loss without an assistant's token": (
        {"messages": TALK},
        {"model.text.template": USER_ONLY, "data.loss.what": "assistant"},
        "the generation markers of the chat template give 0 answers for 2 assistant messages",
    ),
    "a tokenizer of another vocabulary": (
        {"prompt": "1", "completion": "2"},
        {"model.text.characters": "0123456789+=uabcdefgh"},
        "the tokenizer writes ids up to 23, the network has embeddings for 16",
    ),
    "a mixture weight of 0": ({}, {"data.source": MIXTURE}, "the weight of source 1 of a mixture is 0"),
    "both sizes of a step": ({}, {"data.batch_tokens": -1}, "either batch_sequences or batch_tokens"),
    "rows too small to pack": (
        {"prompt": "1", "completion": "2345"},
        {"data.packed": True, "data.row_tokens": 4},
        "row_tokens 4 is less than the longest sequence, of 6 tokens",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_told_in_one_message(case, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    row, settings, message = BAD[case]
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    Path("rows.jsonl").write_text(json.dumps(row) + "\n")
    Path("config.yaml").write_text(yaml.safe_dump(changed(CONFIG, settings)))
    assert main(["fit", "--config", "config.yaml"]) == 2
    told = capsys.readouterr().err
    assert told.count("lit-posttrain: error:") == 1
    assert "Traceback" not in told
    assert message in told


def changed(config, settings):
    """The config with some of its values changed, named by dotted keys without init_args."""
    config = json.loads(json.dumps(config))
    for key, value in settings.items():
        part = config
        *path, last = key.split(".")
        for name in path:
            part = part.setdefault(name, {})
            part = part.get("init_args", part)
        part[last] = value
    return config
