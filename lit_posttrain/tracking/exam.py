"""A fixed set of held-out problems that a policy is examined on, again and again in the same way."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from lit_posttrain.batches import Answer, Problem, PromptBatch, Sampling
from lit_posttrain.contracts import Grader, PromptSource
from lit_posttrain.errors import InputError
from lit_posttrain.ledger import Phase
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

    def take(self, method: Any, *, rank: int, world: int) -> tuple[list[list[Answer]], list[ProblemResult]]:
        """This rank's answers by problem, and the results of all ranks; booked as evaluation, collective.

        All ranks make the same number of draws, some of them empty: sharded generation needs that.

        Args:
            method: Has `engine`, `policy` and `ledger`.
            rank: Of this process.
            world: How many processes share the problems.
        """
        problems, ids = self.prompts.problems[rank::world], self.prompts.prompt_ids[rank::world]
        most = -(-len(self.prompts) // world)
        answers: list[list[Answer]] = []
        with method.ledger.phase(Phase.EVALUATION), evaluating(method.policy):
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
                )
            return answers, gather([result_of(group) for group in answers])

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


def gather(mine: list[ProblemResult]) -> list[ProblemResult]:
    """The results of all ranks, in the order of the problems; collective."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return mine
    shares: list[list[ProblemResult]] = [[] for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather_object(shares, mine)
    return [share[i] for i in range(max(map(len, shares))) for share in shares if i < len(share)]
