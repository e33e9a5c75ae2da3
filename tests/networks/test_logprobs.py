import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from lit_posttrain.batches import TokenBatch
from lit_posttrain.errors import InputError
from lit_posttrain.networks.dropout import disable_dropout
from lit_posttrain.networks.logprobs import logprobs_of_states, predicted, token_logprobs

KINDS = ["llama", "gpt2", "qwen2", "gemma2"]


def gradients(network, batch):
    network.zero_grad()
    token_logprobs(network, batch).sum().backward()
    return {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}


def test_entry_t_speaks_of_token_t():
    """A head that puts all weight on the successor: only the right shift gives log-prob near 0."""
    ids = torch.tensor([[3, 4, 5, 0, 1]])
    segments = torch.tensor([[1, 1, 1, 2, 2]])
    mask = torch.ones_like(ids, dtype=torch.bool)
    batch = TokenBatch(ids, segments, torch.tensor([[0, 1, 2, 0, 1]]), mask, mask.float())
    states = torch.nn.functional.one_hot(ids + 1, 7).float() * 50
    result = logprobs_of_states(states, batch, lambda h: h, temperature=1.0, chunk_tokens=2)
    assert torch.allclose(result, torch.zeros(1, 5), atol=1e-6)
    wrong = logprobs_of_states(states.roll(1, 1), batch, lambda h: h, temperature=1.0, chunk_tokens=2)
    assert wrong[0, [1, 2, 4]].max() < -40
    assert wrong[0, [0, 3]].tolist() == [0.0, 0.0]


def test_hand_computed_value_and_temperature():
    """Logits (1, 0, 0) for token 0: log p = t - log(e^t + 2) with t = 1 / temperature."""
    ids = torch.tensor([[2, 0]])
    mask = torch.tensor([[False, True]])
    batch = TokenBatch(ids, torch.ones_like(ids), torch.tensor([[0, 1]]), mask, mask.float())
    states = torch.tensor([[[1.0, 0.0, 0.0], [9.0, 9.0, 9.0]]])
    for temperature, expected in ((1.0, -0.551445), (0.5, -0.239545)):
        result = logprobs_of_states(states, batch, lambda h: h, temperature=temperature, chunk_tokens=0)
        assert result[0, 0] == 0
        assert result[0, 1].item() == pytest.approx(expected, abs=1e-6)


def test_a_temperature_of_zero_is_refused(make, rows):
    with pytest.raises(InputError, match="temperature 0"):
        token_logprobs(make(), rows([[3]]), temperature=0.0)


@pytest.mark.parametrize("kind", KINDS)
def test_equals_the_models_own_logits(make, rows, kind):
    """Values and gradients against a plain log-softmax of the Hugging Face forward."""
    network = make(kind).eval()
    batch = rows([[9]])
    ours = token_logprobs(network, batch, temperature=0.7)
    logits = network.model(input_ids=batch.input_ids).logits[0, :-1] / 0.7
    theirs = logits.log_softmax(-1)[torch.arange(8), batch.input_ids[0, 1:]]
    assert torch.allclose(ours[0, 1:], theirs, atol=1e-5)
    assert theirs.std() > 0.05
    parameters = list(network.parameters())
    mine = torch.autograd.grad(ours.sum(), parameters)
    for one, other in zip(mine, torch.autograd.grad(theirs.sum(), parameters), strict=True):
        assert (one - other).abs().max() <= 1e-4 * other.abs().max() + 1e-6


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_packed_equals_unpacked_and_padding_changes_nothing(make, rows, kind, attention):
    """Values to 1e-5, gradients to 1e-5 of the largest; Gemma 2's window of 4 is shorter than sequences."""
    network = make(kind, attention="eager" if kind == "gemma2" else attention, chunk_tokens=4)
    disable_dropout(network)
    alone = rows([[7], [5], [9]])
    packed = rows([[7, 5], [9]], extra=2, pad_id=13)
    assert packed.is_packed
    padded = rows([[7], [5], [9]], extra=6, pad_id=13)
    assert torch.equal(packed.input_ids[packed.segments > 0], alone.input_ids[alone.segments > 0])
    expected = token_logprobs(network, alone)[alone.segments > 0]
    expected_gradients = gradients(network, alone)
    for other in (packed, padded):
        got = token_logprobs(network, other)
        assert torch.allclose(got[other.segments > 0], expected, atol=1e-5)
        assert got[other.segments == 0].abs().sum() == 0
        for name, gradient in gradients(network, other).items():
            scale = expected_gradients[name].abs().max()
            assert (gradient - expected_gradients[name]).abs().max() <= 1e-5 * scale + 1e-6, name


def test_left_padding_changes_nothing(make, rows):
    network = make("llama")
    alone = rows([[5]])
    shifted = TokenBatch(*(torch.nn.functional.pad(value, (3, 0)) for value in vars(alone).values()))
    expected = token_logprobs(network, alone)
    assert torch.allclose(token_logprobs(network, shifted)[:, 3:], expected, atol=1e-5)


@pytest.mark.parametrize("chunk_tokens", [1, 2, 3, 5, 11, 12, 13, 100])
def test_chunks_change_nothing(make, rows, chunk_tokens):
    whole, chunked = make(chunk_tokens=0), make(chunk_tokens=chunk_tokens)
    batch = rows([[4, 3], [6]])
    assert int(predicted(batch).sum()) == 10
    assert torch.allclose(token_logprobs(chunked, batch), token_logprobs(whole, batch), atol=1e-6)
    expected = gradients(whole, batch)
    for name, gradient in gradients(chunked, batch).items():
        assert torch.allclose(gradient, expected[name], atol=1e-5), name


def largest_saved(network, batch) -> int:
    sizes = []

    def pack(tensor):
        sizes.append(tensor.numel())
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        token_logprobs(network, batch).sum()
    return max(sizes)


def test_no_tensor_of_all_logits_is_kept(make, rows):
    shape = {"vocab_size": 4096}
    batch = rows([[32], [32]])
    assert largest_saved(make(chunk_tokens=0, shape=shape), batch) == 62 * 4096
    assert largest_saved(make(chunk_tokens=8, shape=shape), batch) <= 4096 * 32


def test_nothing_under_the_mask_gives_zeros_and_finite_gradients(make, rows):
    for chunk_tokens in (0, 4):
        network = make(chunk_tokens=chunk_tokens)
        batch = rows([[4], [1]])
        batch.mask[:] = False
        result = token_logprobs(network, batch)
        result.sum().backward()
        assert result.abs().sum() == 0
        assert all(p.grad is not None and p.grad.abs().sum() == 0 for p in network.parameters())


def test_float32_whatever_the_weights(make, rows):
    batch = rows([[6]])
    for settings in ({"dtype": "bfloat16"}, {"dtype": "bfloat16", "fp32_head": True}):
        assert token_logprobs(make(**settings), batch).dtype == torch.float32
    network = make(dtype="bfloat16", fp32_head=True)
    assert network.head(network.hidden(batch)).dtype == torch.float32


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_ratio_is_exactly_one_without_dropout(make, rows, kind):
    """No-grad scoring and the training forward agree to the bit, in train mode with recomputation."""
    network = make(kind, gradient_checkpointing=True, chunk_tokens=3)
    disable_dropout(network)
    batch = rows([[7, 4], [8]])
    with torch.no_grad():
        old = token_logprobs(network, batch)
    new = token_logprobs(network, batch)
    assert new.requires_grad
    assert torch.equal(old, new)
