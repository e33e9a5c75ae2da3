"""What is not there must not count: padding, fully masked rows, the order of rows."""

import pytest
import torch
from fakes import TEXT, KeepGradients, Numbers, difference, tiny, trainer

from lit_posttrain import collate
from lit_posttrain.data import ChatData
from lit_posttrain.data.steps import weigh
from lit_posttrain.methods import SFTModule
from lit_posttrain.networks import build, token_logprobs
from lit_posttrain.objectives.masked import weighted_sum
from lit_posttrain.objectives.weights import SequenceMean, TokenMean


@pytest.fixture(scope="module")
def network():
    return build(tiny())


def batch_of(rows, masks):
    step = collate.from_lists(rows, masks, pad_id=0)
    weigh(step, TokenMean())
    return step


def loss_and_gradients(network, batch):
    network.zero_grad()
    loss = weighted_sum(-token_logprobs(network, batch), batch.weights)
    if loss.requires_grad:
        loss.backward()
    return loss.detach(), {n: p.grad.clone() for n, p in network.named_parameters() if p.grad is not None}


ROWS = [[3, 4, 5, 6, 7], [8, 9, 10]]
MASKS = [[False, False, True, True, True], [False, True, True]]


def test_a_fully_masked_row_gives_zero_and_changes_nothing(network):
    loss, gradients = loss_and_gradients(network, batch_of(ROWS, MASKS))
    more, same = loss_and_gradients(network, batch_of([*ROWS, [4, 5, 6]], [*MASKS, [False] * 3]))
    assert torch.allclose(loss, more, atol=1e-6)
    assert difference(gradients, same) < 1e-6


@pytest.mark.parametrize("weighting", [TokenMean(), SequenceMean()])
def test_a_batch_of_masked_rows_only_is_zero_not_nan(network, weighting):
    step = collate.from_lists(ROWS, [[False] * 5, [False] * 3], pad_id=0)
    weigh(step, weighting)
    loss, gradients = loss_and_gradients(network, step)
    assert loss == 0
    assert all(torch.equal(g, torch.zeros_like(g)) for g in gradients.values())


def test_padding_and_its_content_change_nothing(network):
    loss, gradients = loss_and_gradients(network, batch_of(ROWS, MASKS))
    for content in (0, 7):
        wide = batch_of([*ROWS, [1] * 12], [*MASKS, [False] * 12])
        wide.input_ids[wide.segments == 0] = content
        more, same = loss_and_gradients(network, wide)
        assert torch.allclose(loss, more, atol=1e-6)
        assert difference(gradients, same) < 1e-6


def test_the_order_of_rows_changes_nothing(network):
    loss, gradients = loss_and_gradients(network, batch_of(ROWS, MASKS))
    swapped, same = loss_and_gradients(network, batch_of(ROWS[::-1], MASKS[::-1]))
    assert torch.allclose(loss, swapped, atol=1e-6)
    assert difference(gradients, same) < 1e-6


@pytest.mark.parametrize("chunk_tokens", [1, 3, 1000])
def test_chunks_of_the_head_change_nothing(chunk_tokens):
    runs = []
    for chunk in (0, chunk_tokens):
        keep = KeepGradients()
        module = SFTModule(tiny(chunk_tokens=chunk), TEXT, optimizer=lambda p: torch.optim.SGD(p, lr=0.1))
        data = ChatData(Numbers(8), batch_sequences=8, validation_split=None)
        trainer(max_steps=1, callbacks=[keep]).fit(module, datamodule=data)
        runs.append(keep.steps[0])
    assert difference(*runs) < 1e-6
