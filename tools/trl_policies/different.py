"""Where the two are not alike on purpose, and why."""

from functools import partial

from lit_posttrain.methods.terms import KLInLoss, KLInReward, Terms
from lit_posttrain.objectives.advantages import GroupAdvantage, LeaveOneOut
from lit_posttrain.objectives.corrections import MaskedImportance, TruncatedImportance
from lit_posttrain.objectives.entropy import EntropyBonus
from lit_posttrain.objectives.kl import K1, K3
from lit_posttrain.objectives.policy import SequenceClipped
from lit_posttrain.objectives.policy_gradient import CISPO, Reinforce
from lit_posttrain.objectives.weights import ConstantLength, SequenceMean
from trl_policies import ours
from trl_policies.cases import ENGINE, GSPO, LARGE, NARROW, Case, grpo, ppo, rloo
from trl_policies.ours import Recipe

DIFFERENT: dict[str, Case] = {
    "scale_rewards group, rewards of 1": grpo(
        Recipe(advantage=GroupAdvantage("group")),
        {"near": True},
        "TRL adds 1e-4 to a standard deviation and ours 1e-6, so that advantages differ by up to 1e-4 of themselves. "
        "Both are arbitrary; with rewards in hundreds both agree (above).",
        scale_rewards="group",
    ),
    "scale_rewards group, one group of equal rewards": grpo(
        Recipe(advantage=GroupAdvantage("group")),
        LARGE | {"uniform": True},
        "the mean of eight equal rewards can differ from them in the last bit. TRL divides what is left by 1e-4, so "
        "that a group that teaches nothing pushes: here, at rewards of 67, with an advantage of 0.08, at rewards below "
        "1 with up to 0.001. Ours gives exactly 0.",
        scale_rewards="group",
    ),
    "scale_rewards batch": grpo(
        Recipe(advantage=GroupAdvantage("batch")),
        {"near": True},
        "TRL divides by the standard deviation of the rewards of the batch, between problems too; ours by that of the "
        "advantages, which ScaleRL states. Where problems differ in difficulty TRL's advantages are smaller. With "
        "groups of equal means both agree (above).",
        scale_rewards="batch",
    ),
    "cispo with TRL's default cap": grpo(
        Recipe(CISPO()),
        {},
        "GRPOTrainer's `epsilon_high` is the cap itself under `cispo`, and by default `epsilon`, 0.2: every ratio is "
        "held at 0.2, so that there is no importance weight left and a fifth of the gradient. Ours refuses a cap below "
        "1, and has 5 by default. With a cap that is named both agree (above).",
        loss_type="cispo",
    ),
    "grpo, mask_truncated_completions": grpo(
        Recipe(weighting=SequenceMean(), unweighted=True),
        {},
        "TRL takes the mean over all completions, those that are masked included, so that many truncations make the "
        "step smaller; with ours the others share the whole weight. Under `dapo` both count tokens, and agree (above).",
        loss_type="grpo",
        mask_truncated_completions=True,
    ),
    "bnpo, two micro-batches": grpo(
        Recipe(),
        {},
        "TRL's `bnpo` is the mean of each micro-batch's mean, so that it depends on how a step is cut; ours is the "
        "mean over the step, as TRL's `dapo` with two micro-batches is (above).",
        loss_type="bnpo",
        micro_batches=2,
    ),
    "dapo, two steps of a rollout": grpo(
        Recipe(first=True),
        {},
        "TRL divides the tokens of the rollout by its steps: a step of short completions weighs less. Ours counts the "
        "step's own tokens, so that weights of each step sum to 1. The paper has a single sum, and decides neither.",
        loss_type="dapo",
        micro_batches=2,
        first=True,
    ),
    "entropy_coef, grpo": grpo(
        Recipe(weighting=SequenceMean(), terms=Terms(entropy=EntropyBonus(0.05))),
        {},
        "TRL's bonus is always a mean over tokens; ours is weighed as the loss is. A matter of definition; with a mean "
        "over tokens both agree (above).",
        loss_type="grpo",
        entropy_coef=0.05,
    ),
    "GSPO with beta": grpo(
        Recipe(
            SequenceClipped(0.02, 0.03), SequenceMean(), terms=Terms(kl=KLInLoss(0.1, K3(importance=True)))
        ),
        {},
        "TRL multiplies each token's k3 by the geometric mean of the sequence's ratios, ours by the token's own ratio. "
        "The first is no importance weight of anything, and its gradient not that of the KL, as TRL's documentation "
        "says; the second has that of each next token.",
        beta=0.1,
        **GSPO,
        **NARROW,
    ),
    "sequence_truncate": grpo(
        Recipe(terms=Terms(correction=TruncatedImportance(1.5, "sequence"))),
        {},
        "TRL's ratio of a sequence is the product over its tokens: the exact weight, but a mean gap of 0.012 nats "
        "makes it 3.3 at 100 tokens and 1.6e5 at 1,000, so that the cap decides. Ours is the geometric mean: biased, "
        "with the same meaning at any length.",
        vllm_importance_sampling_mode="sequence_truncate",
        **ENGINE,
    ),
    "sequence_mask": grpo(
        Recipe(terms=Terms(correction=MaskedImportance(0.0, 1.5, "sequence"))),
        {},
        "the same product, in TRL's default mode: the longer a completion, the likelier it is left out, whatever it "
        "says.",
        vllm_importance_sampling_mode="sequence_mask",
        **ENGINE,
    ),
    "RLOO away from the policy that drew": rloo(
        Recipe(Reinforce(), ConstantLength(1), LeaveOneOut()),
        {},
        "TRL clips the ratio of the whole completion, a product, at 1 ± epsilon; the paper has no ratio, as it learns "
        "once from each completion. Ours is the paper's; for several steps of a rollout take CISPO or Clipped. On the "
        "first step both agree (above).",
    ),
    "PPO, uneven completions": ppo(
        partial(ours.ppo, terms=Terms(kl=KLInReward(0.2, K1()))),
        {},
        "TRL gives the reward one place behind the end token, where it counts the value of the finished completion as "
        "that of one more state, which is learned too; at the length limit there is no such place and the reward is at "
        "the last token. Ours always has it at the last token, with the value 0 behind it. With λ = 1 both have the "
        "same advantages, and given the additional state our arithmetic agrees (both above).",
        kl_coef=0.2,
    ),
}
"""Where the two are not alike on purpose."""
