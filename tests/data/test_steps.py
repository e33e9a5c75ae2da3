"""Cutting a step: every sequence once, balanced, weights of the whole step."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lit_posttrain import collate
from lit_posttrain.data.steps import (
    Cut,
    balanced,
    layout,
    levelled,
    micro_batches,
    minibatch_rows,
    position_of,
    standing,
    weigh,
)
from lit_posttrain.errors import InputError
from lit_posttrain.objectives.weights import ConstantLength, PromptMean, SequenceMean, TokenMean
from lit_posttrain.ranks import Ranks


def step_of(sizes):
    rows = [[1] * n for n in sizes]
    return collate.from_lists(rows, [[i > 0 for i in range(n)] for n in sizes], pad_id=0)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=40), st.integers(1, 8))
def test_balanced_parts_hold_everything_once(sizes, parts):
    groups = balanced(sizes, parts)
    assert len(groups) == parts
    assert sorted(item for group in groups for item in group) == list(range(len(sizes)))
    if len(sizes) >= parts:
        assert all(groups)


def test_balanced_by_hand():
    assert balanced([4, 1, 1, 2], 2) == [[1, 2, 3], [0]]


@given(st.lists(st.integers(2, 9), min_size=1, max_size=12), st.integers(1, 5), st.booleans())
def test_weights_sum_to_one_over_the_micro_batches(sizes, k, packed):
    step = step_of(sizes)
    weigh(step, SequenceMean())
    batches = micro_batches(step, Cut(k, packed, 20))
    assert len(batches) == k
    assert abs(sum(float(b.weights.sum()) for b in batches) - 1) < 1e-5
    assert sum(int((b.weights > 0).sum()) for b in batches) == sum(n - 1 for n in sizes)


@given(
    st.lists(st.integers(2, 9), min_size=1, max_size=12), st.integers(1, 3), st.integers(1, 4), st.booleans()
)
def test_ranks_divide_a_step_among_them(sizes, k, count, packed):
    step = step_of(sizes)
    weigh(step, SequenceMean())
    mine = [micro_batches(step, Cut(k, packed, 20, Ranks(rank, count))) for rank in range(count)]
    assert [len(batches) for batches in mine] == [k] * count
    flat = [batch for batches in mine for batch in batches]
    assert abs(sum(float(b.weights.sum()) for b in flat) - 1) < 1e-5
    assert sum(int((b.weights > 0).sum()) for b in flat) == sum(n - 1 for n in sizes)


def test_ranks_get_neighbouring_sizes_at_the_same_time():
    plan = layout([8, 1, 7, 2], Cut(2, ranks=Ranks(0, 2)))
    assert plan == [[[[1]], [[3]]], [[[2]], [[0]]]]


@given(st.integers(0, 40), st.integers(1, 4))
def test_a_position_is_kept_in_steps(position, k):
    assert position_of(standing(position, Cut(k)), Cut(k)) == position
    whole = standing(position * k, Cut(k))
    assert position_of(whole, Cut(3)) == position * 3


def test_a_step_that_is_begun_cannot_be_cut_anew():
    with pytest.raises(InputError, match="accumulate_grad_batches 4"):
        position_of(standing(5, Cut(4)), Cut(2))


def test_more_micro_batches_than_sequences_gives_silent_ones():
    step = step_of([3])
    weigh(step, TokenMean())
    batches = micro_batches(step, Cut(3))
    assert [float(b.weights.sum()) > 0 for b in batches].count(True) == 1
    assert all(b.input_ids.shape == (1, 3) for b in batches)


def test_layout_packs_to_the_longest_by_default():
    rows = layout([5, 2, 2, 1], Cut(1, packed=True))
    assert sorted(sum(row) for row in [[[5, 2, 2, 1][i] for i in r] for r in rows[0][0]]) == [5, 5]


def test_levelled_by_hand():
    assert levelled([5, 4, 3, 3, 1], 2) == [[0, 3], [1, 2, 4]]  # 8 and 8
    assert levelled([2], 3) == [[0], [], []]


@given(
    st.lists(st.integers(1, 30), min_size=1, max_size=60),
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(30, 90),
)
def test_packed_rows_hold_everything_once_and_no_more_than_they_may(sizes, k, count, row_tokens):
    plan = layout(sizes, Cut(k, packed=True, row_tokens=row_tokens, ranks=Ranks(0, count)))
    assert [len(parts) for parts in plan] == [count] * k
    rows = [row for parts in plan for part in parts for row in part]
    assert sorted(item for row in rows for item in row) == list(range(len(sizes)))
    assert all(row and sum(sizes[i] for i in row) <= row_tokens for row in rows)
    if len(sizes) >= k * count * len(collate.bins(sizes, row_tokens)):
        held = [len(part) for parts in plan for part in parts]
        assert max(held) - min(held) <= 1


def test_hardly_a_packed_position_is_padding():
    """Best-fit alone would leave its last row nearly empty: 1,010 tokens in rows of 500."""
    sizes = [20, 30, 10, 41] * 10
    ((rows,),) = layout(sizes, Cut(1, packed=True, row_tokens=500))
    totals = [sum(sizes[i] for i in row) for row in rows]
    assert len(totals) == 3
    assert sum(totals) / (len(totals) * max(totals)) > 0.98
    best_fit = [sum(sizes[i] for i in row) for row in collate.bins(sizes, 500)]
    assert sum(best_fit) / (len(best_fit) * max(best_fit)) < 0.7


def test_where_levelled_rows_would_be_too_long_best_fit_stands():
    sizes = [6, 6, 4, 4, 4]  # levelled into two rows: 6 4 4 | 6 4
    assert levelled(sizes, 2) == [[0, 2, 4], [1, 3]]
    assert layout(sizes, Cut(1, packed=True, row_tokens=12))[0][0] == [[0, 1], [2, 3, 4]]
    assert layout(sizes, Cut(1, packed=True, row_tokens=14))[0][0] == [[0, 2, 4], [1, 3]]


@given(st.lists(st.integers(0, 6), min_size=1, max_size=30), st.integers(1, 5))
def test_groups_stay_together(group, count):
    group = torch.tensor(group)
    steps = minibatch_rows(group, count, torch.Generator().manual_seed(0))
    assert len(steps) == count
    assert sorted(row for rows in steps for row in rows) == list(range(len(group)))
    if len(group.unique()) >= count:
        owners = [{int(group[row]) for row in rows} for rows in steps]
        assert sum(map(len, owners)) == len(group.unique())


@pytest.mark.parametrize(
    ("weighting", "expected"),
    [
        (TokenMean(), [1 / 6, 0, 1 / 6, 0]),  # 2 + 4 tokens
        (SequenceMean(), [1 / 4, 0, 1 / 8, 0]),  # two sequences
        (PromptMean(), [1 / 6, 0, 1 / 6, 0]),  # one problem of 6 tokens; the other is not there
        (ConstantLength(10), [1 / 20, 0, 1 / 20, 0]),  # two sequences
    ],
)
def test_what_is_not_counted_is_in_no_denominator(weighting, expected):
    step = step_of([3, 6, 5, 2])
    mask = step.mask.clone()
    group, counted = torch.tensor([0, 0, 0, 1]), torch.tensor([True, False, True, False])
    weigh(step, weighting, group, counted)
    for row, weight in enumerate(expected):
        assert step.weights[row][mask[row]] == pytest.approx(weight, abs=1e-7)
    assert float(step.weights[~mask].abs().sum()) == 0
    assert torch.equal(step.mask, mask)
    weigh(step, weighting, group, torch.zeros(4, dtype=torch.bool))
    assert float(step.weights.abs().sum()) == 0


def test_what_is_not_counted_has_no_weight_whatever_the_weighting_says():
    step = step_of([3, 3])
    weigh(step, lambda lengths, group: torch.ones(2), None, torch.tensor([False, True]))  # type: ignore[arg-type]
    assert step.weights.tolist() == [[0, 0, 0], [0, 1, 1]]
