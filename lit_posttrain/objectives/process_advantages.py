"""Advantages of tokens from rewards of steps, relative to the steps of other completions of the same problem."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lit_posttrain.batches import Experience, Grade
from lit_posttrain.contracts import Returns, TokenAdvantage
from lit_posttrain.errors import InputError
from lit_posttrain.objectives.advantages import EPSILON, group_relative
from lit_posttrain.objectives.groups import by_group
from lit_posttrain.objectives.returns import StepReturns


def normalised_steps(
    rewards: Float[Tensor, "B T"], ends: Bool[Tensor, "B T"], group: Int[Tensor, " B"], *, scale: bool
) -> Float[Tensor, "B T"]:
    """Rewards of steps minus the mean over all steps of the group, divided by their standard deviation; 0 elsewhere.

    A group whose steps are all rewarded alike gets exactly 0.

    Source: Shao et al. 2024, arXiv:2402.03300, section 4.1.3.
    """
    out = torch.zeros_like(rewards)
    for number in group.unique():
        here = ends & (group == number)[:, None]
        values = rewards[here]
        if len(values) < 2 or bool(values.max() == values.min()):
            continue
        centred = values - values.mean()
        out[here] = centred / (values.std() + EPSILON) if scale else centred
    return out


@dataclass(frozen=True)
class ProcessAdvantage(TokenAdvantage):
    """The advantage of a token is the sum of the relative rewards of the steps that end at it or after it.

    The reward of the whole completion, relative to those of its group, counts as one more step at its last token.
    Completions that could not be graded get 0 and are in no mean. The grader must reward steps, as
    ProcessRewardModel does.

    Args:
        outcome_weight: Weight of the reward of the whole; 0 learns from steps alone.
        scale: Divide by the standard deviation, of steps and of outcomes apart.
        returns: How rewards of later steps are summed.
    """

    outcome_weight: float = 1.0
    scale: bool = True
    returns: Returns = StepReturns()

    def __post_init__(self) -> None:
        if self.outcome_weight < 0:
            raise InputError(f"outcome_weight must not be negative (got {self.outcome_weight})")
        if self.returns.needs_values:
            raise InputError(
                f"{type(self.returns).__name__} needs a value network, which GRPO has none of; use StepReturns, or "
                "PPOModule"
            )

    def __call__(self, experience: Experience) -> Float[Tensor, "B T"]:
        """Advantages (B, T) of one sequence per row.

        Raises:
            InputError: where no completion has steps.
        """
        if experience.token_rewards is None or experience.step_ends is None:
            raise InputError(
                "ProcessAdvantage found no rewards of steps: the grader gives none; use ProcessRewardModel or a grader "
                "that fills Grade.steps"
            )
        live = experience.graded[:, None]
        ends = experience.step_ends & live
        rewards = normalised_steps(experience.token_rewards, ends, experience.group, scale=self.scale)
        outcomes, graded, places = by_group(experience.rewards, experience.graded, experience.group)
        outcome = group_relative(outcomes, graded, scale=self.scale)[places]
        rewards = rewards + self.outcome_weight * outcome[:, None] * last_of(experience.mask)
        advantages, _ = self.returns(rewards, None, experience.mask)
        return advantages * live

    def informative(self, groups: Sequence[Sequence[Grade]]) -> Bool[Tensor, " P"]:
        """Groups in which outcomes or steps are rewarded differently."""
        return torch.tensor([self._differs(group) for group in groups])

    def _differs(self, group: Sequence[Grade]) -> bool:
        graded = [grade for grade in group if grade.reward is not None]
        outcomes = {grade.reward for grade in graded} if self.outcome_weight else set()
        return len(outcomes) > 1 or len({score for grade in graded for _, score in grade.steps}) > 1


def last_of(mask: Bool[Tensor, "B T"]) -> Bool[Tensor, "B T"]:
    """The last masked token of each row, where there is one."""
    later = mask.flip(1).cumsum(1).flip(1)
    return mask & (later == 1)
