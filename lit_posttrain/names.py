"""The metric vocabulary: every logged name is `area/quantity_unit` and stands here.

`reward/<part>` and `reward/<part>_standard_deviation` are open, since graders name their own parts. Nothing logs a
name outside this list.
"""

import re

METRICS: dict[str, str] = {
    # one optimiser step of training
    "train/loss": "loss of the optimiser step, as minimised",
    "train/learning_rate": "learning rate of the first parameter group",
    "train/gradient_norm": "norm of the gradient before clipping; `_<part>` of a part of the policy, or of a network",
    "train/skipped_steps": "optimiser steps without any signal, so far",
    "train/tokens": "tokens with a weight in this optimiser step",
    "train/negative_log_likelihood_nats": "mean over the tokens of this optimiser step",
    # one rollout
    "rollout/length_mean_tokens": "mean completion length",
    "rollout/length_min_tokens": "length of the shortest completion",
    "rollout/length_max_tokens": "length of the longest completion",
    "rollout/finished_length_mean_tokens": "mean length of completions that ended by themselves",
    "rollout/finished_length_min_tokens": "length of the shortest of them",
    "rollout/finished_length_max_tokens": "length of the longest of them",
    "rollout/interrupted_fraction": "share of completions that were interrupted and asked for the answer",
    "rollout/effective_samples": "(sum |a|)^2 / sum a^2 of the advantages: samples of equal pull that say as much",
    "rollout/truncated_fraction": "share of completions cut at the length limit",
    "rollout/solve_all_fraction": "share of groups in which every answer has the same highest reward",
    "rollout/solve_none_fraction": "share of groups in which every answer has the same lower reward",
    "rollout/informative_fraction": "share of completions whose group has different rewards",
    "rollout/ungraded_fraction": "share of completions that could not be graded",
    "rollout/kept_fraction": "share of completions kept for supervised training",
    "rollout/pairs": "pairs made of the completions of a round",
    "rollout/paired_fraction": "share of problems whose completions gave a pair",
    "rollout/tied_fraction": "share of problems whose graded completions have one and the same reward, or are too few",
    "rollout/problems": "problems drawn so far",
    "rollout/refill_draws": "prompt batches that were drawn for a rollout",
    "rollout/queued_rollouts": "rollouts drawn ahead that wait behind the one that is begun",
    "rollout/policy_version": "optimiser steps behind the policy that drew the rollout that is begun",
    "rollout/retired_problems": "problems that have left training for good, so far",
    "rollout/pass_rate_hard_fraction": "share of right completions, of problems last solved in less than a third",
    "rollout/pass_rate_middle_fraction": "the same of problems last solved in a third to two thirds",
    "rollout/pass_rate_easy_fraction": "the same of problems last solved in more than two thirds",
    "reward/mean": "mean reward of the graded completions of a rollout",
    "reward/standard_deviation": "standard deviation of the rewards of a rollout",
    "reward/group_standard_deviation": "mean over groups of the unbiased standard deviation of their rewards",
    "reward/correct_fraction": "share of graded completions that are correct",
    # the policy against its older selves
    "policy/entropy_nats": "minus the mean log-probability of sampled tokens",
    "policy/ratio_mean": "mean importance ratio new over old",
    "policy/ratio_max": "largest importance ratio of the step",
    "policy/clipped_low_fraction": "share of tokens held by the lower clip bound",
    "policy/clipped_high_fraction": "share of tokens held by the upper clip bound",
    "policy/kl_reference_nats": "mean per-token KL to the reference, k3 estimate",
    "policy/kl_completion_nats": "mean log-ratio of a rollout's completions to the reference, sum over tokens (k1)",
    "policy/kl_weight": "weight of the KL to the reference",
    "policy/entropy_weight": "weight of the entropy bonus",
    "policy/reference_version": "how often the policy's weights have joined the reference",
    "policy/kl_teacher_nats": "mean per-token log-ratio to the teacher (k1 estimate of the reverse KL)",
    "policy/kl_old_nats": "mean per-token KL to the policy that drew the rollout, k3 estimate",
    "policy/engine_gap_nats": "mean |log-prob of trainer - log-prob of engine| of sampled tokens",
    "policy/engine_gap_nats_max": "the largest such difference of the step",
    "policy/correction_mean": "mean factor on the policy loss for the gap between engine and trainer",
    "policy/correction_min": "smallest ratio of trainer to engine of the step, before it is cut",
    "policy/correction_max": "largest ratio of trainer to engine of the step, before it is cut",
    "policy/correction_cut_fraction": "share of tokens whose ratio is capped or left out",
    "policy/staleness_versions": "optimiser steps between the policy that is trained and the one that drew, mean",
    "policy/staleness_versions_max": "the most of them",
    "policy/loss": "mean token loss of the policy, values apart",
    # the value network
    "value/loss": "mean loss of values of tokens, half the squared error",
    "value/clipped_fraction": "share of tokens whose value loss is held by the clip",
    "value/explained_variance": "1 - variance of (return - value) over that of the returns, at collection",
    "value/mean": "mean value of a rollout's tokens at collection",
    "value/return_mean": "mean return of a rollout's tokens",
    # preferences
    "preference/reward_chosen": "reward of the chosen sides: the score, or the implicit one, times beta",
    "preference/reward_rejected": "the same of the rejected sides",
    "preference/reward": "implicit reward of single completions, times beta",
    "preference/margin": "reward of the chosen side minus that of the rejected; of single ones, beyond zero",
    "preference/accuracy": "share of pairs with a margin above 0; a tie counts as half",
    "preference/gradient_weight": "minus the derivative of the loss by the chosen minus the rejected log-prob or score",
    "preference/likelihood_nats": "negative log-likelihood per token of the chosen sides",
    "preference/pair_weight": "factor on the loss of a pair: the policy's probability per token of both sides",
    "preference/score_error": "mean distance of score and target",
    "preference/score_mean": "mean score; of an ensemble, of its mean",
    "preference/score_spread": "standard deviation of an ensemble's scores of one completion or step, mean",
    "preference/confidence": "mean probability given to the side with the higher score; above the accuracy: too sure",
    "preference/longer_wins": "share of pairs in which the longer side has the higher score; a tie counts as half",
    "preference/step_accuracy": "share of labelled steps with a score on the label's side of doubt; doubt counts half",
    "preference/drift_chosen_nats": "log-prob per token of the chosen sides, policy minus reference",
    "preference/drift_rejected_nats": "the same of the rejected sides",
    "preference/kl_mismatched_nats": "mean log-ratio to the reference of completions behind prompts not their own",
    # validation
    "val/loss": "loss on held-out data; of supervised training, mean negative log-likelihood of answer tokens",
    "val/replay_loss": "mean negative log-likelihood of held-out rows that are replayed",
    "val/preference_accuracy": "share of held-out pairs whose chosen side is ahead; a tie counts as half",
    "val/calibration_error": "mean |share of held-out pairs ranked right - predicted share|, in bins of confidence",
    "val/calibration_error_fitted": "the same after the scores are divided by the temperature fitted to these pairs",
    "val/calibration_temperature": "temperature at which the held-out preferences are likeliest; above 1: too sure",
    "val/length_correlation": "correlation of the differences of score and of length within held-out pairs",
    "val/step_f1": "harmonic mean of precision and recall of held-out wrong steps",
    "val/first_error_accuracy": "share of held-out solutions whose first error is found at its step, or rightly none",
    "val/processbench_f1": "harmonic mean of the accuracies on erroneous and on flawless held-out solutions",
    "val/score_mean": "mean score of held-out completions or steps",
    "val/score_spread": "mean standard deviation of an ensemble's scores of a held-out completion or step",
    # the books: cumulative from the start of the run, resumed runs included
    "compute/train_flops": "FLOPs of scoring and update",
    "compute/generation_flops": "FLOPs of rollouts",
    "compute/evaluation_flops": "FLOPs of probes, off the training axis",
    "compute/rollout_flops": "FLOPs of the rollout phase",
    "compute/grading_flops": "FLOPs of the grading phase",
    "compute/scoring_flops": "FLOPs of old and reference log-probs",
    "compute/update_flops": "FLOPs of forward and backward",
    "compute/total_flops": "FLOPs of all phases but evaluation",
    "compute/total_causal_flops": "the same with attention counted as the causal triangle",
    "compute/tokens_generated": "tokens drawn in rollouts",
    "compute/tokens_trained": "tokens with a weight in a loss",
    "compute/tokens_processed": "positions that passed through a network in training phases",
    "time/device_seconds": "devices held x wall seconds, evaluation and set-up apart",
    "time/rollout_seconds": "device-seconds of generation",
    "time/grading_seconds": "device-seconds of waiting for graders",
    "time/scoring_seconds": "device-seconds of old and reference log-probs",
    "time/update_seconds": "device-seconds of forward, backward and step",
    "time/evaluation_seconds": "device-seconds of probes and validation",
    "time/other_seconds": "device-seconds of everything else while training",
    "time/wall_seconds": "wall seconds since the run started, evaluation included",
    # one probe: one point of an S-curve
    "scurve/accuracy": "pass@1: mean share of correct samples over held-out problems",
    "scurve/standard_error": "standard error of the accuracy for new problems",
    "scurve/standard_error_fixed": "standard error of the accuracy for this fixed set of problems",
    "scurve/reward": "mean reward over held-out problems",
    "scurve/reward_standard_error": "standard error of the mean reward for new problems",
    "scurve/within_variance": "sum over problems of p(1-p)/(k-1)/n^2",
    "scurve/problems": "held-out problems n",
    "scurve/samples_per_problem": "samples k of each",
    "scurve/correct_count": "correct samples",
    "scurve/ungraded_count": "samples that could not be graded",
    "scurve/truncated_fraction": "share of samples cut at the length limit",
    "scurve/length_mean_tokens": "mean length of the samples",
    "scurve/entropy_nats": "minus the mean log-probability of sampled tokens",
    "scurve/kl_start_nats": "KL to the policy at the start of the run: mean log-ratio of a sample, sum over its tokens",
    "scurve/kl_start_standard_error": "its standard error for new problems",
    "scurve/kl_start_nats_per_token": "the same KL per sampled token",
    "scurve/device_seconds": "compute axis: time/device_seconds at this point",
    "scurve/device_hours": "compute axis: device-hours at this point",
    "scurve/flops": "compute axis: compute/total_flops at this point",
    "scurve/train_flops": "compute axis: compute/train_flops at this point",
    "scurve/generation_flops": "compute axis: compute/generation_flops at this point",
    "scurve/tokens_generated": "compute axis: compute/tokens_generated at this point",
    "scurve/tokens_trained": "compute axis: compute/tokens_trained at this point",
    "scurve/tokens": "compute axis: tokens generated plus tokens trained",
    # test and predict
    "test_time/accuracy": "accuracy of the strategy's answers",
    "test_time/standard_error": "its standard error for new problems",
    "test_time/reward": "mean reward of the samples",
    "test_time/problems": "problems",
    "test_time/samples_per_problem": "samples of each",
    "test_time/flops": "FLOPs spent",
    "test_time/tokens_generated": "tokens drawn",
    "test_time/truncated_fraction": "share of samples cut at the length limit",
}

OPEN = re.compile(
    r"reward/[a-z0-9_]+|(scurve|test_time)/(pass|majority)_at_[0-9]+(_standard_error)?|grading/[a-z0-9_]+_fraction"
    r"|train/gradient_norm_[a-z_]+"
)


def is_known(name: str) -> bool:
    """Whether a metric name is in the vocabulary."""
    return name in METRICS or OPEN.fullmatch(name) is not None


def known(name: str) -> str:
    """The name itself.

    Raises:
        ValueError: if it is not in the vocabulary; add it to `METRICS` with a description.
    """
    if not is_known(name):
        raise ValueError(
            f"metric name {name!r} is not in lit_posttrain/names.py; add it there with a description"
        )
    return name
