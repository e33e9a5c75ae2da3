"""Pairs, verdicts, groups and solutions as batches: all of a unit together, shares that sum to 1, any cut alike."""

import pytest
import torch
from unit_rows import (
    GROUPS,
    HERE,
    PAIRS,
    SOLUTIONS,
    TEXT,
    VERDICTS,
    RowsGiven,
    asked,
    loaders,
    said,
    sequences,
    steps_of,
)

from lit_posttrain.data import PreferenceData, RankedData, StepData, StepLabels, UnpairedData
from lit_posttrain.data.formats import PreferenceRow, RankedRow, StepwiseRow, UnpairedRow
from lit_posttrain.data.steps import Cut, unit_layout
from lit_posttrain.errors import InputError
from lit_posttrain.ranks import Ranks
from lit_posttrain.solution_steps import StepFormat

STEPS = StepFormat(";")
KINDS = {
    "pairs": (PreferenceData, PAIRS, {"batch_pairs": 4}),
    "verdicts": (UnpairedData, VERDICTS, {"batch_completions": 4}),
    "groups": (RankedData, GROUPS, {"batch_prompts": 4}),
    "solutions": (StepData, SOLUTIONS, {"batch_solutions": 4, "steps": STEPS}),
}
UNITS = {"pairs": "pair", "groups": "group"}


def made(kind, rows=None, **settings):
    cls, given, usual = KINDS[kind]
    return cls(
        RowsGiven(given if rows is None else tuple(rows)), text=TEXT, preparation=HERE, **(usual | settings)
    )


def first_batch(kind, rows, **settings):
    data = made(kind, rows, **settings)
    data.setup("fit")
    return next(iter(data.val_dataloader()))  # in order


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("count", "k", "packed"), [(1, 3, False), (2, 2, False), (1, 1, True), (2, 2, True), (3, 2, True)]
)
def test_any_cut_gives_the_same_sequences_and_shares(kind, count, k, packed):
    data = made(kind)
    expected = steps_of(loaders(data))
    assert steps_of(loaders(data, count, k, packed=packed)) == expected
    assert (
        sum(len(step) for step in expected)
        == {"pairs": 22, "verdicts": 22, "groups": 32, "solutions": 11}[kind]
    )


@pytest.mark.parametrize("kind", UNITS)
@pytest.mark.parametrize("packed", [False, True])
def test_a_unit_stands_in_one_micro_batch(kind, packed):
    for loader in loaders(made(kind), 3, 2, packed=packed):
        for batch in loader:
            unit = getattr(batch, UNITS[kind])
            assert sorted(set(unit.tolist())) == list(range(int(unit.max()) + 1))
            prompts = {}
            for number, one in zip(unit.tolist(), sequences(batch), strict=True):
                prompts.setdefault(number, set()).add(TEXT.decode(one["ids"]).split("=")[0])
            assert all(
                len(p) == 1 for p in prompts.values()
            )  # all of a unit, and nothing else, has its prompt
            assert len({next(iter(p)) for p in prompts.values()}) == len(prompts)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("packed", [False, True])
def test_weights_and_shares_of_a_step_sum_to_one(kind, packed):
    ranks = [list(loader) for loader in loaders(made(kind), 2, 3, packed=packed)]
    for first in range(0, len(ranks[0]), 3):
        step = [b for batches in ranks for b in batches[first : first + 3]]
        assert sum(float(b.weights.sum()) for b in step) == pytest.approx(1, abs=1e-6)
        if kind == "pairs":
            assert sum(float(b.share[b.chosen].sum()) for b in step) == pytest.approx(1, abs=1e-6)
        elif kind != "solutions":
            assert sum(float(b.share.sum()) for b in step) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_going_on_gives_the_rest(kind):
    def ids(batches):
        return [b.input_ids.tolist() for b in batches]

    def loader():
        return loaders(made(kind), 1, 2)[0]

    whole = loader()
    everything = ids(whole) + ids(whole)
    for stop in (1, 2, 5, 6, 7):
        source = loader()
        iterator = iter(source)
        for _ in range(stop):
            try:
                next(iterator)
            except StopIteration:
                iterator = iter(source)
                next(iterator)
        resumed = loader()
        resumed.load_state_dict(source.state_dict())
        rest = ids(resumed)
        while len(rest) + stop < len(everything):
            rest += ids(resumed)
        assert rest == everything[stop:]


def test_order_is_of_the_seed_and_the_epoch():
    one, two, other = (loaders(made("pairs", seed=seed))[0] for seed in (1, 1, 2))
    first, second = [[b.input_ids.tolist() for b in one] for _ in range(2)]
    assert first != second
    assert [b.input_ids.tolist() for b in two] == first
    assert [b.input_ids.tolist() for b in other] != first
    assert len(one) == len(first) == 3


def test_a_rank_without_a_unit_passes_one_of_weight_zero():
    for kind in KINDS:
        settings = {"mismatched": False} if kind == "verdicts" else {}
        data = made(kind, KINDS[kind][1][:1], **settings)
        [alone], [other] = (list(loader) for loader in loaders(data, 2))
        live, silent = sorted((alone, other), key=lambda b: -float(b.weights.sum()))
        assert silent.weights.sum() == 0
        assert live.weights.sum() == pytest.approx(1)
        if kind != "solutions":
            assert silent.share.sum() == 0


def test_what_keeps_step_is_no_estimate_of_a_kl():
    data = made("verdicts", [UnpairedRow(asked(p), said("1"), True) for p in ("1=", "2=")])
    batches = [batch for loader in loaders(data, 3) for batch in loader]
    assert sum(int(batch.mismatched.sum()) for batch in batches) == 2
    assert sorted(batch.sequences for batch in batches) == [2, 2, 2]


def test_pairs_by_hand():
    rows = [
        PreferenceRow(asked("1+1="), said("2"), said("33"), margin=0.5),
        PreferenceRow(asked("2+2="), said("444"), said("5")),
    ]
    batch = first_batch("pairs", rows)
    assert [TEXT.decode(ids.tolist()).rstrip("<pad>eos") for ids in batch.input_ids[:2]] == [
        "1+1=2",
        "1+1=33",
    ]
    assert batch.pair.tolist() == [0, 0, 1, 1]
    assert batch.chosen.tolist() == [True, False, True, False]
    assert batch.margin.tolist() == [0.5, 0.5, 0, 0]
    assert batch.share.tolist() == [0.5] * 4
    # pair 0: 2 + 3 tokens with the end tokens share 1/2; pair 1: 4 + 2
    assert batch.weights[0, 4:6].tolist() == pytest.approx([0.1, 0.1])
    assert batch.weights[1, 4:7].tolist() == pytest.approx([0.1] * 3)
    assert batch.weights[2, 4:8].tolist() == pytest.approx([1 / 12] * 4)
    assert batch.mask.sum(dim=1).tolist() == [2, 3, 4, 2]
    chosen, rejected = batch.sides()
    assert (chosen.tolist(), rejected.tolist()) == ([0, 2], [1, 3])


def test_pairs_count_by_their_weight():
    rows = [
        PreferenceRow(asked("1+1="), said("2"), said("33"), margin=0.5, weight=3.0),
        PreferenceRow(asked("2+2="), said("444"), said("5"), margin=0.25),
    ]
    batch = first_batch("pairs", rows)
    assert batch.share.tolist() == [0.75, 0.75, 0.25, 0.25]
    assert batch.margin.tolist() == [0.5, 0.5, 0.25, 0.25]
    assert float(batch.weights.sum()) == pytest.approx(1)
    assert batch.weights[0, 4:6].tolist() == pytest.approx([0.15, 0.15])


def test_answers_of_several_turns_count_the_assistant_alone():
    turns = [*said("2"), *asked("3+3="), *said("66")]
    batch = first_batch("pairs", [PreferenceRow(asked("1+1="), turns, said("7"))])
    counted = [TEXT.decode([int(i)]) for i in batch.input_ids[0][batch.mask[0]]]
    assert counted == ["2", "", "6", "6", ""]  # each with its end token
    assert batch.mask[0].tolist() == [False] * 4 + [True] * 2 + [False] * 4 + [True] * 3


def test_verdicts_by_hand():
    rows = [
        UnpairedRow(asked("1="), said("1"), True),
        UnpairedRow(asked("1="), said("22"), False),
        UnpairedRow(asked("5+5="), said("333"), True),
    ]
    batch = first_batch("verdicts", rows)
    texts = [
        TEXT.decode(ids[segment > 0].tolist())
        for ids, segment in zip(batch.input_ids, batch.segments, strict=True)
    ]
    # both rows of the first prompt take the one completion of the next prompt; it takes the first one's
    assert texts == ["1=1", "1=333", "1=22", "1=333", "5+5=333", "5+5=1"]
    assert batch.mismatched.tolist() == [False, True] * 3
    assert batch.desirable[::2].tolist() == [True, False, True]
    assert batch.share.tolist() == pytest.approx([1 / 3, 0] * 3)
    assert batch.weights.sum(dim=1).tolist() == pytest.approx([1 / 3, 0] * 3)
    assert batch.mask.sum(dim=1).tolist() == [2, 4, 3, 4, 4, 2]


def test_mismatched_completions_of_prompts_in_turn_and_cut_to_the_longest():
    rows = [
        UnpairedRow(asked(p), said(c), True)
        for p, c in [("1=", "1"), ("2=", "2222"), ("2=", "3"), ("4+4+4=", "5")]
    ]
    data = made("verdicts", rows)
    data.setup("fit")
    units = data.units(data.prepare("train"))
    texts = [TEXT.decode(units.unit(row)[1].ids.tolist()) for row in range(4)]
    assert texts == ["1=2222", "2=5", "2=5", "4+4+4=1"]
    assert units.lengths.tolist() == [sum(map(len, units.unit(row))) for row in range(4)]
    assert units.longest == 8
    long = made("verdicts", [rows[3], rows[1]])
    cut = long.units(long.prepare("train"))
    assert TEXT.decode(cut.unit(0)[1].ids.tolist()) == "4+4+4=22"  # 8 tokens, as many as the longest sequence
    assert cut.lengths.tolist() == [sum(map(len, cut.unit(row))) for row in range(2)]


def test_the_last_rows_of_the_first_prompt_belong_to_it():
    """Rows of one prompt at the end and the beginning are neighbours: neither is the other's mismatch."""
    rows = [
        UnpairedRow(asked(p), said(c), True) for p, c in [("1=", "2"), ("3=", "4"), ("5=", "6"), ("1=", "7")]
    ]
    data = made("verdicts", rows)
    units = data.units(data.prepare("train"))
    assert [TEXT.decode(units.unit(row)[1].ids.tolist()) for row in range(4)] == ["1=4", "3=6", "5=7", "1=4"]


def test_verdicts_of_pairs_and_without_mismatched():
    batch = first_batch("verdicts", PAIRS[:2], mismatched=False)
    assert batch.desirable.tolist() == [True, False, True, False]
    assert not batch.mismatched.any()
    assert batch.share.tolist() == [0.25] * 4


def test_one_prompt_alone_has_no_mismatch():
    with pytest.raises(InputError, match="all completions belong to one prompt"):
        first_batch("verdicts", [UnpairedRow(asked("1="), said(c), True) for c in "12"])


def test_groups_by_hand():
    """The smaller group comes first."""
    rows = [
        RankedRow(asked("1="), [said("1"), said("2"), said("3")], [2.0, 0.0, 1.0]),
        RankedRow(asked("2="), [said("44"), said("5")], [-1.0, 1.0]),
    ]
    batch = first_batch("groups", rows)
    assert batch.group.tolist() == [0, 0, 1, 1, 1]
    assert batch.target.tolist() == [-1, 1, 2, 0, 1]
    assert batch.share.tolist() == pytest.approx([1 / 4] * 2 + [1 / 6] * 3)
    assert batch.weights[0].sum() == pytest.approx(0.25)
    assert batch.weights[0, 2] == pytest.approx(0.25 / 3)


def test_solutions_by_hand():
    """The shorter solution comes first."""
    rows = [
        StepwiseRow(asked("1="), ["1", "22", "3"], [1.0, None, 0.25]),
        StepwiseRow(asked("2="), ["4"], [0.5]),
    ]
    batch = first_batch("solutions", rows)
    assert TEXT.decode(batch.input_ids[1].tolist()) == "1=1;22;3;"
    assert batch.step_ends[1].nonzero().squeeze(-1).tolist() == [3, 6, 8]
    assert batch.mask[1].nonzero().squeeze(-1).tolist() == [3, 8]
    assert batch.step_labels[1, [3, 6, 8]].tolist() == [1, 0, 0.25]
    assert batch.step_labels[0, 3] == 0.5
    assert batch.weights[1, [3, 6, 8]].tolist() == pytest.approx([1 / 3, 0, 1 / 3])
    assert batch.weights.sum() == pytest.approx(1)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [1.0, None, 0.25, 1.0]),
        ({"kind": "hard"}, [1.0, None, 1.0, 1.0]),
        ({"kind": "hard", "hard_above": 0.5}, [1.0, None, 0.0, 1.0]),
        ({"until_first_error": True}, [1.0, None, 0.25, None]),
        ({"kind": "hard", "until_first_error": True}, [1.0, None, 1.0, 1.0]),
        ({"kind": "hard", "hard_above": 0.5, "until_first_error": True}, [1.0, None, 0.0, None]),
    ],
)
def test_what_labels_come_to_mean(settings, expected):
    labels = StepLabels(**settings)([1.0, None, 0.25, 1.0])
    assert [None if label != label else label for label in labels] == expected


def test_a_whole_solution_is_cut_into_as_many_steps_as_labels():
    batch = first_batch("solutions", [StepwiseRow(asked("1="), ["1;22"], [1.0, 0.0])])
    assert TEXT.decode(batch.input_ids[0].tolist()) == "1=1;22;"
    assert batch.step_labels[0, [3, 6]].tolist() == [1, 0]


@pytest.mark.parametrize(
    ("kind", "row", "message"),
    [
        (
            "pairs",
            PreferenceRow(asked("1="), said("1"), said("1")),
            "row 0 of 'train': chosen and rejected are the same",
        ),
        ("pairs", PreferenceRow(asked("1="), said(""), said("1")), "row 0 of 'train': chosen is empty"),
        ("pairs", PreferenceRow(asked("1="), said("1"), []), "rejected is empty"),
        ("pairs", PreferenceRow(asked("1="), [{**said("1")[0], "weight": 0.5}], said("2")), "have weights"),
        (
            "pairs",
            VERDICTS[0],
            "PreferenceData learns from rows of the type PreferenceRow, but this is a UnpairedRow",
        ),
        ("solutions", StepwiseRow(asked("1="), ["1", "2"], [1.0]), "2 steps, but 1 labels"),
        ("solutions", StepwiseRow(asked("1="), ["12"], [1.0, 0.0]), "no step separator ';' was found"),
        ("solutions", StepwiseRow(asked("1="), ["12"], [None]), "one at least known"),
        ("solutions", StepwiseRow(asked("1="), ["12"], [1.5]), r"labels must be in \[0, 1\]"),
        ("verdicts", UnpairedRow(asked("1="), said(" "), True), "completion is empty"),
        ("groups", RankedRow(asked("1="), [said("1"), said("")], [1.0, 0.0]), "completion 1 is empty"),
    ],
)
def test_rows_that_cannot_be_learned(kind, row, message):
    with pytest.raises(InputError, match=message):
        made(kind, [row]).setup("fit")


def test_sources_and_settings_that_do_not_fit():
    from fakes import Numbers

    from lit_posttrain.data.sources.mixture import WithReplay

    with pytest.raises(InputError, match="Numbers has no rows of preferences"):
        PreferenceData(Numbers(), text=TEXT, preparation=HERE).setup("fit")
    with pytest.raises(InputError, match="neither replays nor streams"):
        PreferenceData(WithReplay(RowsGiven(PAIRS), RowsGiven(PAIRS)), text=TEXT)
    with pytest.raises(InputError, match="row_tokens 5 is less than the longest sequence"):
        made("pairs", packed=True, row_tokens=5).setup("fit")
    with pytest.raises(InputError, match="has no tokenizer"):
        PreferenceData(RowsGiven(PAIRS), preparation=HERE).setup("fit")
    with pytest.raises(InputError, match="labels are soft or hard"):
        StepLabels("firm")  # type: ignore[arg-type]


def test_units_in_parts_by_hand():
    """Units of 8, 4, 8 and 2 tokens: the three smallest make 14 of 22, as the share of 11 falls into the third."""
    units = [[5, 3], [2, 2], [4, 4], [1, 1]]  # sequences 0 1 | 2 3 | 4 5 | 6 7
    assert unit_layout(units, Cut(2)) == [[[[6], [7], [2], [3], [0], [1]]], [[[4], [5]]]]
    packed = unit_layout(units, Cut(1, packed=True, row_tokens=8, ranks=Ranks(0, 2)))
    [[left, right]] = packed
    assert sorted(n for row in left for n in row) == [0, 1, 2, 3, 6, 7]
    assert right in ([[4, 5]], [[5, 4]])
    sizes = [size for unit in units for size in unit]
    assert [sum(sizes[n] for n in row) for row in left] == [7, 7]  # two rows at least, of equal length
    assert unit_layout([[3], [1], [2]], Cut(1)) == [[[[1], [2], [0]]]]


def test_before_step_hears_of_all_micro_batches_first():
    heard = []

    def listen(batches):
        heard.append([b.input_ids.tolist() for b in batches])

    data = made("verdicts")
    [loader] = loaders(data, 1, 2)
    loader.before_step = listen
    given = [b.input_ids.tolist() for b in loader]
    assert [batch for step in heard for batch in step] == given
    assert len(heard) == 3


def test_margins_are_kept_in_float32_and_batches_move():
    batch = first_batch("pairs", PAIRS)
    assert batch.margin.dtype == torch.float32
    assert batch.share.dtype == torch.float32
    assert type(batch.to("cpu")) is type(batch)
