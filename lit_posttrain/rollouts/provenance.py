"""Answers as candidates: who drew them, how, and what each took."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch.distributed.tensor import DTensor

from lit_posttrain.batches import Answer
from lit_posttrain.candidates import Candidate, Cost, Origin
from lit_posttrain.ledger import Spent
from lit_posttrain.networks import CausalNetwork


def candidates_of(
    answers: Sequence[Answer],
    prompt_ids: Sequence[int],
    prompt: str,
    origin: Origin,
    spent: Sequence[Cost],
    chosen: int | None = None,
) -> list[Candidate]:
    """The answers to one problem as candidates.

    Args:
        answers: In the order of drawing.
        prompt_ids: The prompt as the policy read it.
        prompt: The same as text.
        origin: Who drew them, and how.
        spent: What each took.
        chosen: The answer that the strategy stands by, as an index; None where all count alike.
    """
    return [
        Candidate(
            answer,
            prompt_ids,
            origin,
            cost,
            number,
            len(answers),
            prompt,
            None if chosen is None else number == chosen,
        )
        for number, (answer, cost) in enumerate(zip(answers, spent, strict=True))
    ]


def shares(answers: Sequence[Sequence[Answer]], spent: Spent) -> list[list[Cost]]:
    """What each answer took of what a whole batch did, by tokens drawn."""
    tokens = [[len(answer.completion.tokens) for answer in group] for group in answers]
    total = max(1, sum(map(sum, tokens)))
    return [[Cost(n, spent.flops * n / total, spent.seconds * n / total) for n in group] for group in tokens]


def since(before: Spent, now: Spent) -> Spent:
    """Seconds and FLOPs of one phase between two moments."""
    return Spent(now.seconds - before.seconds, now.flops - before.flops)


def policy_digest(policy: CausalNetwork) -> str:
    """32 hex digits of the weights that candidates are drawn from; collective where processes share them."""
    whole = hashlib.blake2b(digest_size=16)
    for name, parameter in sorted(policy.model.named_parameters()):
        value = parameter.full_tensor() if isinstance(parameter, DTensor) else parameter
        plain = value.detach().cpu().contiguous().reshape(-1)
        whole.update(f"{name} {plain.dtype} {tuple(parameter.shape)}\n".encode())
        whole.update(plain.view(torch.uint8).numpy().data)
    return whole.hexdigest()


def run_of(loggers: Iterable[Mapping[str, Any]]) -> str | None:
    """The id of the run that loggers write to, from their states; None where none says."""
    return next((str(state["run_uid"]) for state in loggers if state.get("run_uid")), None)


def settings_json(settings: Any) -> str:
    """Settings in a frozen dataclass as JSON, `n` apart: a further sample of a problem is the same draw."""
    values = {key: value for key, value in asdict(settings).items() if key != "n"}
    return json.dumps(values, sort_keys=True, default=str)
