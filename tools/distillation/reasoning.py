"""A student trained on a teacher's kept reasoning against one trained on the answers alone, at equal trained tokens."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch

from lit_posttrain.batches import Problem, Sampling
from lit_posttrain.contracts import ProblemSource
from lit_posttrain.data import ChatData, PromptData
from lit_posttrain.data.selection import AtMost, Finished, OnlyCorrect
from lit_posttrain.data.sources import ChainedArithmetic, Pool
from lit_posttrain.graders import NumericMatch
from lit_posttrain.ledger import Phase
from lit_posttrain.methods import SFTModule, WarmupDecay
from lit_posttrain.networks import NetworkConfig
from lit_posttrain.test_time import Sample, TestTimeModule
from lit_posttrain.text import TextConfig

TEXT = TextConfig(characters="0123456789+-*=,")
GRADER = NumericMatch()  # the last number of the completion
SAMPLING = Sampling(max_new_tokens=16)
BATCH = 64
T_95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}
"""Student's t at 97.5 %, by number of seeds."""


@dataclass(frozen=True)
class AnswersOnly(ProblemSource):
    """The problems of the same kept candidates, with their answer instead of the text that led to it."""

    pool: Pool

    def problems(self, split: str) -> Sequence[Problem]:
        """Those of the pool."""
        return self.pool.problems(split)

    def chats(self, split: str) -> list[list[dict[str, str]]]:
        """The last number of each kept completion, which is its answer."""
        return [
            [*chat[:-1], {"role": "assistant", "content": chat[-1]["content"].rpartition(",")[2]}]
            for chat in self.pool.chats(split)
        ]


@dataclass(frozen=True)
class Size:
    """A Llama of this shape."""

    hidden: int
    layers: int

    def network(self, seed: int) -> NetworkConfig:
        """With random weights."""
        shape: dict[str, Any] = {
            "model_type": "llama",
            "vocab_size": 20,
            "hidden_size": self.hidden,
            "intermediate_size": 4 * self.hidden,
            "num_hidden_layers": self.layers,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "max_position_embeddings": 48,
            "tie_word_embeddings": True,
        }
        return NetworkConfig(config=shape, seed=seed, chunk_tokens=0)


@dataclass(frozen=True)
class Result:
    """What one training reached on held-out problems, and what it took."""

    accuracy: float
    standard_error: float
    steps: int
    trained_tokens: int
    flops: float


def quiet_trainer(**settings: Any) -> pl.Trainer:
    """On one CPU, without anything beside."""
    silent = dict.fromkeys(
        ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False
    )
    return pl.Trainer(accelerator="cpu", devices=1, limit_val_batches=0, **silent, **settings)


def train(size: Size, source: ProblemSource, *, steps: int, rate: float, seed: int) -> SFTModule:
    """Supervised training from random weights."""
    module = SFTModule(
        size.network(seed),
        TEXT,
        optimizer=lambda p: torch.optim.AdamW(p, lr=rate, weight_decay=0.0),
        schedule=lambda o: WarmupDecay(o, total_steps=steps, warmup_steps=20, final_fraction=0.1),
    )
    data = ChatData(source, batch_sequences=BATCH, validation_split=None, seed=seed)
    quiet_trainer(max_steps=steps, gradient_clip_val=1.0).fit(module, datamodule=data)
    return module


def measure(module: SFTModule, problems: ProblemSource, *, samples: int = 4) -> tuple[float, float]:
    """Accuracy on the test split at temperature 1, and its standard error for new problems."""
    tested = TestTimeModule.from_method(module, GRADER, SAMPLING, samples)
    (results,) = quiet_trainer().test(
        tested, datamodule=PromptData(problems, probe_problems=0), verbose=False
    )
    return results["test_time/accuracy"], results["test_time/standard_error"]


def write_pool(teacher: SFTModule, problems: ProblemSource, path: Path, *, samples: int) -> None:
    """The teacher's graded completions of the training problems."""
    writing = TestTimeModule.from_method(teacher, GRADER, SAMPLING, samples, path)
    writing.strategy = Sample(samples, SAMPLING)
    data = PromptData(problems, probe_problems=0, predict_split="train")
    quiet_trainer().predict(writing, datamodule=data, return_predictions=False)


def student(size: Size, source: ProblemSource, problems: ProblemSource, *, steps: int, seed: int) -> Result:
    """Trains and measures one."""
    module = train(size, source, steps=steps, rate=2e-3, seed=seed)
    spent = module.ledger.spent[Phase.UPDATE]
    accuracy, error = measure(module, problems)
    return Result(accuracy, error, steps, spent.trained_tokens, spent.flops)


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half the width of its 95 % interval over seeds (Student's t)."""
    mean = sum(values) / len(values)
    deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))
    return mean, T_95[len(values)] * deviation / math.sqrt(len(values))


def run(work: Path, *, seeds: int = 3, problems: int = 8192, operands: int = 5, steps: int = 1200) -> None:
    """The whole experiment; prints its figures.

    Args:
        work: Where the pool goes.
        seeds: Students of each kind, at least 2.
        problems: Training problems that the teacher answers.
        operands: Digits in a problem.
        steps: Optimiser steps of the students that are taught; the others get as many more as they need to see
            as many tokens.
    """
    asked = ChainedArithmetic(operands=operands, train_size=problems)
    worked = ChainedArithmetic(operands=operands, reasoning=True)
    teacher = train(Size(192, 2), worked, steps=1200, rate=2e-3, seed=100)
    accuracy, error = measure(teacher, asked)
    print(f"teacher (192 wide, 2 layers): accuracy {accuracy:.3f} ± {error:.3f}")
    write_pool(teacher, asked, work / "teacher.parquet", samples=4)
    pool = Pool(str(work / "teacher.parquet"), [OnlyCorrect(), Finished(), AtMost(1)], held_out_share=0.001)
    tokens = 2 * operands - 2, 2  # of a worked answer and of a bare one, their end included
    kinds = {"reasoning": (pool, steps), "answers only": (AnswersOnly(pool), steps * tokens[0] // tokens[1])}
    results: dict[str, list[Result]] = {kind: [] for kind in kinds}
    for seed in range(seeds):
        for kind, (source, count) in kinds.items():
            one = student(Size(128, 2), source, asked, steps=count, seed=seed)
            results[kind].append(one)
            print(
                f"seed {seed}, {kind}: accuracy {one.accuracy:.3f} ± {one.standard_error:.3f}, {one.steps} steps, "
                f"{one.trained_tokens:,} trained tokens, {one.flops:.2e} FLOPs",
                flush=True,
            )
    for kind, those in results.items():
        mean, half = interval([one.accuracy for one in those])
        print(f"{kind}: {mean:.3f} ± {half:.3f} (95 % over {seeds} seeds)")
    pairs = zip(results["reasoning"], results["answers only"], strict=True)
    mean, half = interval([taught.accuracy - alone.accuracy for taught, alone in pairs])
    print(f"difference: {mean:.3f} ± {half:.3f} (95 %, pairs with the same seed)")
