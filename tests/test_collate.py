"""Padding, packing and choosing rows: nothing lost, nothing moved."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lit_posttrain import collate
from lit_posttrain.batches import Experience


def batch_of(rows):
    return collate.from_lists(rows, [[i > 0 for i in range(len(r))] for r in rows], pad_id=9)


def test_padding_layout_by_hand():
    batch = batch_of([[1, 2, 3], [4, 5]])
    assert batch.input_ids.tolist() == [[1, 2, 3], [4, 5, 9]]
    assert batch.segments.tolist() == [[1, 1, 1], [2, 2, 0]]
    assert batch.mask.tolist() == [[False, True, True], [False, True, False]]
    assert batch.sequences == 2
    assert not batch.is_packed


def test_the_first_token_is_never_under_the_mask():
    assert not collate.from_lists([[1, 2]], [[True, True]], 0).mask[0, 0]


def test_empty_sequences_are_refused():
    with pytest.raises(ValueError, match="at least one token"):
        collate.from_lists([[1], []], [[True], []], 0)


def test_pack_by_hand():
    packed = collate.pack(batch_of([[1, 2, 3], [4, 5], [6]]), [[1, 2], [0]])
    assert packed.input_ids.tolist() == [[4, 5, 6], [1, 2, 3]]
    assert packed.segments.tolist() == [[1, 1, 2], [3, 3, 3]]
    assert packed.position_ids.tolist() == [[0, 1, 0], [0, 1, 2]]
    assert packed.mask.tolist() == [[False, True, False], [False, True, True]]
    assert packed.is_packed


def experience_of(rows):
    base = batch_of(rows)
    noise = torch.rand(base.input_ids.shape)
    return Experience(
        **vars(base), sampled_logprobs=noise, old_logprobs=noise + 1, advantages=noise * 2,
        rewards=torch.arange(len(rows)).float(), graded=torch.ones(len(rows), dtype=torch.bool),
        group=torch.arange(len(rows)), stop=torch.zeros(len(rows), dtype=torch.int64),
        policy_version=torch.zeros(len(rows), dtype=torch.int64), temperature=0.7,
    )  # fmt: skip


@given(st.lists(st.integers(1, 9), min_size=1, max_size=12), st.integers(9, 30))
def test_packing_conserves_every_token_and_field(sizes, capacity):
    rows = [[10 * i + j for j in range(n)] for i, n in enumerate(sizes)]
    source = experience_of(rows)
    bins = collate.bins(sizes, capacity)
    packed = collate.pack(source, bins)
    order = [item for row in bins for item in row]
    assert sorted(order) == list(range(len(sizes)))
    assert all(sum(sizes[i] for i in row) <= capacity for row in bins)
    real = packed.segments > 0
    assert packed.input_ids[real].tolist() == [token for i in order for token in rows[i]]
    assert packed.rewards.tolist() == [float(i) for i in order]
    for number, i in enumerate(order, start=1):
        here = packed.segments == number
        assert torch.equal(packed.old_logprobs[here], source.old_logprobs[i, : sizes[i]])
    assert packed.temperature == 0.7


def test_write_back_is_the_inverse_of_packing():
    sizes = [3, 1, 4, 2]
    source = experience_of([[i] * n for i, n in enumerate(sizes)])
    bins = [[2, 1], [3, 0]]
    packed = collate.pack(source, bins)
    packed.old_logprobs = packed.old_logprobs * 10
    expected = torch.where(source.segments > 0, source.old_logprobs * 10, source.old_logprobs)
    collate.write_back(source, [2, 1, 3, 0], packed, ("old_logprobs", "reference_logprobs"))
    assert torch.equal(source.old_logprobs, expected)
    assert source.reference_logprobs is None


def test_take_trims_and_renumbers():
    chosen = collate.take(experience_of([[1, 2, 3, 4], [5, 6], [7]]), [2, 1])
    assert chosen.input_ids.tolist() == [[7, 9], [5, 6]]
    assert chosen.segments.tolist() == [[1, 0], [2, 2]]
    assert chosen.rewards.tolist() == [2.0, 1.0]


def test_concatenate_pads_to_the_widest():
    joined = collate.concatenate([batch_of([[1, 2]]), batch_of([[3, 4, 5]])], pad_id=9)
    assert joined.input_ids.tolist() == [[1, 2, 9], [3, 4, 5]]
    assert joined.segments.tolist() == [[1, 1, 0], [2, 2, 2]]


def test_bins_refuse_what_cannot_fit():
    with pytest.raises(ValueError, match="exceed the row capacity"):
        collate.bins([3, 12], 10)


def test_state_round_trip_is_plain(tmp_path):
    source = experience_of([[1, 2], [3]])
    torch.save(source.to_state(), tmp_path / "state.pt")
    back = Experience.from_state(torch.load(tmp_path / "state.pt", weights_only=True))
    assert torch.equal(back.old_logprobs, source.old_logprobs)
    assert back.temperature == 0.7
