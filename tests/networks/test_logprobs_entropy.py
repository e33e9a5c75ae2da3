"""Log-probs and entropies in one pass: values by hand, shift, temperature, gradients."""

import pytest
import torch

from lit_posttrain.errors import InputError
from lit_posttrain.networks.logprobs import of_token_and_entropy, token_logprobs, token_logprobs_and_entropy


def test_by_hand():
    """Chances 1/2, 1/4, 1/4: entropy 1.5 log 2. All alike: log 3. One alone: 0, also far beyond exp."""
    logits = torch.tensor([[2.0, 1.0, 1.0], [7.0, 7.0, 7.0], [1e4, -1e4, 0.0]])
    logits[0] *= torch.tensor(2.0).log()
    values = of_token_and_entropy(logits, torch.tensor([0, 1, 0]))
    half, third = 0.693147, 1.098612
    assert values[:, 0].tolist() == pytest.approx([-half, -third, 0.0], abs=1e-5)
    assert values[:, 1].tolist() == pytest.approx([1.5 * half, third, 0.0], abs=1e-5)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("chunk_tokens", [0, 3])
def test_equals_the_models_own_logits(make, rows, kind, chunk_tokens):
    """Values and gradients against torch's Categorical on the Hugging Face forward, tempered."""
    network = make(kind, chunk_tokens=chunk_tokens).eval()
    batch = rows([[9]])
    logprobs, entropy = token_logprobs_and_entropy(network, batch, temperature=0.7)
    tempered = network.model(input_ids=batch.input_ids).logits[0, :-1] / 0.7
    theirs = torch.distributions.Categorical(logits=tempered).entropy()
    assert torch.allclose(entropy[0, 1:], theirs, atol=1e-5)
    assert theirs.std() > 0.01
    assert entropy[0, 0] == 0
    assert torch.allclose(logprobs, token_logprobs(network, batch, temperature=0.7), atol=1e-5)
    parameters = list(network.parameters())
    mine = torch.autograd.grad(entropy.sum(), parameters, allow_unused=True)
    for one, other in zip(
        mine, torch.autograd.grad(theirs.sum(), parameters, allow_unused=True), strict=True
    ):
        if other is not None:
            assert (one - other).abs().max() <= 1e-4 * other.abs().max() + 1e-6


def test_packed_equals_unpacked_and_nothing_stands_outside_the_mask(make, rows):
    network = make()
    alone, packed = rows([[7], [5]]), rows([[7, 5]], extra=2)
    _, expected = token_logprobs_and_entropy(network, alone)
    _, got = token_logprobs_and_entropy(network, packed)
    assert torch.allclose(got[packed.segments > 0], expected[alone.segments > 0], atol=1e-5)
    packed.mask[:, 3:] = False
    _, masked = token_logprobs_and_entropy(network, packed)
    assert masked[~packed.mask].abs().sum() == 0
    assert (masked[0, 1:3] > 0).all()


def test_a_temperature_of_zero_is_refused(make, rows):
    with pytest.raises(InputError, match="temperature 0"):
        token_logprobs_and_entropy(make(), rows([[3]]), temperature=0.0)
