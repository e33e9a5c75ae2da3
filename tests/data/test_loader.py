"""The loader of supervised training: once and only once, and exact after a stop."""

import torch

from lit_posttrain.data.loader import TokenLoader, TokenTable
from lit_posttrain.data.steps import Cut
from lit_posttrain.objectives.weights import TokenMean
from lit_posttrain.ranks import Ranks


def loader(**options):
    rows = [[i + 1] * (2 + i % 3) for i in range(10)]
    table = TokenTable.of(rows, [[j > 0 for j in range(len(r))] for r in rows])
    settings = {"batch_sequences": 4, "cut": Cut(2), "weighting": TokenMean(), "pad_id": 0, "seed": 5}
    return TokenLoader(table, **(settings | options))


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
    assert sorted(rest) == sorted(loader().order(0)[8:].add(1).tolist())
