"""Rewards of the tokens of a rollout, as PPO learns from them."""

from dataclasses import dataclass

from torch import Tensor

from lit_posttrain.batches import Experience, StopReason
from lit_posttrain.errors import InputError
from lit_posttrain.objectives.process_advantages import last_of
from lit_posttrain.objectives.whitening import whitened


@dataclass(frozen=True)
class Shaping:
    """What is done to rewards and advantages of a rollout before they are learned from.

    Args:
        missing_eos_penalty: Taken off the reward of completions that were cut at the length limit.
        whiten_rewards: Divide the rewards of all tokens, KL included, by their standard deviation; their mean stays.
        whiten_advantages: Give the advantages of all tokens mean 0 and standard deviation 1.
    """

    missing_eos_penalty: float = 0.0
    whiten_rewards: bool = False
    whiten_advantages: bool = True

    def __post_init__(self) -> None:
        if self.missing_eos_penalty < 0:
            raise InputError(
                f"missing_eos_penalty is {self.missing_eos_penalty}; it is taken off, so give 0 or more"
            )

    def token_rewards(self, experience: Experience, penalties: Tensor) -> Tensor:
        """(B, T): of the whole at its last token, of steps at theirs, less `penalties` (B, T) and that of a cut.

        One sequence per row.
        """
        cut = experience.stop == list(StopReason).index(StopReason.LENGTH)
        whole = experience.rewards - self.missing_eos_penalty * cut
        rewards = whole[:, None] * last_of(experience.mask) - penalties
        if experience.token_rewards is not None:
            rewards = rewards + experience.token_rewards
        return whitened(rewards, experience.mask, keep_mean=True) if self.whiten_rewards else rewards
