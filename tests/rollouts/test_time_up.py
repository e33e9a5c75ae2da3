"""Completions that are interrupted: which ones and where, what is kept of them, what the books say."""

from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from fakes import TEXT, prompts, tiny

from lit_posttrain import collate
from lit_posttrain.batches import Completion, Request, SampleKey, Sampling, StopReason
from lit_posttrain.errors import InputError
from lit_posttrain.ledger import Ledger, Phase
from lit_posttrain.networks import build, token_logprobs
from lit_posttrain.rollouts import TorchEngine
from lit_posttrain.rollouts.time_up import TimeUp
from lit_posttrain.text import load_text

TEXT_OBJECT = load_text(TEXT)
PUT_IN = [3, 4, 5]
LEAST, MOST, REST = 2, 5, 4
SAMPLING = Sampling(max_new_tokens=MOST + len(PUT_IN) + REST)


def plain() -> TorchEngine:
    return TorchEngine(build(tiny()), TEXT_OBJECT, Ledger(), max_rows=64)


def cutting(least=LEAST, most=MOST, rest=REST) -> TimeUp:
    return TimeUp(plain(), TEXT_OBJECT, PUT_IN, (least, most), rest)


def asked(count=6, n=8, sampling=SAMPLING, seed=1) -> list[Request]:
    batch = prompts(TEXT_OBJECT, count)
    return [
        Request(ids, SampleKey(seed, p.uid), sampling, n)
        for p, ids in zip(batch.problems, batch.prompt_ids, strict=True)
    ]


def write(engine, wanted, finished=None):
    ledger = engine.inner.ledger if isinstance(engine, TimeUp) else engine.ledger
    with ledger.phase(Phase.ROLLOUT):
        return engine.generate(wanted, finished), ledger.training.generated_tokens


@pytest.fixture(scope="module")
def both() -> list[tuple[Request, Completion, Completion]]:
    """Each request with a completion as it is drawn up to the largest limit, and as it is when it is interrupted."""
    wanted = asked()
    whole, _ = write(plain(), [replace(r, sampling=Sampling(max_new_tokens=MOST)) for r in wanted])
    cut, _ = write(cutting(), wanted)
    return [
        (request, a, b)
        for request, left, right in zip(wanted, whole, cut, strict=True)
        for a, b in zip(left, right, strict=True)
    ]


def begun_tokens(completion: Completion) -> int:
    """The length before what was put in."""
    assert completion.injected is not None
    return int(completion.injected.nonzero()[0])


def test_what_ended_before_its_limit_is_untouched(both):
    ended = [(a, b) for _, a, b in both if b.injected is None]
    assert ended
    for alone, same in ended:
        assert alone.stop is same.stop is StopReason.EOS
        assert alone.tokens.tolist() == same.tokens.tolist()
        assert torch.allclose(alone.logprobs, same.logprobs, atol=1e-5)
        assert alone.text == same.text


def test_what_went_on_is_cropped_to_a_limit_of_its_own_and_continued(both):
    late, limits = [(a, b) for _, a, b in both if b.injected is not None], set[int]()
    for alone, cut in late:
        limit = begun_tokens(cut)
        limits.add(limit)
        behind = limit + len(PUT_IN)
        assert LEAST <= limit <= len(alone.tokens)
        assert not (limit == len(alone.tokens) and alone.stop is StopReason.EOS)
        assert cut.tokens[:limit].tolist() == alone.tokens[:limit].tolist()
        assert cut.tokens[limit:behind].tolist() == PUT_IN
        assert cut.injected.nonzero().flatten().tolist() == list(range(limit, behind))
        assert cut.logprobs[limit:behind].tolist() == [0.0] * len(PUT_IN)
        assert bool((cut.logprobs[~cut.injected] < 0).all())
        rest = len(cut.tokens) - behind
        assert 1 <= rest <= REST
        assert (cut.stop is StopReason.LENGTH) <= (rest == REST)
        assert (cut.stop is StopReason.EOS) == (int(cut.tokens[-1]) in TEXT_OBJECT.eos_ids)
        assert cut.text == TEXT_OBJECT.decode(cut.tokens.tolist())
    assert limits == set(range(LEAST, MOST + 1))
    assert {cut.stop for _, cut in late} == {StopReason.EOS, StopReason.LENGTH}


def test_logprobs_are_those_of_the_network_over_the_whole_sequence(both):
    rows = [(request.prefix, cut) for request, _, cut in both]
    batch = collate.from_lists(
        [prefix + cut.tokens.tolist() for prefix, cut in rows],
        [[False] * len(prefix) + [True] * len(cut.tokens) for prefix, cut in rows],
        TEXT_OBJECT.pad_id,
    )
    network = plain().network
    with torch.no_grad(), network.decoding():
        again = token_logprobs(network, batch)
    for row, (_, cut) in zip(again, rows, strict=True):
        drawn = torch.ones(len(cut.tokens), dtype=torch.bool) if cut.injected is None else ~cut.injected
        assert torch.allclose(row[row != 0][drawn], cut.logprobs[drawn], atol=1e-5)


def test_a_completion_does_not_depend_on_what_else_is_drawn():
    together, _ = write(cutting(), asked())
    (alone,), _ = write(cutting(), [asked()[4]])
    assert any(c.injected is not None for c in alone)
    assert [c.tokens.tolist() for c in alone] == [c.tokens.tolist() for c in together[4]]
    request = asked()[4]
    (last,), _ = write(cutting(), [replace(request, key=replace(request.key, first_sample=5), n=3)])
    assert [c.tokens.tolist() for c in last] == [c.tokens.tolist() for c in together[4][5:]]
    (other,), _ = write(cutting(), [replace(request, key=replace(request.key, seed=2))])
    assert [c.tokens.tolist() for c in other] != [c.tokens.tolist() for c in together[4]]


def test_every_completion_is_told_of_once_and_whole():
    told = []
    results, _ = write(cutting(), asked(), lambda *what: told.append(what))
    assert sorted((i, j) for i, j, _ in told) == [(i, j) for i in range(6) for j in range(8)]
    assert all(completion is results[i][j] for i, j, completion in told)


def test_the_books_have_what_was_really_drawn():
    """The first draws as they would be alone, those that are cropped too, and the answers."""
    _, first = write(plain(), [replace(r, sampling=Sampling(max_new_tokens=MOST)) for r in asked()])
    results, spent = write(cutting(), asked())
    late = [c for group in results for c in group if c.injected is not None]
    assert spent == first + sum(len(c.tokens) - begun_tokens(c) - len(PUT_IN) for c in late)


@pytest.mark.parametrize("limit", [1, 3])
def test_a_fixed_limit_is_kept_exactly(limit):
    results, _ = write(cutting(limit, limit), asked())
    flat = [c for group in results for c in group]
    assert all(len(c.tokens) <= limit for c in flat if c.injected is None)
    assert {begun_tokens(c) for c in flat if c.injected is not None} == {limit}


class Endless(TorchEngine):
    """Writes one token for ever, and remembers what it was asked for."""

    def generate(self, requests, finished=None):
        self.requests = [*getattr(self, "requests", []), *requests]
        return [[self._one(request)] * request.n for request in requests]

    def _one(self, request: Request) -> Completion:
        count = request.sampling.max_new_tokens
        return Completion(torch.full((count,), 6), torch.full((count,), -1.0), StopReason.LENGTH, "6" * count)


def test_answers_are_asked_for_behind_all_that_is_there_with_draws_of_their_own():
    engine = Endless(build(tiny()), TEXT_OBJECT, Ledger())
    told = []
    sampling = replace(SAMPLING, temperature=0.7)
    one = Request([1, 2], SampleKey(7, "a", first_sample=3), sampling, 2)
    TimeUp(engine, TEXT_OBJECT, PUT_IN, (2, 2), REST).generate([one], lambda *what: told.append(what))
    first, *rest = engine.requests
    assert (first.prefix, first.key, first.n) == (one.prefix, one.key, 2)
    assert first.sampling == replace(sampling, max_new_tokens=2)
    assert [(r.prefix, r.n, r.sampling) for r in rest] == [
        ([1, 2, 6, 6, *PUT_IN], 1, replace(sampling, max_new_tokens=REST))
    ] * 2
    assert [(r.key.uid, r.key.first_sample) for r in rest] == [("a", 3), ("a", 4)]
    assert rest[0].key.seed == rest[1].key.seed != 7
    assert [(i, j, len(c.tokens)) for i, j, c in told] == [(0, 0, 9), (0, 1, 9)]


@pytest.mark.parametrize("late", [True, False])
def test_the_network_is_made_ready_once_whether_any_completion_is_late_or_not(late, monkeypatch):
    """Processes that share its parameters enter together, and may not have late completions at the same time."""
    engine = cutting(2, 2)
    network, depth, entered = engine.inner.network, [0], []
    decoding = network.decoding

    @contextmanager
    def counting():
        entered.append(depth[0])
        depth[0] += 1
        with decoding():
            yield
        depth[0] -= 1

    monkeypatch.setattr(network, "decoding", counting)
    ends = () if late else tuple(range(16))  # any token is an end
    results, _ = write(engine, asked(2, 2, replace(SAMPLING, stop_token_ids=ends)))
    assert any(c.injected is not None for group in results for c in group) == late
    assert entered.count(0) == 1


def test_a_prompt_without_room_is_refused_before_anything_is_drawn():
    engine = cutting()
    room = engine.inner.network.max_positions - (MOST + len(PUT_IN) + REST)
    fits, too_long = ([5] * n for n in (room, room + 1))
    write(engine, [Request(fits, SampleKey(1, "a"), SAMPLING)])
    before = engine.inner.ledger.training.generated_tokens
    with pytest.raises(InputError, match=r"a prompt of 53 tokens leaves 11 .* takes up to 12 "):
        write(engine, [Request(ids, SampleKey(1, "a"), SAMPLING) for ids in (fits, too_long)])
    assert engine.inner.ledger.training.generated_tokens == before
