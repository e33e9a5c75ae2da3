"""Units that are too long: what is kept of them, worked by hand; and units in tables and caches."""

import numpy as np
import pytest
from unit_rows import HERE, PAIRS, SOLUTIONS, TEXT, RowsGiven, asked, said

from lit_posttrain.data import PreferenceData, StepData
from lit_posttrain.data.formats import PreferenceRow, StepwiseRow
from lit_posttrain.data.preparation import Preparation
from lit_posttrain.data.unit_limit import UnitLimit
from lit_posttrain.data.units import Member, UnitTable
from lit_posttrain.errors import InputError
from lit_posttrain.solution_steps import StepFormat


def member(prompt, completion, value=0.0):
    return Member.of(prompt + completion, [False] * len(prompt) + [True] * len(completion), value)


PROMPT = [1, 2, 3, 4, 5, 6]
PAIR = [member(PROMPT, [10, 11, 12, 13], 0.5), member(PROMPT, [20, 21], 0.5)]


@pytest.mark.parametrize(
    ("policy", "limit", "expected"),
    [
        ("error", 7, [[*PROMPT, 10, 11, 12, 13], [*PROMPT, 20, 21]]),  # kept until all rows are judged
        ("skip", 7, None),
        ("skip", 10, [[*PROMPT, 10, 11, 12, 13], [*PROMPT, 20, 21]]),
        ("cut_prompt", 7, [[4, 5, 6, 10, 11, 12, 13], [4, 5, 6, 20, 21]]),  # the same prompt on both sides
        ("cut_prompt", 5, [[6, 10, 11, 12, 13], [6, 20, 21]]),
        ("cut_prompt", 4, None),  # nothing of the prompt would be left
        ("cut_completion", 8, [[*PROMPT, 10, 11], [*PROMPT, 20, 21]]),
        ("cut_completion", 7, [[*PROMPT, 10], [*PROMPT, 20]]),
        ("cut_completion", 6, None),
        ("cut_both", 6, [[4, 5, 6, 10, 11, 12], [4, 5, 6, 20, 21]]),  # half of 6 is the prompt's
        ("cut_both", 4, [[5, 6, 10, 11], [5, 6, 20, 21]]),
    ],
)
def test_what_is_kept_of_a_pair(policy, limit, expected):
    unit = UnitLimit(limit, policy).fitted_unit(PAIR)
    assert (None if unit is None else [m.ids.tolist() for m in unit]) == expected
    if unit is not None:
        assert [m.value for m in unit] == [0.5, 0.5]
        assert all(not m.mask[: m.prompt_tokens].any() and m.mask[m.prompt_tokens :].all() for m in unit)


def test_a_bos_stays_at_the_beginning():
    [chosen, rejected] = UnitLimit(7, "cut_prompt", bos=1).fitted_unit(PAIR) or [None, None]
    assert chosen is not None
    assert rejected is not None
    assert chosen.ids.tolist() == [1, 5, 6, 10, 11, 12, 13]
    assert rejected.ids.tolist() == [1, 5, 6, 20, 21]
    assert chosen.value == 0.5


def test_sides_that_are_the_same_once_cut_are_left_out():
    pair = [member(PROMPT, [7, 8, 9]), member(PROMPT, [7, 8, 8])]
    assert UnitLimit(8, "cut_completion").fitted_unit(pair) is None
    assert UnitLimit(9, "cut_completion").fitted_unit(pair) is pair


def test_steps_that_are_cut_away_have_no_label():
    whole = Member.of(
        [1, 2, 3, 4, 5, 6], [False] * 3 + [True, False, True], labels=[np.nan, 1.0], prompt_tokens=2
    )
    assert UnitLimit(4, "cut_completion").fitted_unit([whole]) is None  # its one known label is gone
    cut = UnitLimit(5, "cut_prompt").fitted_unit([whole])
    assert cut is not None
    assert cut[0].ids.tolist() == [2, 3, 4, 5, 6]
    assert cut[0].labels == 1


def long_pairs():
    return (*PAIRS, PreferenceRow(asked("0123456789+1="), said("1"), said("2")))


def test_policies_in_the_report(capsys):
    data = PreferenceData(
        RowsGiven(long_pairs()), max_tokens=12, too_long="skip", text=TEXT, preparation=HERE
    )
    assert len(data.prepare("train").table) == 11
    assert "train: 12 rows, 11 kept" in capsys.readouterr().out
    with pytest.raises(InputError, match=r"1 of 12 rows .* set too_long to 'skip' or 'cut_prompt' or"):
        PreferenceData(RowsGiven(long_pairs()), max_tokens=12, text=TEXT, preparation=HERE).prepare("train")
    with pytest.raises(InputError, match="no policy 'cut'"):
        PreferenceData(RowsGiven(PAIRS), too_long="cut", text=TEXT).prepare("train")  # type: ignore[arg-type]
    short = PreferenceData(
        RowsGiven(PAIRS), max_tokens=2, too_long="cut_completion", text=TEXT, preparation=HERE
    )
    with pytest.raises(InputError, match="leaves nothing of the split 'train'; raise max_tokens"):
        short.prepare("train")


def same(one, two):
    for left, right in zip(one, two, strict=True):
        assert left.ids.tolist() == right.ids.tolist()
        assert left.mask.tolist() == right.mask.tolist()
        assert np.array_equal(left.values, right.values, equal_nan=True)


@pytest.mark.parametrize("kind", [PreferenceData, StepData])
@pytest.mark.parametrize("workers", [0, 2])
def test_units_in_a_cache_are_those_in_memory(kind, workers, tmp_path, monkeypatch, capsys):
    from lit_posttrain.data import tokenising

    monkeypatch.setattr(tokenising, "CHUNK_ROWS", 3)
    rows = RowsGiven(PAIRS if kind is PreferenceData else SOLUTIONS)
    steps = {"steps": StepFormat(";")} if kind is StepData else {}

    def table(preparation):
        return UnitTable(kind(rows, text=TEXT, preparation=preparation, **steps).prepare("train").table)

    plain, made = table(HERE), table(Preparation(workers, str(tmp_path)))
    found = table(Preparation(0, str(tmp_path)))
    assert "tokens from the cache" in capsys.readouterr().out
    assert plain.digest == made.digest == found.digest
    assert plain.longest == found.longest
    for row in range(len(plain)):
        same(plain.unit(row), found.unit(row))
        same(plain.unit(row), made.unit(row))


def test_settings_change_what_is_in_the_cache(tmp_path, capsys):
    kept = Preparation(0, str(tmp_path))

    def digest(separator, rows=SOLUTIONS):
        data = StepData(RowsGiven(rows), steps=StepFormat(separator), text=TEXT, preparation=kept)
        return data.prepare("train").table.digest

    first = digest(";")
    assert digest("=") != first
    assert digest(";", (*SOLUTIONS[:-1], StepwiseRow(asked("9="), ["9"], [0.5]))) != first
    assert "tokens from the cache" not in capsys.readouterr().out
    assert digest(";") == first


def test_labels_and_values_change_the_digest():
    def digest(label, margin):
        solutions = StepData(
            RowsGiven((StepwiseRow(asked("1="), ["1"], [label]),)),
            steps=StepFormat(";"),
            text=TEXT,
            preparation=HERE,
        )
        pairs = PreferenceData(
            RowsGiven((PreferenceRow(asked("1="), said("1"), said("2"), margin),)),
            text=TEXT,
            preparation=HERE,
        )
        return solutions.prepare("train").table.digest, pairs.prepare("train").table.digest

    [one, other], [third, fourth] = digest(1.0, 1.0), digest(0.0, 2.0)
    assert one != third
    assert other != fourth
