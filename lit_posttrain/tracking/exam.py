"""A fixed set of held-out problems that a policy is examined on, again and again in the same way."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import nn

from lit_posttrain import interruption
from lit_posttrain.batches import Answer, Problem, PromptBatch, Sampling
from lit_posttrain.contracts import Grader, Patience, PromptSource
from lit_posttrain.errors import InputError
from lit_posttrain.ledger import Ledger, Phase
from lit_posttrain.ranks import Ranks
from lit_posttrain.rollouts.collect import draw
from lit_posttrain.tracking.probe_point import ProblemResult, result_of


@dataclass(frozen=True)
class Exam:
    """The problems, how answers to them are drawn, and who grades.

    Args:
        prompts: All problems, the same on every rank.
        grader: Judges the answers.
        sampling: How answers are drawn.
        samples: k of each problem.
        batch_problems: Problems answered at the same time on each rank.
        seed: Of the samples.
    """

    prompts: PromptBatch
    grader: Grader
    sampling: Sampling
    samples: int
    batch_problems: int
    seed: int

    def take(self, method: Any, ranks: Ranks) -> tuple[list[list[Answer]], list[ProblemResult]]:
        """This process's answers by problem, and the results of all problems; booked as evaluation, collective.

        All ranks make the same number of draws, some of them empty: sharded generation needs that.

        Args:
            method: Has `engine`, `policy` and `ledger`.
            ranks: How processes share the problems.

        Raises:
            Interrupted: in all processes, if one was asked to stop; the work is not booked then.
        """
        answers: list[list[Answer]] = []

        def work() -> list[ProblemResult]:
            answers.extend(self._share(method, ranks))
            return [result_of(group) for group in answers]

        with booked_if_whole(method.ledger), evaluating(method.policy):
            shares = interruption.gather(work, ranks)
        return answers, ranks.interleave(shares)

    def _share(self, method: Any, ranks: Ranks) -> list[list[Answer]]:
        problems, ids = ranks.share(self.prompts.problems), ranks.share(self.prompts.prompt_ids)
        most = -(-len(self.prompts) // ranks.count)
        answers: list[list[Answer]] = []
        with method.ledger.phase(Phase.EVALUATION):
            for start in range(0, most, self.batch_problems):
                part = slice(start, start + self.batch_problems)
                answers += draw(
                    method.engine,
                    self.grader,
                    PromptBatch(problems[part], ids[part]),
                    sampling=self.sampling,
                    n=self.samples,
                    seed=self.seed,
                    ledger=method.ledger,
                    patience=Patience(),
                )
        return answers

    def settings(self) -> dict[str, Any]:
        """What makes two points comparable: prompts, decoding and samples, as plain values."""
        return {
            "prompt_set": prompt_set_hash(self.prompts.problems, self.prompts.prompt_ids),
            "problem_count": len(self.prompts),
            "samples_per_problem": self.samples,
            "seed": self.seed,
            "sampling": asdict(self.sampling),
        }


def load_prompts(source: PromptSource, split: str, limit: int | None) -> PromptBatch:
    """The prompts of a split, the first `limit` of them.

    Raises:
        InputError: if there are none, or a problem stands twice: its samples would be the same.
    """
    problems: list[Problem] = []
    ids: list[list[int]] = []
    for batch in source.probe_batches(split):
        problems += batch.problems
        ids += batch.prompt_ids
        if limit is not None and len(problems) >= limit:
            break
    prompts = PromptBatch(problems[:limit], ids[:limit])
    if not len(prompts):
        raise InputError(f"split {split!r} of {type(source).__name__} has no problems; a probe needs some.")
    name, count = Counter((p.source, p.uid) for p in prompts.problems).most_common(1)[0]
    if count > 1:
        raise InputError(f"problem {name} stands {count} times in split {split!r}; a uid must be unique.")
    return prompts


def prompt_set_hash(problems: Sequence[Problem], prompt_ids: Sequence[Sequence[int]]) -> str:
    """Names a set of prompts as the policy reads them: equal for the same problems, order and tokens."""
    digest = hashlib.sha256()
    for problem, ids in zip(problems, prompt_ids, strict=True):
        digest.update(json.dumps([problem.source, problem.uid, list(ids)]).encode())
    return digest.hexdigest()[:16]


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """The network in eval mode and without gradients; every part is put back into the mode it was in."""
    modes = [(part, part.training) for part in network.modules()]
    network.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for part, training in modes:
            part.training = training


@contextmanager
def booked_if_whole(ledger: Ledger) -> Iterator[None]:
    """Takes back what a block booked as evaluation, the time apart, if it is cut off: it will be done again."""
    before = replace(ledger.spent[Phase.EVALUATION])
    try:
        yield
    except BaseException:
        ledger.spent[Phase.EVALUATION] = replace(before, seconds=ledger.spent[Phase.EVALUATION].seconds)
        raise
