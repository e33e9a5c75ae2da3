"""What the bench runs, in full on a GPU and in miniature for a rehearsal on the CPU."""

from dataclasses import dataclass, field
from typing import Any

from lit_posttrain.batches import Grade, Problem, Verdict
from lit_posttrain.contracts import Grader, ProblemSource
from lit_posttrain.keys import digest
from lit_posttrain.text import TextConfig

CHARACTERS = "0123456789+="
TEXT = TextConfig(characters=CHARACTERS)
SMALL = {
    "model_type": "qwen2",
    "vocab_size": 16,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "tie_word_embeddings": True,
}
HALF_BILLION = {
    "model_type": "qwen2",
    "vocab_size": 151_936,
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": True,
}


@dataclass(frozen=True)
class Size:
    """How much is done.

    Args:
        accelerator: Lightning's name of the device.
        network: The shape of the large network.
        sequence_tokens: Of one conversation in supervised training, end token included.
        sequences: Conversations of one step.
        prompt_tokens: Of one problem.
        new_tokens: Of one completion, all of which go to the limit.
        problems: Of one rollout, each with `group_size` completions.
        group_size: Completions of each problem.
        micro_batches: That a step is cut into.
        steps: Optimiser steps that are timed.
        warm_up: Optimiser steps before those.
        quickstart: Changes to the quickstart's configs, by dotted path.
    """

    accelerator: str = "gpu"
    network: dict[str, Any] = field(default_factory=lambda: HALF_BILLION)
    sequence_tokens: int = 1024
    sequences: int = 32
    prompt_tokens: int = 256
    new_tokens: int = 256
    problems: int = 32
    group_size: int = 8
    micro_batches: int = 4
    steps: int = 5
    warm_up: int = 2
    quickstart: dict[str, Any] = field(default_factory=dict)


FULL = Size()
MINIATURE = Size(
    accelerator="cpu",
    network=SMALL,
    sequence_tokens=16,
    sequences=8,
    prompt_tokens=8,
    new_tokens=4,
    problems=4,
    group_size=4,
    micro_batches=2,
    steps=1,
    warm_up=1,
    quickstart={"steps": 2, "held_out": 16, "problems": 8},
)


@dataclass(frozen=True)
class Digits(ProblemSource):
    """Digits drawn at random, all prompts of one length and all conversations of one.

    Args:
        count: How many.
        prompt: Tokens of a prompt.
        whole: Tokens of a conversation with its end token; 0 where there are no answers.
    """

    count: int
    prompt: int
    whole: int = 0

    def problems(self, split: str) -> list[Problem]:
        """Prompts."""
        return [
            Problem(({"role": "user", "content": self._digits(split, i, self.prompt)},), "", f"{split}-{i}")
            for i in range(self.count)
        ]

    def chats(self, split: str) -> list[list[dict[str, str]]]:
        """Prompts with answers."""
        rest = self.whole - self.prompt - 1
        return [
            [
                {"role": "user", "content": self._digits(split, i, self.prompt)},
                {"role": "assistant", "content": self._digits(split, -1 - i, rest)},
            ]
            for i in range(self.count)
        ]

    @staticmethod
    def _digits(split: str, number: int, length: int) -> str:
        text = ""
        while len(text) < length:
            text += str(abs(digest(0, split, number, len(text))))
        return text[:length]


class EvenTokens(Grader):
    """Rewards the share of even token ids: every group has different rewards, whatever the network writes."""

    lowest = 0.0

    def grade(self, items: Any) -> list[Grade]:
        """One grade per completion."""
        return [self._one(completion.tokens) for _, completion in items]

    @staticmethod
    def _one(tokens: Any) -> Grade:
        share = float((tokens % 2 == 0).float().mean())
        return Grade(share, share > 0.5, Verdict.CORRECT if share > 0.5 else Verdict.INCORRECT)
