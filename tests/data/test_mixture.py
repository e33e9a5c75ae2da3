"""Several sources as one: proportions, epochs, held-out splits, what is replayed."""

from collections import Counter
from itertools import islice

import pytest
from fakes import TEXT, Numbers
from hypothesis import given
from hypothesis import strategies as st

from lit_posttrain.batches import Problem
from lit_posttrain.contracts import ProblemSource
from lit_posttrain.data import ChatData
from lit_posttrain.data.preparation import Preparation
from lit_posttrain.data.sources.mixture import Mixture, WithReplay
from lit_posttrain.errors import InputError
from lit_posttrain.text import load_text

CHARACTERS = load_text(TEXT)


class Digit(ProblemSource):
    """`count` rows whose question names the source and the row; the answer is the source's digit."""

    def __init__(self, digit: int, count: int) -> None:
        self.digit, self.count = digit, count

    def problems(self, split):
        return [
            Problem(({"role": "user", "content": f"{self.digit}+{i}="},), str(self.digit), f"{i}")
            for i in range(self.count)
        ]

    def chats(self, split):
        for problem in self.problems(split):
            yield [*problem.messages, {"role": "assistant", "content": problem.reference}]


def mixture(counts, weights, stop="first_exhausted"):
    return Mixture([Digit(i + 1, count) for i, count in enumerate(counts)], weights, stop)


def data(source, **settings):
    return ChatData(
        source, **({"text": CHARACTERS, "batch_sequences": 5, "preparation": Preparation(0)} | settings)
    )


def questions(batches):
    """The questions of all sequences of some batches, such as `1+12=`."""
    rows = [row for batch in batches for row in batch.input_ids[batch.weights.sum(dim=1) > 0].tolist()]
    return [CHARACTERS.decode(row).partition("=")[0] for row in rows]


def by_source(batches):
    return Counter(question[0] for question in questions(batches))


def test_the_scarcest_source_sets_the_length_by_hand():
    """Of 40, 30 and 100 rows at 1 : 1 : 2 the second one gives all its 30."""
    assert mixture([40, 30, 100], [1, 1, 2]).draws([40, 30, 100]) == [30, 30, 60]
    assert mixture([40, 30, 100], [0.5, 0.5, 1.0]).draws([40, 30, 100]) == [30, 30, 60]
    assert mixture([40, 30], None).draws([40, 30]) == [40, 30]


def test_the_richest_source_sets_the_length_by_hand():
    assert mixture([40, 30, 100], [1, 1, 2], "all_exhausted").draws([40, 30, 100]) == [50, 50, 100]


@given(
    st.lists(st.tuples(st.integers(20, 200), st.floats(0.5, 4)), min_size=1, max_size=5),
    st.sampled_from(["first_exhausted", "all_exhausted"]),
)
def test_draws_keep_the_proportions(parts, stop):
    rows, weights = [n for n, _ in parts], [w for _, w in parts]
    draws = mixture(rows, weights, stop).draws(rows)
    unit = sum(draws) / sum(weights)
    assert all(abs(n - w * unit) <= 1 + len(parts) for n, w in zip(draws, weights, strict=True))
    if stop == "first_exhausted":
        assert all(n <= have for n, have in zip(draws, rows, strict=True))
        assert any(n == have for n, have in zip(draws, rows, strict=True))
    else:
        assert all(n >= have for n, have in zip(draws, rows, strict=True))


def test_an_epoch_of_training_and_the_next_ones(capsys):
    """Six of twenty rows and all three of the other: in ten epochs every row has come as often."""
    loader = data(mixture([20, 3], [2, 1])).train_dataloader()
    assert len(loader) == 2
    epochs = [questions(loader) for _ in range(10)]
    assert all(Counter(q[0] for q in epoch) == {"1": 6, "2": 3} for epoch in epochs)
    assert all(len(set(epoch)) == 9 for epoch in epochs)
    assert Counter(q for epoch in epochs for q in epoch if q[0] == "1") == {f"1+{i}": 3 for i in range(20)}
    told = capsys.readouterr().out
    assert "train of source 0: 20 rows, 20 kept" in told
    assert "train: an epoch takes 6 of 20 rows of source 0 (Digit), 3 of 3 rows of source 1 (Digit)" in told


def test_rows_come_again_where_more_are_taken_than_there_are():
    loader = data(mixture([8, 3], [1, 1], "all_exhausted")).train_dataloader()
    found = Counter(questions(loader))
    assert {q for q in found if q[0] == "1"} == {f"1+{i}" for i in range(8)}
    assert sorted(found[f"2+{i}"] for i in range(3)) == [2, 3, 3]


def test_training_goes_on_where_it_stopped():
    mixed = mixture([20, 3], [2, 1])
    loader = data(mixed).train_dataloader()
    everything = [questions([batch]) for _ in range(4) for batch in loader]
    for stop in range(1, 8):
        source = data(mixed).train_dataloader()
        passed = [batch for _ in range(stop // 2) for batch in source]
        if stop % 2:
            passed += islice(source, 1)
        assert len(passed) == stop
        resumed = data(mixed).train_dataloader()
        resumed.load_state_dict(source.state_dict())
        rest = [questions([batch]) for batch in resumed]
        assert rest == everything[stop : stop + len(rest)]


def test_every_held_out_row_stands_once():
    found = by_source(data(mixture([20, 3], [2, 1])).val_dataloader())
    assert found == {"1": 20, "2": 3}


def test_what_it_was_made_of_is_told_to_the_tracked_run():
    told = data(mixture([20, 3], [2, 1]))
    told.setup("fit")
    assert [(e["context"], e["name"]) for e in told.datasets()] == [
        ("training", "Digit-train"), ("training", "Digit-train"),
        ("validation", "Digit-validation"), ("validation", "Digit-validation"),
    ]  # fmt: skip
    assert len({e["digest"] for e in told.datasets()}) == 2


def test_rows_one_by_one_are_spread_evenly():
    chats = mixture([20, 3], [2, 1]).chats("train")
    assert [chat[-1]["content"] for chat in chats] == ["1", "2", "1", "1", "2", "1", "1", "2", "1", "1"][:10]
    again = mixture([6, 2], [1, 1], "all_exhausted").chats("train")
    assert [chat[0]["content"][2] for chat in again if chat[-1]["content"] == "2"][:6] == ["0", "1"] * 3


def test_problems_keep_their_proportions_and_have_uids_of_their_own():
    found = mixture([20, 3], [2, 1]).problems("train")
    assert Counter(p.uid[0] for p in found) == {"0": 6, "1": 3}
    again = mixture([6, 2], [1, 1], "all_exhausted").problems("train")
    assert Counter(p.uid[0] for p in again) == {"0": 6, "1": 6}
    assert len({p.uid for p in again}) == 12
    assert len(mixture([20, 3], [2, 1]).problems("test")) == 23


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([3, 3], [1, 0]), "the weight of source 1 of a mixture is 0; weights must be above 0"),
        (([3, 3], [-1, 1]), "the weight of source 0 of a mixture is -1"),
        (([3, 3], [1, float("nan")]), "the weight of source 1 of a mixture is nan"),
        (([3, 3], [1]), "a mixture of 2 sources needs as many weights; got 1"),
        (([], []), "a mixture needs at least one source"),
        (([3], [1], "sometimes"), "stop must be first_exhausted or all_exhausted; got 'sometimes'"),
    ],
)
def test_bad_mixtures(arguments, message):
    with pytest.raises(InputError, match=message):
        mixture(*arguments)


def test_a_mixture_within_a_mixture():
    with pytest.raises(InputError, match="list all sources in one mixture"):
        Mixture([Numbers(3), mixture([3], [1])])


def test_a_source_that_would_give_nothing():
    with pytest.raises(
        InputError, match=r"source 1 of the mixture has weight 0.01 .* an epoch of 3 rows takes none"
    ):
        data(mixture([3, 3], [1, 0.01])).train_dataloader()


def test_replay_joins_every_step_and_leaves_the_epoch_alone(capsys):
    loader = data(WithReplay(Digit(1, 12), Digit(2, 30), share=0.4)).train_dataloader()
    assert len(loader) == 4
    epochs = [[questions([batch]) for batch in loader] for _ in range(5)]
    for epoch in epochs:
        assert [Counter(q[0] for q in step) for step in epoch] == [{"1": 3, "2": 2}] * 4
        assert {q for step in epoch for q in step if q[0] == "1"} == {f"1+{i}" for i in range(12)}
    replayed = [q for epoch in epochs for step in epoch for q in step if q[0] == "2"]
    assert len(set(replayed[:30])) == 30
    assert "train that is replayed: 30 rows, 30 kept" in capsys.readouterr().out


def test_replay_beside_a_mixture_and_packed():
    mixed = WithReplay(mixture([20, 3], [2, 1]), Digit(3, 7), share=0.2)
    loader = data(mixed, batch_sequences=0, batch_tokens=40, packed=True, row_tokens=20).train_dataloader()
    ids = [i for batch in loader for i in batch.input_ids[batch.segments > 0].tolist()]
    asked = Counter(part[-3] for part in CHARACTERS.decode(ids).split("=")[:-1] for part in [f"   {part}"])
    assert sum(asked.values()) > 9


def test_validation_of_replay_is_apart():
    source = WithReplay(Digit(1, 12), Digit(2, 6), share=0.4)
    assert by_source(data(source).val_dataloader()) == {"1": 12}
    apart = WithReplay(Digit(1, 12), Digit(2, 6), share=0.4, replay_validation=True)
    own, other = data(apart).val_dataloader()
    assert (by_source(own), by_source(other)) == ({"1": 12}, {"2": 6})


@pytest.mark.parametrize("share", [0, 1, -0.1])
def test_bad_shares(share):
    with pytest.raises(InputError, match="the share to replay must be above 0 and below 1"):
        WithReplay(Digit(1, 3), Digit(2, 3), share)


def test_replay_of_too_little():
    with pytest.raises(InputError, match="the data to replay has 1 sequences, but each step takes 2"):
        data(WithReplay(Digit(1, 12), Digit(2, 1), share=0.4)).train_dataloader()
    with pytest.raises(InputError, match="one plain source can be replayed"):
        WithReplay(Digit(1, 3), mixture([3], [1]), 0.5)
    with pytest.raises(InputError, match="give online methods the source itself"):
        WithReplay(Digit(1, 3), Digit(2, 3), 0.5).problems("train")
