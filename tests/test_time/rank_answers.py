"""Tests and predictions of one process and of two, for comparison; as a script, it makes all of them.

    python rank_answers.py FOLDER

writes FOLDER/<case>-<process>.json with the results of the test and how each process ended, and the predictions of a
case in FOLDER/<case>.jsonl.
"""

import json
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from fakes import SHAPE, TEXT, DigitCount, Numbers
from launch_process import forked, torchrun_environments

from lit_posttrain.batches import PromptBatch, Sampling
from lit_posttrain.checkpoints.strategy import ShardedStrategy
from lit_posttrain.contracts import Outcome, Strategy
from lit_posttrain.networks import NetworkConfig
from lit_posttrain.test_time import Sample, TestTimeModule

PROBLEMS = 8
BATCHES = ((0, 4), (4, 7), (7, 8))
"""Of even size, of uneven size, and with nothing for the second process."""


class Rounds(Strategy):
    """Draws again and again, up to three times, as the problem says, and stands by the last answer."""

    def solve(self, problem, prompt_ids):
        completions: list[Any] = []
        for seed in range(1 + len(problem.uid) % 3):
            outcome = yield from Sample(3, Sampling(max_new_tokens=6), seed).solve(problem, prompt_ids)
            completions += outcome.completions
        return Outcome(completions, chosen=len(completions) - 1)


class EndsAt(DigitCount):
    """Ends its process at the problem given, as a crash of the machine would."""

    def __init__(self, uid: str) -> None:
        self.uid = uid

    def grade(self, items):
        if any(problem.uid == self.uid for problem, _ in items):
            os._exit(9)
        return super().grade(items)


class Batches(list):
    """The batches of a loader, the same in every process."""

    def __init__(self, text: Any) -> None:
        problems = Numbers(PROBLEMS).problems("test")
        ids = [text.prompt_ids(problem.messages) for problem in problems]
        super().__init__(PromptBatch(problems[a:b], ids[a:b]) for a, b in BATCHES)


def module(output: Path, grader: Any = None, strategy: Any = None) -> TestTimeModule:
    return TestTimeModule(
        NetworkConfig(config=SHAPE, chunk_tokens=0),
        grader or DigitCount(),
        TEXT,
        strategy or Sample(4, Sampling(max_new_tokens=6)),
        pass_at=(2,),
        output=str(output),
    )


def trainer(strategy: str, count: int) -> pl.Trainer:
    made: Any = {"one": "auto", "ddp": "ddp", "fsdp": "fsdp"}[strategy]
    return pl.Trainer(
        accelerator="cpu",
        devices=count,
        strategy=ShardedStrategy() if made == "fsdp" else made,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )


def answer(folder: Path, kind: str, count: int, number: int) -> int:
    """One process: tests with both strategies, then predicts."""
    told = []
    for strategy in (None, Rounds()):
        tested = module(folder / "unused.jsonl", strategy=strategy)
        told += trainer(kind, count).test(tested, Batches(tested.text), verbose=False)
    predicted = module(folder / f"{kind}.jsonl")
    rows = trainer(kind, count).predict(predicted, Batches(predicted.text))
    (folder / f"{kind}-{number}.json").write_text(json.dumps({"told": told, "rows": rows}))
    return 0


def predict(folder: Path, case: str, grader: Any) -> int:
    """One process of two, which predicts alone."""
    predicted = module(folder / f"{case}.jsonl", grader)
    trainer("ddp", 2).predict(predicted, Batches(predicted.text))
    return 0


def main(folder: Path) -> None:
    warnings.simplefilter("ignore")
    numbers = Numbers(PROBLEMS).problems("test")
    (folder / "taken.jsonl").write_text("kept")
    cases = {
        "one": ([{}], lambda i: answer(folder, "one", 1, i)),
        "ddp": (torchrun_environments(), lambda i: answer(folder, "ddp", 2, i)),
        "fsdp": (torchrun_environments(), lambda i: answer(folder, "fsdp", 2, i)),
        "dies": (torchrun_environments(), lambda i: predict(folder, "dies", EndsAt(numbers[5].uid))),
        "taken": (torchrun_environments(), lambda i: predict(folder, "taken", None)),
    }
    for name, (environments, work) in cases.items():
        ended = forked(environments, work)
        (folder / f"{name}-ended.json").write_text(json.dumps([vars(one) for one in ended]))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
