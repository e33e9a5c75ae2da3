"""What is computed on both sides: what must agree."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from compare_with_trl import TRL
from torch import Tensor

from lit_posttrain.methods.shaping import Shaping
from lit_posttrain.methods.terms import KLInLoss, KLInReward, Terms
from lit_posttrain.objectives.advantages import BatchWhitened, GroupAdvantage, LeaveOneOut
from lit_posttrain.objectives.corrections import MaskedImportance, TruncatedImportance
from lit_posttrain.objectives.entropy import EntropyBonus
from lit_posttrain.objectives.kl import K1, K3
from lit_posttrain.objectives.part_advantages import PartwiseAdvantage
from lit_posttrain.objectives.policy import Clipped, SequenceClipped
from lit_posttrain.objectives.policy_gradient import CISPO, Reinforce
from lit_posttrain.objectives.returns import GAE
from lit_posttrain.objectives.weights import ConstantLength, SequenceMean
from trl_policies import ours, theirs, theirs_ppo
from trl_policies.ours import Recipe
from trl_policies.tensors import WIDTH, Tensors

LAST_WITH_PPO = "trl==1.12.0"
"""PPOTrainer was taken out after it."""


@dataclass(frozen=True)
class Case:
    """The same thing in TRL and in ours: each from the tensors to a loss ().

    Args:
        theirs: TRL's.
        ours: Ours.
        given: Settings of the tensors.
        why: Where the two are not alike on purpose: the reason.
        policy_only: Only the gradient by the policy's log-probs can be compared.
        package: The version of TRL that has it.
    """

    theirs: Callable[[Tensors], Tensor]
    ours: Callable[[Tensors], Tensor]
    given: Mapping[str, Any] = field(default_factory=dict)
    why: str = ""
    policy_only: bool = False
    package: str = TRL


def grpo(recipe: Recipe, given: Mapping[str, Any] | None = None, why: str = "", **settings: Any) -> Case:
    """Parts of GRPOModule beside GRPOTrainer."""
    return Case(partial(theirs.grpo, **settings), partial(ours.grpo, recipe=recipe), given or {}, why)


def rloo(recipe: Recipe, given: Mapping[str, Any], why: str = "", **settings: Any) -> Case:
    """Parts of GRPOModule beside RLOOTrainer, whose loss has the ratio as its value where ours has the log-prob."""
    return Case(
        partial(theirs.rloo, **settings), partial(ours.grpo, recipe=recipe), given, why, policy_only=True
    )


def ppo(
    ours: Callable[[Tensors], Tensor],
    given: Mapping[str, Any],
    why: str = "",
    policy_only: bool = False,
    **settings: Any,
) -> Case:
    """PPOModule beside PPOTrainer."""
    return Case(partial(theirs_ppo.ppo, **settings), ours, given, why, policy_only, LAST_WITH_PPO)


GSPO: dict[str, Any] = {"loss_type": "grpo", "importance_sampling_level": "sequence"}
NARROW: dict[str, Any] = {"epsilon": 0.02, "epsilon_high": 0.03}
LUSPO: dict[str, Any] = GSPO | NARROW | {"loss_type": "luspo"}
ENGINE: dict[str, Any] = {
    "use_vllm": True,
    "vllm_importance_sampling_correction": True,
    "vllm_importance_sampling_clip_max": 1.5,
}
LARGE: dict[str, Any] = {"near": True, "scale": 100.0}
"""Rewards so large that what is added to their deviation does not show."""

LOSSES: dict[str, Case] = {
    "grpo: Clipped, SequenceMean": grpo(Recipe(weighting=SequenceMean()), loss_type="grpo"),
    "dapo: Clipped(0.2, 0.28), TokenMean": grpo(
        Recipe(Clipped(0.2, 0.28)), loss_type="dapo", epsilon_high=0.28
    ),
    "dapo, two micro-batches": grpo(Recipe(), loss_type="dapo", micro_batches=2),
    "bnpo: Clipped, TokenMean": grpo(Recipe(), loss_type="bnpo"),
    "dr_grpo: ConstantLength(12)": grpo(Recipe(weighting=ConstantLength(WIDTH)), loss_type="dr_grpo"),
    "delta: Clipped(dual=1.5)": grpo(Recipe(Clipped(dual=1.5)), loss_type="dapo", delta=1.5),
    "cispo: CISPO(cap=1.3)": grpo(Recipe(CISPO(1.3)), loss_type="cispo", epsilon_high=1.3),
    "GSPO: SequenceClipped, SequenceMean": grpo(
        Recipe(SequenceClipped(0.02, 0.03), SequenceMean()), **GSPO, **NARROW
    ),
    "luspo: SequenceClipped, ConstantLength(1)": grpo(
        Recipe(SequenceClipped(0.02, 0.03), ConstantLength(1)), **LUSPO
    ),
    "tool_mask: injected tokens": grpo(Recipe(injected=True), loss_type="dapo", injected=True),
    "tool_mask, GSPO": grpo(
        Recipe(SequenceClipped(0.02, 0.03), SequenceMean(), injected=True), injected=True, **GSPO, **NARROW
    ),
    "mask_truncated_completions, dapo": grpo(
        Recipe(unweighted=True), loss_type="dapo", mask_truncated_completions=True
    ),
}
TERMS: dict[str, Case] = {
    "beta: KLInLoss(K3(importance))": grpo(
        Recipe(terms=Terms(kl=KLInLoss(0.1, K3(importance=True)))), loss_type="dapo", beta=0.1
    ),
    "beta, no bias correction: KLInLoss(K3)": grpo(
        Recipe(weighting=SequenceMean(), terms=Terms(kl=KLInLoss(0.1, K3()))),
        loss_type="grpo",
        beta=0.1,
        use_bias_correction_kl=False,
    ),
    "entropy_coef: EntropyBonus, TokenMean": grpo(
        Recipe(terms=Terms(entropy=EntropyBonus(0.05))), loss_type="dapo", entropy_coef=0.05
    ),
    "token_truncate: TruncatedImportance(1.5)": grpo(
        Recipe(terms=Terms(correction=TruncatedImportance(1.5))),
        vllm_importance_sampling_mode="token_truncate",
        **ENGINE,
    ),
    "token_mask: MaskedImportance(0.7, 1.5)": grpo(
        Recipe(terms=Terms(correction=MaskedImportance(0.7, 1.5))),
        vllm_importance_sampling_mode="token_mask",
        vllm_importance_sampling_clip_min=0.7,
        **ENGINE,
    ),
    "token_mask with beta": grpo(
        Recipe(terms=Terms(KLInLoss(0.1, K3(importance=True)), None, MaskedImportance(0.0, 1.5))),
        vllm_importance_sampling_mode="token_mask",
        beta=0.1,
        **ENGINE,
    ),
}
ADVANTAGES: dict[str, Case] = {
    "scale_rewards none": grpo(Recipe(), {"near": True}),
    "scale_rewards group": grpo(Recipe(advantage=GroupAdvantage("group")), LARGE, scale_rewards="group"),
    "scale_rewards group, one ungraded": grpo(
        Recipe(advantage=GroupAdvantage("group")), LARGE | {"ungraded": True}, scale_rewards="group"
    ),
    "scale_rewards batch, equal means": grpo(
        Recipe(advantage=GroupAdvantage("batch")), LARGE | {"equal_means": True}, scale_rewards="batch"
    ),
    "reward_weights": grpo(
        Recipe(advantage=GroupAdvantage("group"), parts=(1.0, 0.3)),
        LARGE,
        scale_rewards="group",
        reward_weights=[1.0, 0.3],
    ),
    "normalize_then_sum: PartwiseAdvantage": grpo(
        Recipe(advantage=PartwiseAdvantage({"first": 100.0, "second": 30.0}, "group", "batch")),
        LARGE,
        multi_objective_aggregation="normalize_then_sum",
        reward_weights=[100.0, 30.0],
    ),
    "RLOO: LeaveOneOut, Reinforce": rloo(
        Recipe(Reinforce(), ConstantLength(1), LeaveOneOut()), {"near": True}
    ),
    "RLOO, one ungraded": rloo(
        Recipe(Reinforce(), ConstantLength(1), LeaveOneOut()), {"near": True, "ungraded": True}
    ),
    "RLOO, beta: KLInReward(K1)": rloo(
        Recipe(Reinforce(), ConstantLength(1), LeaveOneOut(), Terms(kl=KLInReward(0.1, K1()))),
        {"near": True},
        beta=0.1,
    ),
    "RLOO, normalize_advantages: BatchWhitened(group)": rloo(
        Recipe(Reinforce(), ConstantLength(1), BatchWhitened("group")), LARGE, normalize_advantages=True
    ),
}
PPO: dict[str, Case] = {
    "PPO: GAE, clipped policy and value, whitened": ppo(partial(ours.ppo, terms=Terms()), {"even": True}),
    "PPO, gamma 0.9, lam 0.7": ppo(
        partial(ours.ppo, terms=Terms(), returns=GAE(0.9, 0.7)), {"even": True}, gamma=0.9, lam=0.7
    ),
    "PPO, kl_coef: KLInReward(K1)": ppo(
        partial(ours.ppo, terms=Terms(kl=KLInReward(0.2, K1()))), {"even": True}, kl_coef=0.2
    ),
    "PPO, kl_estimator k3": ppo(
        partial(ours.ppo, terms=Terms(kl=KLInReward(0.2, K3()))),
        {"even": True},
        kl_coef=0.2,
        kl_estimator="k3",
    ),
    "PPO, whiten_rewards": ppo(
        partial(ours.ppo, terms=Terms(kl=KLInReward(0.2, K1())), shaping=Shaping(whiten_rewards=True)),
        {"even": True},
        kl_coef=0.2,
        whiten_rewards=True,
    ),
    "PPO, missing_eos_penalty": ppo(
        partial(ours.ppo, terms=Terms(), shaping=Shaping(missing_eos_penalty=1.5)),
        {"even": True},
        missing_eos_penalty=1.5,
    ),
    "PPO, uneven, lam 1: the policy": ppo(
        partial(ours.ppo, terms=Terms(), returns=GAE(1.0, 1.0)), {}, policy_only=True, lam=1.0
    ),
    "PPO, uneven, reward one step behind the end": ppo(partial(ours.ppo_beyond_end, trace=0.95), {}),
}
CASES: dict[str, Case] = LOSSES | TERMS | ADVANTAGES | PPO
