"""Prompts to graded completions, and these to the tensors of an experience."""

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from lit_posttrain import interruption
from lit_posttrain.batches import (
    Answer,
    Completion,
    Experience,
    Problem,
    PromptBatch,
    Request,
    SampleKey,
    Sampling,
    StopReason,
)
from lit_posttrain.contracts import Attempt, Grader, Patience, RolloutEngine
from lit_posttrain.errors import InputError
from lit_posttrain.graders.grading import Grading, grade_all
from lit_posttrain.ledger import Ledger, Phase
from lit_posttrain.ranks import Ranks
from lit_posttrain.rollouts.outage import outlast
from lit_posttrain.rollouts.step_rewards import Decode, step_rewards

AT_ONCE = Patience(pause_above=1.0)
"""No pause: what cannot be graded is masked and counted."""


def requests(prompts: PromptBatch, *, sampling: Sampling, n: int, seed: int) -> list[Request]:
    """One request per problem; a problem that stands twice in the batch gets further samples, not the same."""
    seen: Counter[str] = Counter()
    asked = []
    for problem, ids in zip(prompts.problems, prompts.prompt_ids, strict=True):
        asked.append(Request(ids, SampleKey(seed, problem.uid, seen[problem.uid] * n), sampling, n))
        seen[problem.uid] += 1
    return asked


def draw(
    engine: RolloutEngine,
    grader: Grader,
    prompts: PromptBatch,
    *,
    sampling: Sampling,
    n: int,
    seed: int,
    ledger: Ledger,
    deadline_s: float = 60.0,
    ranks: Ranks = Ranks(),
    patience: Patience = AT_ONCE,
) -> list[list[Answer]]:
    """For each problem `n` graded completions, generation and waiting for grades booked under their phases.

    Grading begins with the first completions that are finished. Grades that are not there `deadline_s` seconds
    after the last one are asked for again or masked and counted, as `patience` says; they are never 0. Several
    `ranks` divide the problems among them, and all get the answers to all; it is collective then.

    Raises:
        Interrupted: if this or another process was asked to stop, or graders stayed out of order; nothing is left
            half done.
    """
    asked = requests(prompts, sampling=sampling, n=n, seed=seed)
    problems = ranks.share(prompts.problems)

    def work() -> list[list[Answer]]:
        with Grading(grader) as grading:
            desk = Desk(problems, grading)
            with ledger.phase(Phase.ROLLOUT):
                completions = engine.generate(ranks.share(asked), desk.take)
            with ledger.phase(Phase.GRADING):
                answers = desk.answers(completions, deadline_s, patience)
                ledger.book(grader.take_spent())
                return answers

    return ranks.interleave(interruption.gather(work, ranks))


class Desk:
    """Hands completions to the graders as they come, and puts the grades back where they belong.

    Args:
        problems: One per request, in the order of the requests.
        grading: Where they are graded.
    """

    def __init__(self, problems: Sequence[Problem], grading: Grading) -> None:
        self.problems, self.grading = problems, grading
        self.places: dict[tuple[int, int], int] = {}

    def take(self, request: int, number: int, completion: Completion) -> None:
        """Completion `number` of a request is finished."""
        self.places[request, number] = self.grading.add((self.problems[request], completion))

    def answers(
        self, completions: Sequence[Sequence[Completion]], deadline_s: float, patience: Patience
    ) -> list[list[Answer]]:
        """All completions with their grades, in the order of requests."""
        slots = [(i, j) for i, group in enumerate(completions) for j in range(len(group))]
        for i, j in slots:
            if (i, j) not in self.places:  # the engine does not tell before the end
                self.take(i, j, completions[i][j])
        grader, items = self.grading.grader, self.grading.items
        grades = outlast(
            self.grading.result(deadline_s),
            lambda places: grade_all(grader, [items[place] for place in places], deadline_s=deadline_s),
            patience,
        )
        return [
            [Answer(problem, one, grades[self.places[i, j]]) for j, one in enumerate(group)]
            for i, (problem, group) in enumerate(zip(self.problems, completions, strict=True))
        ]


def rewards(answers: Sequence[Sequence[Answer]]) -> tuple[Tensor, Tensor]:
    """Rewards (P, G) float32, 0 where there is none, and `graded` (P, G) bool."""
    values = [[answer.grade.reward for answer in group] for group in answers]
    graded = torch.tensor([[value is not None for value in group] for group in values])
    return torch.tensor([[0.0 if value is None else value for value in group] for group in values]), graded


def reward_parts(answers: Sequence[Sequence[Answer]], names: Sequence[str]) -> tuple[Tensor, Tensor]:
    """The named parts of the rewards (P, G, K), or the rewards (P, G, 1) for no names, and `graded` (P, G) bool.

    Raises:
        InputError: if a graded answer lacks a part.
    """
    values, graded = rewards(answers)
    if not names:
        return values[..., None], graded
    flat = [answer.grade for group in answers for answer in group]
    for grade in flat:
        lacking = sorted(set(names) - set(grade.parts))
        if grade.reward is not None and lacking:
            raise InputError(
                f"the advantage wants the reward parts {list(names)}, and a grade lacks {lacking}: it has "
                f"{sorted(grade.parts)}; name parts that the grader gives (WeightedSum.names)"
            )
    parts = [[0.0 if g.reward is None else float(g.parts[name]) for name in names] for g in flat]
    return torch.tensor(parts).view(*graded.shape, len(names)), graded


def attempts(answers: Sequence[Sequence[Answer]]) -> tuple[Attempt, ...]:
    """How each problem went."""
    return tuple(
        Attempt(
            group[0].problem.uid,
            sum(answer.grade.correct is not None for answer in group),
            sum(bool(answer.grade.correct) for answer in group),
        )
        for group in answers
    )


def to_experience(
    answers: Sequence[Sequence[Answer]],
    prompt_ids: Sequence[Sequence[int]],
    advantages: Tensor,
    *,
    temperature: float,
    policy_version: int,
    pad_id: int,
    counted: Tensor | None = None,
    decode: Decode | None = None,
) -> Experience:
    """One row per completion, problem by problem: prompt and completion, padded on the right; weights still 0.

    Tokens that were put into a completion are outside the mask, with log-prob and advantage 0.

    Args:
        answers: P groups of G.
        prompt_ids: The prompt of each problem.
        advantages: (P, G).
        temperature: That of the sampling.
        policy_version: Optimiser steps behind the policy that drew them.
        pad_id: Any token id; padding is told by segment 0, not by it.
        counted: (P*G,) bool, which completions have a weight in the loss; by default all.
        decode: From ids to text; needed for the rewards of steps, which are left out without it.
    """
    flat = [(ids, answer) for ids, group in zip(prompt_ids, answers, strict=True) for answer in group]
    prompts = torch.tensor([len(ids) for ids, _ in flat])
    drawn = torch.tensor([len(answer.completion.tokens) for _, answer in flat])
    rows = [torch.cat([torch.as_tensor(ids, dtype=torch.int64), a.completion.tokens]) for ids, a in flat]
    logprobs = [torch.cat([torch.zeros(len(ids)), a.completion.logprobs]) for ids, a in flat]
    input_ids = pad_sequence(rows, batch_first=True, padding_value=pad_id)
    columns = torch.arange(input_ids.shape[1])[None]
    real = columns < (prompts + drawn)[:, None]
    mask = real & (columns >= prompts[:, None])
    injected = [_injected(len(ids), a.completion) for ids, a in flat]
    mask &= ~pad_sequence(injected, batch_first=True, padding_value=False)
    reward, graded = rewards(answers)
    stops = list(StopReason)
    steps = None if decode is None else step_rewards([answer for _, answer in flat], decode)
    sampled = torch.where(mask, pad_sequence(logprobs, batch_first=True), 0.0)
    return Experience(
        input_ids=input_ids,
        segments=torch.arange(1, len(flat) + 1)[:, None] * real,
        position_ids=columns.expand_as(input_ids).clone(),
        mask=mask,
        weights=torch.zeros_like(sampled),
        sampled_logprobs=sampled,
        old_logprobs=sampled.clone(),
        advantages=advantages.reshape(-1, 1).float() * mask,
        rewards=reward.reshape(-1),
        graded=graded.reshape(-1),
        group=torch.arange(len(answers)).repeat_interleave(advantages.shape[1]),
        stop=torch.tensor([stops.index(answer.completion.stop) for _, answer in flat]),
        policy_version=torch.full((len(flat),), policy_version),
        counted=counted,
        token_rewards=None if steps is None else _behind(prompts, [r for r, _ in steps]),
        step_ends=None if steps is None else _behind(prompts, [ends for _, ends in steps]),
        temperature=temperature,
    )


def _injected(prompt_tokens: int, completion: Completion) -> Tensor:
    """(prompt and completion,) bool: tokens that were put into the completion."""
    own = completion.injected
    marks = torch.zeros(len(completion.tokens), dtype=torch.bool) if own is None else own
    return torch.cat([torch.zeros(prompt_tokens, dtype=torch.bool), marks])


def _behind(prompts: Tensor, values: Sequence[Tensor]) -> Tensor:
    """Values of completions' tokens (B, T), 0 under the prompts and the padding."""
    rows = [torch.cat([torch.zeros(int(n), dtype=v.dtype), v]) for n, v in zip(prompts, values, strict=True)]
    return pad_sequence(rows, batch_first=True)
