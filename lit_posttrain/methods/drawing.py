"""Completions that a supervised method draws from its own policy, to be trained on the best of them."""

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import torch

from lit_posttrain.batches import Answer, PromptBatch
from lit_posttrain.candidates import Candidate, Origin
from lit_posttrain.contracts import Drawing
from lit_posttrain.ledger import Phase, Spent
from lit_posttrain.methods.base import PostTrainModule
from lit_posttrain.methods.rollout_metrics import rollout_metrics
from lit_posttrain.networks import place
from lit_posttrain.rollouts import check_grader, draw
from lit_posttrain.rollouts.collect import rewards
from lit_posttrain.rollouts.pool import PoolWriter
from lit_posttrain.rollouts.provenance import candidates_of, policy_digest, run_of, shares, since


def draw_candidates(
    module: PostTrainModule, prompts: PromptBatch, drawing: Drawing, index: int, seed: int
) -> list[Candidate]:
    """Draws, grades, logs and, where asked for, writes down; collective, the same result on all ranks.

    Args:
        module: Whose policy draws.
        prompts: The problems.
        drawing: How, and who grades.
        index: Number of the round, from 0.
        seed: Of the samples.
    """
    before = replace(module.ledger.spent[Phase.ROLLOUT])
    origin = origin_of(module, drawing, seed)
    with module.trainer.precision_plugin.forward_context():
        answers = draw(
            module.engine,
            drawing.grader,
            prompts,
            sampling=drawing.sampling,
            n=drawing.samples,
            seed=seed,
            ledger=module.ledger,
            deadline_s=drawing.deadline_s,
            ranks=module.ranks,
            patience=drawing.patience,
        )
    check_grader(answers)
    spent = module.ranks.gather(since(before, module.ledger.spent[Phase.ROLLOUT]))
    costs = shares(answers, sum(spent, start=Spent()))
    groups = [
        candidates_of(group, ids, module.text.decode(ids), origin, took)
        for group, ids, took in zip(answers, prompts.prompt_ids, costs, strict=True)
    ]
    candidates = [candidate for group in groups for candidate in group]
    show(module, answers, drawing, index)
    if drawing.pool is not None and module.trainer.is_global_zero:
        PoolWriter(drawing.pool).write(candidates)
    return candidates


def origin_of(module: PostTrainModule, drawing: Drawing, seed: int) -> Origin:
    """Who draws and how, as `predict` would write it of the strategy Sample."""
    loggers: list[Any] = module.trainer.loggers
    states = [logger.state_dict() for logger in loggers if hasattr(logger, "state_dict")]
    settings = {"sampling": asdict(drawing.sampling), "seed": seed}
    return Origin(
        policy_digest(module.policy),
        run_of(states),
        module.global_step,
        sampling=json.dumps(settings, sort_keys=True),
    )


def show(module: PostTrainModule, answers: Sequence[Sequence[Answer]], drawing: Drawing, index: int) -> None:
    """Logs the round and shows it to the callbacks."""
    told = [list(group) for group in answers]
    values, graded = rewards(told)
    metrics = rollout_metrics(told, values, graded, drawing.grader.lowest)
    module.record(metrics | {"rollout/problems": (index + 1) * len(told)})
    module.fire("on_experience", told)


@torch.no_grad()
def begin_again(module: PostTrainModule) -> None:
    """Puts the weights that a run starts with into the policy, in place, and empties the optimiser's state.

    The schedule goes on: it counts optimiser steps of the run.
    """
    first = dict(place(module.network, module.trainer).named_parameters())
    for name, parameter in module.policy.named_parameters():
        if parameter.requires_grad:
            parameter.copy_(first[name])
    for optimizer in module.trainer.optimizers:
        optimizer.state.clear()
