"""How online methods draw completions for training: the settings, and the drawing."""

from dataclasses import dataclass, field
from typing import Any, Literal

from lit_posttrain.batches import Answer, PromptBatch, Sampling
from lit_posttrain.contracts import Patience
from lit_posttrain.errors import InputError
from lit_posttrain.keys import digest
from lit_posttrain.rollouts import check_grader, draw
from lit_posttrain.rollouts.collect import AT_ONCE
from lit_posttrain.rollouts.overlong import Overlong, prepare, shape
from lit_posttrain.text import ChatText


@dataclass(frozen=True)
class Rollouts:
    """How completions are drawn for training.

    Args:
        group_size: G, the completions of each problem; relative advantages compare their rewards.
        sampling: Temperature and length; top-p, top-k and a minimum length are refused, since the log-probs of
            training could not follow them.
        max_rows: Completions that are written at the same time.
        grading_deadline_s: Seconds that grading may take after the last answer of a rollout is written.
        rescore: Take the old log-probs from a pass of the training network in the micro-batches of the first
            update, instead of from the sampler; the first ratio is then exactly 1, for one more forward pass.
        patience: What happens when the grader is out of order.
        overlong: What happens to completions that reach the length limit: Unweighted, SoftPenalty or Interrupted;
            nothing by default.
        uniform_groups: Groups whose answers are all rewarded alike teach nothing by their rewards: `skip` leaves them
            out of the network and of every mean, `keep` lets them count in the means of a step.
    """

    group_size: int = 8
    sampling: Sampling = field(default_factory=Sampling)
    max_rows: int = 1024
    grading_deadline_s: float = 60.0
    rescore: bool = False
    patience: Patience = field(default_factory=Patience)
    overlong: Overlong | None = None
    uniform_groups: Literal["skip", "keep"] = "skip"

    def __post_init__(self) -> None:
        if self.group_size < 1:
            raise InputError(
                f"rollouts.group_size is {self.group_size}; draw 1 completion of each problem or more"
            )
        if self.uniform_groups not in ("skip", "keep"):
            raise InputError(
                f"rollouts.uniform_groups is {self.uniform_groups!r}; it must be 'skip' or 'keep'"
            )
        s = self.sampling
        if s.temperature <= 0 or s.top_p < 1 or s.top_k > 0 or s.min_new_tokens > 0:
            raise InputError(
                "training needs samples from the plain tempered softmax: temperature > 0, top_p 1, top_k 0, "
                f"min_new_tokens 0 (got temperature {s.temperature}, top_p {s.top_p}, top_k {s.top_k}, "
                f"min_new_tokens {s.min_new_tokens})"
            )


def check_groups(rollouts: Rollouts, advantage: Any) -> None:
    """
    Raises:
        InputError: for groups that are too small for an advantage that compares within them.
    """
    if advantage.needs_group and rollouts.group_size < 2:
        raise InputError(
            f"group size {rollouts.group_size} gives zero advantage for every answer; "
            f"set rollouts.group_size >= 2 (got {rollouts.group_size})"
        )


def check_overlong(rollouts: Rollouts, text: ChatText) -> None:
    """
    Raises:
        InputError: if what happens to long completions does not go together with how they are drawn.
    """
    if rollouts.overlong is not None:
        rollouts.overlong.check(rollouts.sampling, text)


def draw_answers(
    module: Any, prompts: PromptBatch, index: int, *, rewards_count: bool = True
) -> list[list[Answer]]:
    """Graded completions of the current policy for the prompt batch number `index`; collective.

    Ranks divide the problems and all get the whole, so that rewards are compared over all of them.

    Args:
        module: The method: has `engine`, `text`, `grader`, `rollouts`, `seed`, `ledger` and `ranks`.
        prompts: The problems.
        index: Keys the randomness, together with the seed.
        rewards_count: Whether learning waits for a grader that is out of order.
    """
    settings = module.rollouts
    with module.trainer.precision_plugin.forward_context():
        answers = draw(
            prepare(module.engine, settings.overlong, module.text),
            module.grader,
            prompts,
            sampling=settings.sampling,
            n=settings.group_size,
            seed=digest(module.seed, "rollout", index),
            ledger=module.ledger,
            deadline_s=settings.grading_deadline_s,
            ranks=module.ranks,
            patience=settings.patience if rewards_count else AT_ONCE,
        )
    if rewards_count:
        check_grader(answers)
    return shape(answers, settings.overlong)
