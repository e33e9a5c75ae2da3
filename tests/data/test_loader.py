"""The loader of supervised training: once and only once, and exact after a stop."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lit_posttrain.data.loader import TokenLoader
from lit_posttrain.data.order import EpochOrder, Portion, StepSize
from lit_posttrain.data.replay import ReplayOrder, StepShares
from lit_posttrain.data.steps import Cut
from lit_posttrain.data.token_table import JoinedTable, TokenTable
from lit_posttrain.errors import InputError
from lit_posttrain.objectives.weights import SequenceMean, TokenMean
from lit_posttrain.ranks import Ranks


def loader(**options):
    rows = [[i + 1] * (2 + i % 3) for i in range(10)]
    table = TokenTable.of(rows, [[j > 0 for j in range(len(r))] for r in rows])
    size = StepSize(options.pop("batch_sequences", 4))
    order = {"seed": 5, "shuffle": True}
    order |= {name: options.pop(name) for name in [*options] if name in order}
    settings = {"cut": Cut(2), "weighting": TokenMean(), "pad_id": 0}
    return TokenLoader(table, EpochOrder(table.lengths, size, **order), **(settings | options))


def test_every_sequence_once_an_epoch_and_exact_length():
    one = loader()
    batches = list(one)
    assert len(batches) == len(one) == 6
    seen = [int(row[0]) for batch in batches for row in batch.input_ids if batch.weights.sum() > 0]
    assert sorted(set(seen)) == list(range(1, 11))


def test_epochs_differ_and_repeat_with_the_seed():
    one, two = loader(), loader()
    first, second = [b.input_ids.tolist() for b in one], [b.input_ids.tolist() for b in one]
    assert first != second
    assert [b.input_ids.tolist() for b in two] == first
    assert [b.input_ids.tolist() for b in two] == second
    assert [b.input_ids.tolist() for b in loader(seed=6)] != first


def test_going_on_from_any_position_gives_the_rest():
    whole = loader()
    everything = [b.input_ids.tolist() for b in whole] + [b.input_ids.tolist() for b in whole]
    for stop in range(1, 12):
        source = loader()
        iterator, done = iter(source), 0
        while done < stop:
            try:
                next(iterator)
                done += 1
            except StopIteration:
                iterator = iter(source)
        resumed = loader()
        resumed.load_state_dict(source.state_dict())
        rest = [b.input_ids.tolist() for b in resumed]
        while len(rest) + stop < len(everything):
            rest += [b.input_ids.tolist() for b in resumed]
        assert rest == everything[stop:]


def test_fixed_order():
    flat = [int(b.input_ids[0, 0]) for b in loader(shuffle=False, cut=Cut(1), batch_sequences=1)]
    assert flat == list(range(1, 11))
    assert torch.is_tensor(next(iter(loader())).weights)


def test_ranks_and_micro_batches_do_not_change_what_a_step_holds():
    """The sequences of each step and the sum of their weights, over all ranks, are those of one process."""

    def steps(count, k):
        shares = [list(loader(cut=Cut(k, ranks=Ranks(rank, count)))) for rank in range(count)]
        assert len({len(share) for share in shares}) == 1
        held = []
        for first in range(0, len(shares[0]), k):
            live = [b for share in shares for b in share[first : first + k] if b.weights.sum() > 0]
            rows = sorted(int(row[0]) for b in live for row in b.input_ids)
            held.append((rows, round(sum(float(b.weights.sum()) for b in live), 5)))
        return held

    assert steps(1, 1) == steps(2, 1) == steps(3, 2) == steps(1, 5)
    assert all(total == 1 for _, total in steps(3, 2))


def test_going_on_with_other_ranks_and_micro_batches():
    source = loader()
    iterator = iter(source)
    for _ in range(4):  # two steps of two micro-batches
        next(iterator)
    resumed = loader(cut=Cut(1, ranks=Ranks(0, 2)))
    resumed.load_state_dict(source.state_dict())
    other = loader(cut=Cut(1, ranks=Ranks(1, 2)))
    other.load_state_dict(source.state_dict())
    rest = [
        int(row[0]) for one in (resumed, other) for b in one if b.weights.sum() > 0 for row in b.input_ids
    ]
    assert sorted(rest) == sorted((loader().order.rows(0)[8:] + 1).tolist())


LENGTHS = st.lists(st.integers(2, 30), min_size=1, max_size=80).map(np.array)


@given(LENGTHS, st.integers(30, 200), st.integers(0, 3))
def test_steps_of_so_many_tokens_hold_every_sequence_once(lengths, tokens, epoch):
    order = EpochOrder(lengths, StepSize(tokens=tokens), seed=1)
    steps = order.epoch(epoch)
    assert len(steps) == order.steps == max(1, -(-lengths.sum() // tokens))
    assert sorted(np.concatenate(steps)) == list(range(len(lengths)))
    assert all(0 < lengths[rows].sum() <= tokens + lengths.max() for rows in steps)


def test_steps_of_so_many_tokens_by_hand():
    order = EpochOrder(np.array([4, 2, 2, 4, 3, 1]), StepSize(tokens=8), seed=0, shuffle=False)
    assert [rows.tolist() for rows in order.epoch(0)] == [[0, 1, 2], [3, 4, 5]]


def test_a_step_is_no_smaller_than_a_sequence():
    with pytest.raises(InputError, match="batch_tokens 8 is less than the longest sequence, of 9"):
        EpochOrder(np.array([9, 2]), StepSize(tokens=8))
    for wrong in ({}, {"sequences": 1, "tokens": 1}, {"sequences": -1}):
        with pytest.raises(InputError, match="either batch_sequences or batch_tokens"):
            StepSize(**wrong)


def test_an_epoch_takes_so_many_rows_of_each_portion():
    """Three of ten rows and five of two: all ten come before one comes again, both twos twice an epoch or more."""
    order = EpochOrder(np.full(12, 3), StepSize(1), portions=[Portion(0, 10, 3), Portion(10, 2, 5)], seed=4)
    epochs = [order.rows(epoch) for epoch in range(10)]
    first = [rows[rows < 10].tolist() for rows in epochs]
    assert [len(rows) for rows in first] == [3] * 10
    assert sorted(row for rows in first for row in rows) == sorted([*range(10)] * 3)
    assert len({row for rows in first[:3] for row in rows}) == 9
    second = [rows[rows >= 10].tolist() for rows in epochs]
    assert all(abs(rows.count(10) - rows.count(11)) == 1 for rows in second)
    assert sum(rows.count(10) for rows in second) == 25
    assert [order.rows(epoch).tolist() for epoch in (7, 2)] == [epochs[7].tolist(), epochs[2].tolist()]


SCALED = TokenTable.of(
    [[1, 2, 3], [4, 5, 6, 7], [8, 9]],
    [[False, True, True], [False, False, True, True], [True, True]],
    [[0, 0.5, 0.25], None, [9.0, 2.0]],
)


def test_scales_are_counted_without_the_first_token():
    assert SCALED.counts.tolist() == [0.75, 2.0, 2.0]
    plain = TokenTable.of([[1, 2, 3], [8, 9]], [[False, True, True], [True, True]])
    assert plain.counts.tolist() == [2, 1]
    assert plain.counts.dtype == np.int64
    assert plain.scale is None


@pytest.mark.parametrize("packed", [False, True])
def test_scaled_weights_by_hand(packed):
    """Of 4.75 in all, a token has its scale; of three sequences, each token its scale of the sequence's."""
    expected = {
        TokenMean(): {2: 0.5 / 4.75, 3: 0.25 / 4.75, 6: 1 / 4.75, 7: 1 / 4.75, 9: 2 / 4.75},
        SequenceMean(): {2: 0.5 / 0.75 / 3, 3: 0.25 / 0.75 / 3, 6: 1 / 6, 7: 1 / 6, 9: 1 / 3},
    }
    for weighting, values in expected.items():
        order = EpochOrder(SCALED.lengths, StepSize(3), seed=0)
        cut = Cut(2, packed, 8)
        found = {}
        for batch in TokenLoader(SCALED, order, cut=cut, weighting=weighting, pad_id=0):
            live = batch.weights != 0
            found |= dict(zip(batch.input_ids[live].tolist(), batch.weights[live].tolist(), strict=True))
        assert found == pytest.approx(values, abs=1e-6)
        assert sum(found.values()) == pytest.approx(1, abs=1e-6)


def test_the_digest_tells_scales_apart_and_joined_tables_of_one():
    plain = TokenTable.of([[1, 2]], [[False, True]])
    scaled = TokenTable.of([[1, 2]], [[False, True]], [[0, 0.5]])
    assert len({plain.digest, scaled.digest, JoinedTable([plain, plain]).digest}) == 3
    assert JoinedTable([plain]).digest == plain.digest


FOUR = StepSize(4)


def replaying(size=FOUR, share=0.25, cut=None):
    """Ten rows of their own, tokens 1 to 10, and six that are replayed, tokens 101 to 106."""
    own = TokenTable.of(
        [[i + 1] * (2 + i % 3) for i in range(10)], [[False] + [True] * (1 + i % 3) for i in range(10)]
    )
    other = TokenTable.of([[i + 101] * 3 for i in range(6)], [[False, True, True]] * 6)
    table, shares = JoinedTable([own, other]), StepShares.of(size, share)
    order = EpochOrder(table.lengths, shares.own, portions=[Portion(0, 10, 10)], seed=3)
    replay = ReplayOrder(table.lengths, 10, shares.replayed, seed=3)
    return TokenLoader(table, order, cut=cut or Cut(1), weighting=TokenMean(), pad_id=0, replay=replay)


def tokens_of(batch):
    return sorted({int(i) for i in batch.input_ids[batch.segments > 0]})


def test_every_step_replays_its_share_and_the_epoch_is_the_datas_own():
    loader = replaying()
    steps = [tokens_of(batch) for _ in range(3) for batch in loader]
    assert len(steps) == 3 * len(loader) == 3 * 4
    assert all(sum(token > 100 for token in step) == 1 for step in steps)
    for epoch in range(3):
        own = [t for step in steps[epoch * 4 : epoch * 4 + 4] for t in step if t < 100]
        assert sorted(own) == list(range(1, 11))
    replayed = [t for step in steps for t in step if t > 100]
    assert sorted(replayed[:6]) == sorted(replayed[6:]) == list(range(101, 107))
    assert replayed[:6] != replayed[6:]


def test_weights_of_a_step_with_replay_sum_to_one():
    assert all(float(batch.weights.sum()) == pytest.approx(1, abs=1e-6) for batch in replaying())


def test_replay_goes_on_where_it_stopped():
    everything = [tokens_of(b) for loader in [replaying(cut=Cut(2))] for _ in range(3) for b in loader]
    for stop in (1, 7, 8, 13):
        source, done = replaying(cut=Cut(2)), 0
        while done < stop:
            for _ in source:
                done += 1
                if done == stop:
                    break
        resumed = replaying(cut=Cut(2))
        resumed.load_state_dict(source.state_dict())
        rest = [tokens_of(b) for b in resumed]
        assert rest == everything[stop : stop + len(rest)]
        assert len(rest) == (8 - stop % 8 if stop % 8 else 8)


def test_replay_in_steps_of_tokens():
    loader = replaying(StepSize(tokens=16), share=0.5)
    steps = [tokens_of(batch) for _ in range(2) for batch in loader]
    assert all(any(t > 100 for t in step) and any(t < 100 for t in step) for step in steps)
    assert sorted(t for step in steps[: len(loader)] for t in step if t < 100) == list(range(1, 11))


def test_replay_needs_room_and_rows():
    with pytest.raises(InputError, match=r"a share of 0\.05 of batch_sequences 4 is 0"):
        StepShares.of(StepSize(4), 0.05)
    with pytest.raises(InputError, match="has 2 sequences, but each step takes 3"):
        ReplayOrder(np.full(5, 2), 3, StepSize(3), seed=0)
