"""One run of a real module on the listed problem."""

import logging
from dataclasses import dataclass
from functools import partial
from typing import Any

import lightning.pytorch as pl
import torch

from lit_posttrain.batches import Sampling
from lit_posttrain.contracts import KLCoefficient, KLEstimator, Reuse
from lit_posttrain.data import PromptData
from lit_posttrain.methods import GRPOModule, PPOModule, WarmupDecay
from lit_posttrain.methods.rollouts import Rollouts
from lit_posttrain.methods.shaping import Shaping
from lit_posttrain.methods.terms import KLInLoss, KLInReward, Terms
from lit_posttrain.methods.value_learning import ValueLearning
from lit_posttrain.objectives.advantages import GroupAdvantage
from lit_posttrain.objectives.kl import K1, K2, K3
from lit_posttrain.objectives.kl_coefficients import Annealed, Constant
from lit_posttrain.objectives.policy import Clipped
from lit_posttrain.objectives.returns import GAE
from lit_posttrain.objectives.weights import ConstantLength
from policy_law import problem

RATE, FIRST_BETA, ANNEALED = 3e-3, 2.0, 0.7
ESTIMATORS: dict[str, KLEstimator] = {"k1": K1(), "k2": K2(over="sequence"), "k3": K3(over="sequence")}
CASES = (
    "grpo-reward-k1",
    "ppo-reward-k1",
    "grpo-loss-k2",
    "ppo-loss-k2",
    "grpo-loss-k3",
    "grpo-loss-k1",
    "grpo-reward-k1-constant",
)


@dataclass(frozen=True)
class Law:
    """A case: METHOD-PLACE-ESTIMATOR, with `-constant` where beta is not annealed; `batch` completions a step."""

    case: str
    beta: float
    seed: int
    steps: int
    batch: int = 1024

    @property
    def label(self) -> str:
        """The name of its file."""
        return f"{self.case}_beta-{self.beta}_seed-{self.seed}_steps-{self.steps}_batch-{self.batch}"


@dataclass(frozen=True)
class Outcome:
    """Total variation to pi* and to the optimum of the forward KL at the end, and that of the start to pi*."""

    to_best: float
    to_forward: float
    start: float
    reference_untouched: bool
    seconds: float = 0.0


def learn(law: Law) -> Outcome:
    """Trains by the case and compares with what theory says."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    module = make(law)
    module.configure_model()
    with torch.no_grad():
        reference = problem.log_policy(module.policy)
    data = PromptData(problem.OnePrompt(1), problems_per_rollout=1, rollouts_per_epoch=law.steps)
    trainer = pl.Trainer(
        max_steps=law.steps,
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        limit_val_batches=0,
        gradient_clip_val=1.0,
    )
    trainer.fit(module, datamodule=data)
    reward = problem.rewards(law.seed)
    with torch.no_grad():
        policy = problem.log_policy(module.policy).exp()
        with module.reference.network(module) as network:
            untouched = torch.equal(problem.log_policy(network), reference)
    best = problem.best(reference, reward, law.beta)
    forward = problem.forward_best(reference, reward, law.beta)
    return Outcome(
        problem.variation(policy, best),
        problem.variation(policy, forward),
        problem.variation(reference.exp(), best),
        untouched,
    )


def make(law: Law) -> GRPOModule | PPOModule:
    """The module of a case, set up so that its gradient is unbiased: on-policy, nothing divided, nothing whitened."""
    method, place, estimator, *rest = law.case.split("-")
    coefficient: KLCoefficient = Constant(law.beta)
    if "constant" not in rest:
        coefficient = Annealed(FIRST_BETA, law.beta, round(ANNEALED * law.steps))
    term = KLInReward if place == "reward" else KLInLoss
    rollouts = Rollouts(law.batch, Sampling(max_new_tokens=problem.MOST))
    shared: dict[str, Any] = {
        "text": problem.TEXT,
        "rollouts": rollouts,
        "loss": Clipped(),
        "weighting": ConstantLength(problem.MOST),
        "reuse": Reuse(),
        "terms": Terms(kl=term(coefficient, ESTIMATORS[estimator])),
        "optimizer": partial(torch.optim.Adam, lr=RATE),
        "schedule": partial(WarmupDecay, total_steps=law.steps, shape="cosine"),
        "seed": law.seed,
    }
    network, grader = problem.network(law.seed), problem.TableGrader(law.seed)
    if method == "grpo":
        return GRPOModule(network, grader, advantage=GroupAdvantage(deviation="none"), **shared)
    return PPOModule(
        network,
        grader,
        returns=GAE(discount=1.0, trace=1.0),
        value=ValueLearning(clip=None),
        shaping=Shaping(whiten_advantages=False),
        **shared,
    )
