"""Keyed randomness: reproducible, independent of the batch, uniform."""

import torch

from lit_posttrain.batches import SampleKey
from lit_posttrain.keys import digest, row_keys, uniforms


def test_a_row_does_not_depend_on_its_batch():
    keys = [SampleKey(3, f"p{i}") for i in range(5)]
    together = uniforms(row_keys(keys, [4] * 5), 7)
    alone = uniforms(row_keys([keys[2]], [4]), 7)
    assert torch.equal(together[8:12], alone)
    later = uniforms(row_keys([SampleKey(3, "p2", first_sample=2)], [2]), 7)
    assert torch.equal(alone[2:], later)


def test_everything_in_the_key_matters():
    base = uniforms(row_keys([SampleKey(0, "a")], [1]), 0)
    for other, position in [
        (SampleKey(1, "a"), 0),
        (SampleKey(0, "b"), 0),
        (SampleKey(0, "a", 1), 0),
        (SampleKey(0, "a"), 1),
    ]:
        assert uniforms(row_keys([other], [1]), position) != base


def test_uniform_and_uncorrelated():
    rows = row_keys([SampleKey(0, f"{i}") for i in range(1000)], [20] * 1000)
    u, v = uniforms(rows, 0), uniforms(rows, 1)
    assert u.min() >= 0
    assert u.max() < 1
    counts = torch.histc(u, bins=20, min=0, max=1)
    chi_square = ((counts - 1000) ** 2 / 1000).sum()
    assert chi_square < 50  # 19 degrees of freedom: 1 in 10,000
    assert abs(torch.corrcoef(torch.stack([u, v]))[0, 1]) < 0.03


def test_digest_is_the_same_in_every_process():
    assert digest(0, "a") == -2725710277940042894
    assert digest(1, "1") != digest("1", 1)
