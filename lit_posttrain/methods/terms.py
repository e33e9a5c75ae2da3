"""What stands beside the policy loss: a KL to a reference, an entropy bonus, a correction of the engine."""

from abc import ABC
from dataclasses import dataclass
from typing import ClassVar

from lit_posttrain.contracts import Correction, KLCoefficient, KLEstimator
from lit_posttrain.errors import InputError
from lit_posttrain.methods.references import AsDrawn, Fixed, ReferencePolicy
from lit_posttrain.objectives.entropy import EntropyBonus
from lit_posttrain.objectives.kl import K1, K3
from lit_posttrain.objectives.kl_coefficients import Constant


@dataclass(frozen=True)
class KLTerm(ABC):
    """A KL of the policy to a reference, which pulls it back.

    Args:
        coefficient: Its weight: a number, or Annealed or Adaptive.
        estimator: How the KL is estimated from the policy's own tokens: K1, K2, K3.
        reference: Which policy it is to.
    """

    in_reward: ClassVar[bool]

    coefficient: float | KLCoefficient = 0.04
    estimator: KLEstimator = K3()  # noqa: RUF009 (frozen)
    reference: ReferencePolicy = Fixed()  # noqa: RUF009 (frozen)

    def __post_init__(self) -> None:
        if not isinstance(self.coefficient, KLCoefficient):
            Constant(self.coefficient)  # refuses negative ones
        if isinstance(self.reference, AsDrawn):
            raise InputError(
                "the KL to the policy that drew a rollout is what clipping is for, and is always logged as "
                "policy/kl_old_nats; set the reference to Fixed, ResetEvery(steps=…) or MovingAverage"
            )

    @property
    def schedule(self) -> KLCoefficient:
        """The weight as a part."""
        return self.coefficient if isinstance(self.coefficient, KLCoefficient) else Constant(self.coefficient)


@dataclass(frozen=True)
class KLInLoss(KLTerm):
    """Adds the KL to the loss of each token that is learned from.

    The gradient depends on the estimator: only K2 over the sequence, and K3 with importance, have that of the KL; K1
    has none, and K3 (the default, as GRPO was published) pulls towards the reference's own samples.

    Args:
        coefficient: Its weight: a number, or Annealed or Adaptive.
        estimator: How the KL is estimated from the policy's own tokens: K1, K2, K3.
        reference: Which policy it is to.
    """

    in_reward: ClassVar[bool] = False


@dataclass(frozen=True)
class KLInReward(KLTerm):
    """Takes the KL off the reward, so that the policy gradient sees it as a cost.

    With K1 this is the gradient of the KL, whatever the advantage's baseline. Methods with one advantage per
    completion take off the sum over its tokens; PPO takes off each token's own.

    Args:
        coefficient: Its weight: a number, or Annealed or Adaptive.
        estimator: How the KL is estimated from the policy's own tokens: K1, K2, K3.
        reference: Which policy it is to.
    """

    in_reward: ClassVar[bool] = True

    estimator: KLEstimator = K1()  # noqa: RUF009 (frozen)


@dataclass(frozen=True)
class Terms:
    """What stands beside the policy loss.

    Args:
        kl: A KL to a reference: KLInLoss or KLInReward. The reference is only loaded where there is one.
        entropy: A bonus for the entropy of the next token.
        correction: Factors on the policy loss for what engine and trainer disagree on: TruncatedImportance or
            MaskedImportance; needs rollouts.rescore.
    """

    kl: KLTerm | None = None
    entropy: EntropyBonus | None = None
    correction: Correction | None = None
