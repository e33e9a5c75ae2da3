"""One step is one step, however it is cut: with plain SGD, since AdamW would hide a factor."""

import pytest
import torch
from fakes import TEXT, KeepGradients, Numbers, difference, grpo, prompt_data, tiny, trainer

from lit_posttrain.data import ChatData
from lit_posttrain.methods import SFTModule
from lit_posttrain.objectives.weights import ConstantLength, PromptMean, SequenceMean, TokenMean

WEIGHTINGS = [TokenMean(), SequenceMean(), PromptMean(), ConstantLength(8)]


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.1)


def gradients(module, data, k, **arguments):
    keep = KeepGradients()
    trainer(max_steps=1, accumulate_grad_batches=k, callbacks=[keep], **arguments).fit(
        module, datamodule=data
    )
    return keep.steps[0], {n: p.detach().clone() for n, p in module.policy.named_parameters()}


def sft(k, weighting, packed=False, row_tokens=0):
    data = ChatData(
        Numbers(8), batch_sequences=8, packed=packed, row_tokens=row_tokens, validation_split=None
    )
    return gradients(SFTModule(tiny(), TEXT, weighting, optimizer=sgd), data, k)


def rl(k, weighting, packed=False, **arguments):
    data = prompt_data(problems_per_rollout=2, packed=packed)
    return gradients(grpo(weighting=weighting, **arguments), data, k)


@pytest.mark.parametrize("weighting", WEIGHTINGS, ids=lambda w: type(w).__name__)
@pytest.mark.parametrize("run", [sft, rl])
def test_one_micro_batch_of_eight_equals_eight_of_one(run, weighting):
    (whole, after), (parts, after_parts) = run(1, weighting), run(8, weighting)
    assert max(float(g.abs().max()) for g in whole.values()) > 1e-3
    assert difference(whole, parts) < 1e-6
    assert difference(after, after_parts) < 1e-6


@pytest.mark.parametrize("run", [sft, rl])
def test_packed_equals_padded(run):
    assert difference(run(1, TokenMean())[0], run(1, TokenMean(), packed=True)[0]) < 1e-6
    assert difference(run(2, SequenceMean())[0], run(2, SequenceMean(), packed=True)[0]) < 1e-6


def test_more_micro_batches_than_sequences():
    assert difference(sft(1, TokenMean())[0], sft(11, TokenMean())[0]) < 1e-6


def test_weightings_differ_from_each_other():
    grads = [rl(1, w)[0] for w in (TokenMean(), SequenceMean(), ConstantLength(8))]
    assert difference(grads[0], grads[1]) > 1e-5
    assert difference(grads[0], grads[2]) > 1e-5


def test_with_a_reference_the_sum_of_losses_is_accumulated_too():
    start = {"kl_weight": 0.3, "rollouts": {"rescore": True}}
    assert difference(rl(1, TokenMean(), **start)[0], rl(4, TokenMean(), **start)[0]) < 1e-6
