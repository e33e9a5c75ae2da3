"""The parts of the benchmark: baselines, standard errors, held-out pairs in their order, splits by first question."""

import gzip
import json
import math
from pathlib import Path

import pytest
import torch

from lit_posttrain.data.formats import PreferenceRow
from lit_posttrain.text import TextConfig, load_text

TOOLS = Path(__file__).parents[2] / "tools"


@pytest.fixture(autouse=True)
def _tools(monkeypatch):
    monkeypatch.syspath_prepend(str(TOOLS))


def row(chosen, rejected, asked="hi"):
    said = [[{"role": "assistant", "content": text}] for text in (chosen, rejected)]
    return PreferenceRow([{"role": "user", "content": asked}], *said)


def test_accuracy_and_error_by_hand():
    """The residuals .375, -.625 | .375 | -.125 have the group sums -.25, .375 and -.125."""
    from preferences.figures import difference, hits, mean_of

    assert hits(torch.tensor([2.0, -1.0, 0.5, 0.0])).tolist() == [1, 0, 1, 0.5]
    found = mean_of(torch.tensor([1, 0, 1, 0.5]).double(), ["a", "a", "b", "c"])
    assert found.value == 0.625
    assert found.error == pytest.approx(math.sqrt(1.5 * 0.21875) / 4, abs=1e-9)
    assert f"{found:+}" == "+0.625 ± 0.143"
    apart = difference(torch.tensor([1.0, 1.0]), torch.tensor([-1.0, 1.0]), ["a", "b"])
    assert (apart.value, apart.error) == (0.5, pytest.approx(0.5))


def test_longer_reply():
    from preferences.baselines import longer_reply

    assert longer_reply([row("abc", "a"), row("a", "bb"), row("ab", "cd")]).tolist() == [2, -1, 0]


def test_bag_of_words_is_at_the_minimum():
    """Each of 3 of 4 pairs says "yes" on the better side only, so mean(s * sigmoid(-s g w)) g = penalty * w."""
    from preferences.baselines import BagOfWords

    rows = [row("Yes", ".")] * 3 + [row(".", "yes")]
    fit = BagOfWords.fitted(rows, penalty=0.1, least=1)
    assert sorted(fit.places) == [".", "yes"]
    w, dot, gap = float(fit.weights[fit.places["yes"]]), float(fit.weights[fit.places["."]]), math.log(2)
    assert dot == pytest.approx(-w, abs=1e-6)
    margin = gap * (w - dot)
    slope = gap * (0.75 / (1 + math.exp(margin)) - 0.25 / (1 + math.exp(-margin)))
    assert slope == pytest.approx(0.1 * w, abs=1e-6)
    assert w > 0.05
    assert fit.margins([row("yes yes", "yes")]).item() == pytest.approx((math.log(3) - gap) * w, abs=1e-6)


def test_held_out_margins_stay_in_order_and_cut_sides_tie():
    from preferences.held_out import HeldOut

    text = load_text(TextConfig(characters="abcdefghi "))
    rows = [row("a" * n, "b") for n in range(8, 0, -1)] + [row("c" * 30, "c" * 40)]
    held = HeldOut.of(rows, text, 20)
    assert held.units[-1] is None
    margins = held.margins(lambda batch: batch.mask.sum(dim=1).float())
    assert margins.tolist() == [7, 6, 5, 4, 3, 2, 1, 0, 0]


def test_dialogues_that_begin_alike_stand_together(tmp_path):
    from preferences.real_data import HELPFUL, first_question, helpful

    (tmp_path / "hh_rlhf").mkdir()
    for number, name in enumerate(HELPFUL):
        lines = []
        for i in range(60):
            begin = f"\n\nHuman: question {i}\n\nAssistant: so {number}\n\nHuman: and?\n\nAssistant: "
            lines.append(json.dumps({"chosen": begin + "yes", "rejected": begin + "no"}))
        with gzip.open(tmp_path / "hh_rlhf" / f"{name}.jsonl.gz", "wt") as file:
            file.write("\n".join(lines))
    table = helpful(tmp_path, tmp_path / "split")
    splits = [[first_question(one) for one in table.rows(name)] for name in ("train", "validation", "test")]
    assert sum(map(len, splits)) == 180
    assert not set(splits[0]) & set(splits[1]) | set(splits[0]) & set(splits[2])
    assert all(len(split) == 3 * len(set(split)) for split in splits)
