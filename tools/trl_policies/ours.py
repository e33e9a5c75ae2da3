"""Our parts on the shared tensors: a step is the whole rollout, its loss the sum of weights times token losses."""

import contextlib
from dataclasses import dataclass, replace
from types import SimpleNamespace

import torch
from torch import Tensor

from lit_posttrain import collate
from lit_posttrain.batches import Experience, StopReason
from lit_posttrain.contracts import Advantage, PolicyLoss, Reuse, TokenWeights
from lit_posttrain.data.steps import weigh
from lit_posttrain.methods.grpo import GRPOModule
from lit_posttrain.methods.policy_terms import LiveTerms
from lit_posttrain.methods.ppo import PPOModule
from lit_posttrain.methods.rollouts import Rollouts
from lit_posttrain.methods.shaping import Shaping
from lit_posttrain.methods.terms import Terms
from lit_posttrain.methods.value_learning import ValueLearning
from lit_posttrain.objectives.advantages import GroupAdvantage
from lit_posttrain.objectives.masked import masked_mean, weighted_sum
from lit_posttrain.objectives.policy import Clipped, clipped_surrogate
from lit_posttrain.objectives.returns import GAE, gae
from lit_posttrain.objectives.value import value_loss, whitened
from lit_posttrain.objectives.weights import TokenMean
from trl_policies.tensors import GROUP, PROBLEMS, ROWS, WIDTH, Tensors, entropy, new_values, policy


def behind_prompt(values: Tensor) -> Tensor:
    """(24, 12) behind a prompt of one token: (24, 13), the first entry 0."""
    return torch.nn.functional.pad(values, (1, 0))


def experience(given: Tensors, mask: Tensor) -> Experience:
    """The rollout, one completion to a row; its reward is the sum of both parts."""
    whole = torch.ones(ROWS, WIDTH + 1, dtype=torch.int64)
    stops = [list(StopReason).index(reason) for reason in (StopReason.EOS, StopReason.LENGTH)]
    inside = behind_prompt(given["mask"])
    inside[:, 0] = True
    return Experience(
        input_ids=whole,
        segments=torch.arange(1, ROWS + 1)[:, None] * inside,
        position_ids=whole.cumsum(dim=1) - 1,
        mask=behind_prompt(mask),
        weights=torch.zeros(ROWS, WIDTH + 1),
        sampled_logprobs=behind_prompt(given["sampled"]),
        old_logprobs=behind_prompt(given["old"]),
        advantages=torch.zeros(ROWS, WIDTH + 1),
        reference_logprobs=behind_prompt(given["reference"]),
        values=behind_prompt(given["values"]),
        rewards=given["rewards"].nan_to_num().sum(dim=1),
        graded=~given["rewards"].isnan().any(dim=1),
        group=torch.arange(ROWS) // GROUP,
        stop=torch.where(given["cut"], stops[1], stops[0]),
        policy_version=torch.zeros(ROWS, dtype=torch.int64),
    )


@dataclass(frozen=True)
class Recipe:
    """The parts of GRPOModule that are compared.

    Args:
        loss: The surrogate.
        weighting: How the tokens of the step are weighed.
        advantage: From rewards.
        terms: What stands beside the loss.
        parts: What the two parts of the reward are multiplied with before they are summed.
        injected: Some tokens were put there and not drawn.
        unweighted: Completions that were cut have no weight.
        first: The first half of the rollout is a step of its own.
    """

    loss: PolicyLoss = Clipped()
    weighting: TokenWeights = TokenMean()
    advantage: Advantage = GroupAdvantage("none")
    terms: Terms = Terms()
    parts: tuple[float, float] = (1.0, 1.0)
    injected: bool = False
    unweighted: bool = False
    first: bool = False


def grpo(given: Tensors, recipe: Recipe) -> Tensor:
    """The loss of a step of GRPOModule."""
    terms = LiveTerms(recipe.terms, Rollouts(rescore=True))
    mask = given["mask"] & ~given["injected"] if recipe.injected else given["mask"]
    given = given | {"rewards": given["rewards"] * torch.tensor(recipe.parts)}
    batch = experience(given, mask)
    apart = given["rewards"].nan_to_num() if recipe.advantage.parts else batch.rewards[:, None]
    advantages = recipe.advantage(apart.view(PROBLEMS, GROUP, -1), batch.graded.view(PROBLEMS, GROUP))
    batch.advantages = advantages.view(ROWS, 1) * batch.mask
    method = SimpleNamespace(
        advantage=recipe.advantage, terms=terms, reuse=Reuse(), global_step=0, record=lambda values: None
    )
    GRPOModule.settle(method, batch)  # pyright: ignore[reportArgumentType]
    rows = list(range(ROWS // 2 if recipe.first else ROWS))
    batch = collate.take(replace(batch, counted=~given["cut"] if recipe.unweighted else None), rows)
    weigh(batch, recipe.weighting, batch.group, batch.counted)
    bonus = behind_prompt(entropy(given))[rows] if recipe.terms.entropy else None
    logprobs = behind_prompt(policy(given))[rows]
    losses, _ = terms.objective(recipe.loss, logprobs, batch, entropy=bonus, steps=0)
    return weighted_sum(losses, batch.weights)


def ppo(given: Tensors, terms: Terms, shaping: Shaping = Shaping(), returns: GAE = GAE()) -> Tensor:
    """The loss of a step of PPOModule, values included."""
    batch = experience(given, given["mask"])
    method = SimpleNamespace(
        returns=returns,
        shaping=shaping,
        terms=LiveTerms(terms, Rollouts()),
        loss=Clipped(),
        learning=ValueLearning(coefficient=0.1, clip=0.2),
        reuse=Reuse(),
        global_step=0,
        record=lambda values: None,
        ledger=SimpleNamespace(phase=lambda phase: contextlib.nullcontext()),
        reduce=lambda losses, batch, stats: weighted_sum(losses, batch.weights),
        _read=lambda batch, read: (behind_prompt(policy(given)), behind_prompt(new_values(given))),
        _warming_up=False,
    )
    PPOModule.settle(method, batch)  # pyright: ignore[reportArgumentType]
    weigh(batch, TokenMean(), batch.group, None)
    return PPOModule.training_step(method, batch, 0)  # pyright: ignore[reportArgumentType]


def ppo_beyond_end(given: Tensors, trace: float) -> Tensor:
    """The same arithmetic where the state behind the end token counts as one more step, which has the reward."""
    mask, places = given["mask"], torch.arange(WIDTH)
    length = mask.sum(dim=1, keepdim=True)
    with_end = places <= length
    rewards = given["rewards"].sum(dim=1, keepdim=True) * (places == length.clamp(max=WIDTH - 1))
    advantages = gae(rewards, given["values"], with_end, trace=trace)
    log_ratio = policy(given) - given["old"]
    advantages, returns = whitened(advantages, mask, keep_mean=False), advantages + given["values"]
    losses = clipped_surrogate(log_ratio, advantages, low=0.2, high=0.2)
    errors, _ = value_loss(new_values(given), given["values"], returns, clip=0.2)
    return masked_mean(losses, mask) + 0.1 * masked_mean(errors, with_end)
