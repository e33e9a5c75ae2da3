"""Shares of data, put together again."""

from types import SimpleNamespace

import pytest

from lit_posttrain.ranks import Ranks, anywhere


def trainer(world, **strategy):
    return SimpleNamespace(strategy=SimpleNamespace(**strategy), world_size=world)


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_shares_put_together_are_the_whole_in_order(count):
    items = list("abcdefg")
    shares = [Ranks(index, count).share(items) for index in range(count)]
    assert Ranks(0, count).interleave(shares) == items


def test_a_rank_may_have_nothing():
    assert Ranks(2, 3).share(["only", "two"]) == []
    assert Ranks(0, 3).interleave([["only"], ["two"], []]) == ["only", "two"]


def test_ranks_of_a_trainer():
    assert Ranks.of(trainer(1)) == Ranks(0, 1, 1)
    assert Ranks.of(trainer(2, distributed_sampler_kwargs={"num_replicas": 2, "rank": 1})) == Ranks(1, 2, 1)
    tensor_parallel = trainer(8, distributed_sampler_kwargs={"num_replicas": 2, "rank": 1})
    assert Ranks.of(tensor_parallel) == Ranks(1, 2, replicas=4)


def test_alone_nothing_is_gathered():
    mine = ["mine"]
    assert Ranks().gather(mine) == [mine]
    assert anywhere(True)
    assert not anywhere(False)
