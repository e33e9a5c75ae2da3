"""Streamed data: sized by what is declared, planned by windows, exact after a stop."""

from collections.abc import Iterator

import pytest
from fakes import TEXT

from lit_posttrain.contracts import ProblemSource
from lit_posttrain.data import ChatData, window_loader
from lit_posttrain.data import tokenising as tokenise_module
from lit_posttrain.data.preparation import Preparation
from lit_posttrain.data.sources.mixture import Mixture
from lit_posttrain.data.sources.streaming import Streaming
from lit_posttrain.data.steps import Cut
from lit_posttrain.errors import InputError
from lit_posttrain.ranks import Ranks
from lit_posttrain.text import load_text

CHARACTERS = load_text(TEXT)
READ: list[int] = []


class Stream(ProblemSource):
    """Rows one after the other; row i asks `i+0=`, and every fifth one at great length."""

    def __init__(self, rows: int, long: bool = False) -> None:
        self.rows, self.long = rows, long

    def problems(self, split):
        raise NotImplementedError

    def chats(self, split) -> Iterator[list[dict[str, str]]]:
        for i in range(self.rows if split == "train" else 3):
            READ.append(i)
            zeros = "0" * (30 if self.long and i % 5 == 4 else 1)
            yield [{"role": "user", "content": f"{i}+{zeros}="}, {"role": "assistant", "content": str(i)}]


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(tokenise_module, "CHUNK_ROWS", 7)
    monkeypatch.setattr(window_loader, "CHUNK_ROWS", 7)
    READ.clear()


def data(stream, rows=40, window=10, workers=0, **settings):
    source = Streaming(stream, rows, window)
    return ChatData(
        source, text=CHARACTERS, preparation=Preparation(workers), **({"batch_sequences": 4} | settings)
    )


def loader(stream=None, cut=None, **settings):
    made = data(stream or Stream(60), **settings).train_dataloader()
    made.cut = made.builder.cut = cut or Cut(2)
    return made


def numbers(batches):
    """The rows that stand in some batches."""
    live = [batch for batch in batches if batch.weights.sum() > 0]
    return [
        int(CHARACTERS.decode(row).partition("+")[0]) for batch in live for row in batch.input_ids.tolist()
    ]


def test_length_and_content_of_an_epoch_are_as_declared():
    one = loader()
    epochs = [list(one) for _ in range(2)]
    assert len(one) == 20
    assert [len(epoch) for epoch in epochs] == [20, 20]
    for epoch in epochs:
        assert sorted(numbers(epoch)) == list(range(40))
        assert all(
            abs(sum(float(b.weights.sum()) for b in epoch[i : i + 2]) - 1) < 1e-6 for i in range(0, 20, 2)
        )
    assert numbers(epochs[0]) != numbers(epochs[1])


def test_windows_are_whole_steps_and_shuffled_within():
    """A window of 10 rows in steps of 4 is one of 12."""
    found = numbers(loader(cut=Cut(1)))
    for first in (0, 12, 24):
        assert sorted(found[first : first + 12]) == list(range(first, first + 12))
        assert found[first : first + 12] != list(range(first, first + 12))
    assert sorted(found[36:]) == [36, 37, 38, 39]


def test_the_last_step_may_hold_fewer():
    one = loader(rows=13, cut=Cut(1))
    batches = list(one)
    assert len(batches) == len(one) == 4
    assert [len(b.input_ids) for b in batches] == [4, 4, 4, 1]


def test_what_is_too_long_is_left_out_and_the_next_ones_come():
    settings = {"max_tokens": 15, "too_long": "skip"}
    found = numbers(loader(Stream(60, long=True), **settings))
    assert sorted(found) == [i for i in range(50) if i % 5 != 4]
    with pytest.raises(InputError, match=r"row 4 of 'train' has 35 tokens, more than 15"):
        list(loader(Stream(60, long=True), max_tokens=15))


@pytest.mark.parametrize("settings", [{}, {"max_tokens": 15, "too_long": "skip"}], ids=["all", "skip"])
def test_going_on_from_any_position(settings):
    stream = Stream(60, long=bool(settings))
    whole = loader(stream, **settings)
    everything = [b.input_ids.tolist() for _ in range(2) for b in whole]
    for stop in (1, 2, 5, 6, 7, 12, 18, 19, 20, 21, 33):
        source = loader(stream, **settings)
        passed = 0
        while passed < stop:
            for _ in source:
                passed += 1
                if passed == stop:
                    break
        resumed = loader(stream, **settings)
        resumed.load_state_dict(source.state_dict())
        rest = [b.input_ids.tolist() for b in resumed]
        assert rest == everything[stop : stop + len(rest)]
        assert len(rest) == 20 - stop % 20


def test_going_on_does_not_tokenise_what_is_past(monkeypatch):
    source = loader()
    batches = iter(source)
    for _ in range(14):  # into the third window, which begins at row 24
        next(batches)
    tokenised = []
    one = tokenise_module.tokenise
    monkeypatch.setattr(
        tokenise_module, "tokenise", lambda row, *rest: tokenised.append(row) or one(row, *rest)
    )
    resumed = loader()
    resumed.load_state_dict(source.state_dict())
    list(resumed)
    assert tokenised[0][0]["content"] == "21+0="  # the chunk in which the window begins


def test_nothing_is_read_long_before_it_is_needed():
    next(iter(loader()))
    assert max(READ) < 21


def test_ranks_share_every_step():
    def steps(count):
        shares = [list(loader(cut=Cut(1, ranks=Ranks(rank, count)))) for rank in range(count)]
        return [sorted(numbers([share[i] for share in shares])) for i in range(10)]

    assert steps(1) == steps(2) == steps(3)


def test_other_processes_give_the_same():
    assert [b.input_ids.tolist() for b in loader(workers=2)] == [b.input_ids.tolist() for b in loader()]


def test_running_dry_is_an_error():
    with pytest.raises(InputError, match=r"ran dry after 35 rows of an epoch of 40; set rows_per_epoch"):
        list(loader(Stream(35)))


def test_a_mixture_can_be_streamed():
    found = numbers(loader(Mixture([Stream(60), Stream(60)], [3, 1])))
    assert sum(found.count(i) == 2 for i in range(10)) == 10
    assert max(found) == 29


def test_held_out_rows_are_prepared_as_usual():
    assert len(numbers(data(Stream(60)).val_dataloader())) == 3


def test_what_streaming_cannot_do():
    with pytest.raises(InputError, match="streamed data takes batch_sequences"):
        data(Stream(9), batch_tokens=50).setup("fit")
    with pytest.raises(InputError, match="set max_tokens to at most row_tokens"):
        data(Stream(9), packed=True, row_tokens=8).setup("fit")
    with pytest.raises(InputError, match=r"of at least 1 \(got 0 and 8\)"):
        Streaming(Stream(9), 0, 8)


def test_the_sequence_of_a_source_is_entered_where_it_is_needed():
    class Listed(Stream):
        def chats(self, split):
            return [str(i) for i in range(9)]

    assert list(Streaming(Listed(9), 9).rows("train", 6)) == ["6", "7", "8"]
    assert [row[0]["content"] for row in Streaming(Stream(9), 9).rows("train", 7)] == ["7+0=", "8+0="]
