"""The engine: log-probs, independence of the batch, stops, books."""

import pytest
import torch
from fakes import TEXT, prompts, tiny

from lit_posttrain import collate
from lit_posttrain.batches import Request, SampleKey, Sampling, StopReason
from lit_posttrain.ledger import Ledger, Phase
from lit_posttrain.networks import LoraSettings, build, token_logprobs
from lit_posttrain.rollouts import TorchEngine
from lit_posttrain.rollouts.distribution import choose, sampling_logprobs
from lit_posttrain.text import load_text

TEXT_OBJECT = load_text(TEXT)


def engine(max_rows=64, **settings):
    ledger = Ledger()
    network = build(tiny(**settings))
    if network.settings.lora is not None:
        torch.manual_seed(1)
        with torch.no_grad():  # adapters start at zero: give them something to say
            for name, parameter in network.named_parameters():
                if "lora_B" in name:
                    parameter.normal_(std=0.3)
    return TorchEngine(network, TEXT_OBJECT, ledger, max_rows=max_rows)


def flat(groups):
    return [completion for group in groups for completion in group]


def generate(one, sampling=Sampling(max_new_tokens=8), n=3, count=5, seed=1):
    batch = prompts(TEXT_OBJECT, count)
    asked = [
        Request(ids, SampleKey(seed, p.uid), sampling, n)
        for p, ids in zip(batch.problems, batch.prompt_ids, strict=True)
    ]
    with one.ledger.phase(Phase.ROLLOUT):
        return asked, one.generate(asked)


def test_every_completion_is_told_of_once_and_ends_are_told_before_the_rest_is_written():
    one, told = engine(max_rows=4), []
    batch = prompts(TEXT_OBJECT, 5)
    sampling = Sampling(max_new_tokens=8)
    asked = [Request(ids, SampleKey(1, str(i)), sampling, 3) for i, ids in enumerate(batch.prompt_ids)]
    with one.ledger.phase(Phase.ROLLOUT):
        results = one.generate(
            asked, lambda *what: told.append((one.ledger.training.generated_tokens, *what))
        )
    assert sorted((i, j) for _, i, j, _ in told) == [(i, j) for i in range(5) for j in range(3)]
    assert all(completion is results[i][j] for _, i, j, completion in told)
    ends = [(tokens, c.stop) for tokens, _, _, c in told]
    total = one.ledger.training.generated_tokens
    assert any(stop is StopReason.EOS and tokens < total for tokens, stop in ends)
    assert {StopReason.EOS, StopReason.LENGTH} == {stop for _, stop in ends}


@pytest.mark.parametrize("temperature", [0.7, 1.0])
@pytest.mark.parametrize("lora", [None, LoraSettings(4, 8.0, dropout=0.5)])
def test_sampler_logprobs_equal_recomputed_ones(temperature, lora):
    one = engine(lora=lora, shape={"attention_dropout": 0.3})
    asked, results = generate(one, Sampling(temperature=temperature, max_new_tokens=8))
    rows = [(r.prefix, c) for r, group in zip(asked, results, strict=True) for c in group]
    batch = collate.from_lists(
        [prefix + c.tokens.tolist() for prefix, c in rows],
        [[False] * len(prefix) + [True] * len(c.tokens) for prefix, c in rows],
        TEXT_OBJECT.pad_id,
    )
    with torch.no_grad(), one.network.decoding():
        again = token_logprobs(one.network, batch, temperature=temperature)
    for row, (_, c) in zip(again, rows, strict=True):
        assert torch.allclose(row[row != 0], c.logprobs, atol=1e-5)
    assert len({len(c.tokens) for _, c in rows}) > 1


def test_a_completion_does_not_depend_on_its_batch():
    _, together = generate(engine(), count=5)
    _, small = generate(engine(max_rows=2), count=5)
    for left, right in zip(flat(together), flat(small), strict=True):
        assert left.tokens.tolist() == right.tokens.tolist()
        assert torch.allclose(left.logprobs, right.logprobs, atol=1e-5)
    asked, _ = generate(engine(), count=5)
    alone = engine()
    with alone.ledger.phase(Phase.ROLLOUT):
        (last,) = alone.generate([asked[4]])
    assert [c.tokens.tolist() for c in last] == [c.tokens.tolist() for c in together[4]]


def test_seed_and_sample_change_the_text():
    _, one = generate(engine(), seed=1)
    _, two = generate(engine(), seed=2)
    assert [c.text for c in one[0]] != [c.text for c in two[0]]
    assert len({c.text for c in one[0]}) > 1


def test_every_stop_is_told_and_every_end_token_stops():
    one = engine()
    ends = one.text.eos_ids
    stops = set()
    for completion in flat(generate(one, n=20)[1]):
        stops.add(completion.stop)
        inside = completion.tokens.tolist()
        assert not ends & set(inside[:-1])
        assert (inside[-1] in ends) == (completion.stop is StopReason.EOS)
        assert len(inside) == 8 or completion.stop is StopReason.EOS
    assert stops == {StopReason.EOS, StopReason.LENGTH}
    digit = one.text.prompt_ids([{"role": "user", "content": "7"}])[-1]
    for completion in flat(generate(one, Sampling(max_new_tokens=8, stop_token_ids=(digit,)), n=20)[1]):
        assert digit not in completion.tokens.tolist()[:-1]


def test_stop_strings_end_a_completion():
    _, results = generate(engine(), Sampling(max_new_tokens=8, stop_strings=("1", "23")), n=20)
    stopped = [c for c in flat(results) if c.stop is StopReason.STOP_STRING]
    assert stopped
    assert all(c.text.endswith("1") or c.text.endswith("23") for c in stopped)
    assert all("1" not in c.text for c in flat(results) if c.stop is not StopReason.STOP_STRING)


def test_greedy_is_the_argmax_and_minimum_length_holds():
    one = engine()
    asked, results = generate(one, Sampling(temperature=0.0, max_new_tokens=6), n=1)
    for request, (completion,) in zip(asked, results, strict=True):
        ids = list(request.prefix)
        for token in completion.tokens.tolist():
            with torch.no_grad():
                logits = one.network.causal(torch.tensor([ids])).logits[0, -1]
            assert token == int(logits.argmax())
            ids.append(token)
    longer = flat(generate(one, Sampling(min_new_tokens=5, max_new_tokens=8), n=10)[1])
    assert min(len(c.tokens) for c in longer) >= 5


def test_books():
    one = engine()
    _, results = generate(one)
    spent = one.ledger.spent[Phase.ROLLOUT]
    assert spent.generated_tokens == sum(len(c.tokens) for c in flat(results))
    assert spent.flops > 0
    with pytest.raises(RuntimeError, match="outside any phase"):
        one.generate([Request([1], SampleKey(0, "x"), Sampling(max_new_tokens=2))])


def test_a_prompt_beyond_the_context_is_refused():
    with pytest.raises(ValueError, match="exceed the network's 64 positions"):
        engine().generate([Request([1] * 60, SampleKey(0, "long"), Sampling(max_new_tokens=8))])


def test_mode_and_global_randomness_are_left_alone():
    one = engine()
    one.network.train()
    before = torch.get_rng_state()
    generate(one)
    assert one.network.training
    assert torch.equal(before, torch.get_rng_state())


def test_sampling_follows_the_distribution():
    logits = torch.log(torch.tensor([[0.5, 0.25, 0.15, 0.1, 0.0]])).repeat(4000, 1)
    u = (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000
    counts = torch.bincount(choose(sampling_logprobs(logits, Sampling()), u), minlength=5) / 4000
    assert torch.allclose(counts.double(), torch.tensor([0.5, 0.25, 0.15, 0.1, 0.0]).double(), atol=1e-3)


def test_truncated_distributions_by_hand():
    logits = torch.log(torch.tensor([[0.5, 0.25, 0.15, 0.1]]))
    top_k = sampling_logprobs(logits, Sampling(top_k=2)).exp()
    assert torch.allclose(top_k, torch.tensor([[2 / 3, 1 / 3, 0, 0]]), atol=1e-6)
    top_p = sampling_logprobs(logits, Sampling(top_p=0.7)).exp()
    assert torch.allclose(top_p, torch.tensor([[2 / 3, 1 / 3, 0, 0]]), atol=1e-6)
    cold = sampling_logprobs(logits, Sampling(temperature=0.5)).exp()
    square = torch.tensor([[0.25, 0.0625, 0.0225, 0.01]])
    assert torch.allclose(cold, square / square.sum(), atol=1e-6)
