import torch

from lit_posttrain.networks.masks import additive, is_plain, left_padded_mask, segment_mask, within_window


def test_segments_see_themselves_and_their_past():
    mask = segment_mask(torch.tensor([[1, 1, 2, 0]]))[0, 0].int().tolist()
    assert mask == [[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]


def test_left_padding_is_not_seen_and_no_row_is_empty():
    mask = left_padded_mask(torch.tensor([0, 2]), length=4, queries=3).int()[:, 0].tolist()
    assert mask[0] == [[1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]]
    assert mask[1] == [[0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 1]]


def test_windows_count_the_token_itself():
    mask = within_window(torch.ones(4, 4, dtype=torch.bool).tril(), 2).int().tolist()
    assert mask == [[1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1]]
    assert within_window(torch.ones(1, 4, dtype=torch.bool), 2).int().tolist() == [[0, 0, 1, 1]]


def test_additive_masks_are_finite():
    mask = additive(torch.tensor([True, False]), torch.bfloat16)
    assert mask.dtype == torch.bfloat16
    assert mask.tolist() == [0.0, torch.finfo(torch.bfloat16).min]


def test_plain_batches_are_right_padded_and_unpacked(rows):
    assert is_plain(rows([[3], [5]], extra=2))
    assert not is_plain(rows([[3, 2], [5]]))
