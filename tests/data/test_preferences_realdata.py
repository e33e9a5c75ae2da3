"""Real preferences and real steps load with what their files hold; the counts were made by hand on the JSON lines."""

from collections import Counter

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from lit_posttrain.data import PreferenceData, StepData
from lit_posttrain.data.preparation import Preparation
from lit_posttrain.data.quarantine import QuarantineSettings
from lit_posttrain.data.sources import Table
from lit_posttrain.solution_steps import StepFormat
from lit_posttrain.text import ChatText

pytestmark = pytest.mark.realdata
HELPFUL = ("helpful-base", "helpful-online", "helpful-rejection-sampled")


@pytest.fixture(scope="module")
def text(request):
    file = request.config.getoption("--realdata") / "gpt2-tokenizer" / "tokenizer.json"
    return ChatText(PreTrainedTokenizerFast(tokenizer_file=str(file), eos_token="<|endoftext|>"), "plain")


@pytest.fixture
def table(realdata, tmp_path):
    def made(file, bad=0.01, **settings):
        return Table(
            str(realdata / file), quarantine=QuarantineSettings(bad, folder=str(tmp_path)), **settings
        )

    return made


def all_rows(source):
    return [row for split in ("train", "validation", "test") for row in source.rows(split)]


@pytest.mark.parametrize(
    ("name", "solutions", "steps", "right", "first_errors"),
    [
        ("gsm8k", 281, 1483, 134, 264),
        ("math", 806, 5225, 324, 1086),
        ("olympiadbench", 881, 7782, 297, 1958),
        ("omnimath", 894, 7444, 212, 2044),
    ],
)
def test_processbench(table, name, solutions, steps, right, first_errors):
    """`first_errors` is the sum of the numbers of the first wrong steps."""
    rows = all_rows(table(f"processbench/{name}.jsonl.gz", layout="processbench"))
    assert len(rows) == solutions
    assert sum(len(row.steps) for row in rows) == steps
    wrong = [row for row in rows if 0.0 in row.labels]
    assert len(rows) - len(wrong) == right
    assert sum(row.labels.index(0.0) for row in wrong) == first_errors


def test_prm800k(table):
    rows = all_rows(table("prm800k_val/steps.jsonl.gz", layout="prm800k", neutral=0.5))
    assert len(rows) == 1100
    assert Counter(label for row in rows for label in row.labels) == {1.0: 6334, 0.5: 496, 0.0: 897}
    assert all(row.labels.index(0.0) == len(row.labels) - 1 for row in rows if 0.0 in row.labels)


def test_original_rows(table):
    def rows_of(name):
        return table(f"prm_format_samples/{name}.jsonl.gz", layout=name, held_out_share=1e-6).rows("train")

    rows = rows_of("prm800k")
    assert sorted(len(row.steps) for row in rows) == [5, 6, 7, 7, 8, 12]
    assert sum(label is None for row in rows for label in row.labels) == 2  # steps that a human wrote
    assert sum(label == 0 for row in rows for label in row.labels) == 1
    rows = rows_of("math_shepherd")
    assert (len(rows), sum(len(row.steps) for row in rows)) == (7, 25)
    rows = rows_of("math_aps")
    assert sorted(len(row.targets) for row in rows) == [12, 41, 89]  # the question alone is no solution


def test_steps_of_prm800k_as_tokens(table, text):
    source = table("prm800k_val/steps.jsonl.gz", layout="prm800k")
    data = StepData(source, 64, StepFormat("\n\n"), text=text, packed=True, preparation=Preparation(2))
    counts, solutions = Counter(), 0
    data.setup("fit")
    for batch in [*data.train_dataloader(), *data.val_dataloader()]:
        counts += Counter(batch.step_labels[batch.mask].tolist())
        solutions += batch.sequences
        assert batch.weights.sum() == pytest.approx(1, abs=1e-4)
        ends = batch.input_ids[batch.step_ends]
        assert {text.decode([int(i)])[-1:] for i in ends[:50]} == {"\n"}
    held = list(source.rows("test"))
    assert solutions == 1100 - len(held)
    of_test = Counter(label for row in held for label in row.labels)
    assert counts == {1.0: 6830 - of_test[1.0], 0.0: 897 - of_test[0.0]}


@pytest.mark.parametrize("name", HELPFUL)
def test_dialogues_split_by_prompt(table, name):
    source = table(f"hh_rlhf/{name}.jsonl.gz", bad=0.02, layout="hh_rlhf", held_out_share=0.2)
    splits = [{str(row.prompt) for row in source.rows(split)} for split in ("train", "validation", "test")]
    assert not splits[0] & splits[1]
    assert not splits[0] & splits[2]
    rows = all_rows(source)
    lines = {"helpful-base": 2229, "helpful-online": 1032, "helpful-rejection-sampled": 2638}[name]
    assert 0.98 * lines < len(rows) < lines
    for row in rows:
        assert [message["role"] for message in row.chosen] == ["assistant"]
        assert row.chosen != row.rejected


def test_dialogues_and_polite_answers_as_tokens(table, text):
    source = table("hh_rlhf/helpful-base.jsonl.gz", layout="hh_rlhf", held_out_share=0.2)
    data = PreferenceData(source, 32, 256, "cut_both", packed=True, text=text, preparation=Preparation(2))
    pairs = 0
    for batch in data.train_dataloader():
        assert torch.bincount(batch.segments.flatten())[1:].max() <= 256
        assert batch.share[batch.chosen].sum() == pytest.approx(1, abs=1e-5)
        pairs += int(batch.chosen.sum())
    assert pairs == len(source.rows("train"))
    columns = {"prompt": "instruction"}
    polite = table("rasbt_instruct/preference_data.jsonl.gz", layout="preference", columns=columns)
    assert len(all_rows(polite)) == 992 - 6  # six are the same on both sides
    data = PreferenceData(polite, 32, text=text, preparation=Preparation(0))
    assert sum(int(b.chosen.sum()) for b in data.train_dataloader()) == len(polite.rows("train"))
