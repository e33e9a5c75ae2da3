"""SFT, then GRPO with a reward of one's own, from Python alone: the objects that the YAML files name.

python tools/python_example.py [--folder runs/example] [--sft_steps 500] [--grpo_steps 150]
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import lightning.pytorch as pl
import torch

from lit_posttrain.batches import Completion, Grade, Problem, Sampling, Verdict
from lit_posttrain.checkpoints.export import export
from lit_posttrain.checkpoints.io import FolderIO
from lit_posttrain.contracts import ProblemSource
from lit_posttrain.data import ChatData, PromptData
from lit_posttrain.data.sources import Arithmetic
from lit_posttrain.graders.single import SingleGrader, failed
from lit_posttrain.methods import GRPOModule, SFTModule
from lit_posttrain.methods.rollouts import Rollouts
from lit_posttrain.networks import NetworkConfig
from lit_posttrain.text import TextConfig
from lit_posttrain.tracking.compute import ComputeMeter
from lit_posttrain.tracking.probe import AccuracyProbe

SHAPE = {
    "model_type": "llama",
    "vocab_size": 16,
    "hidden_size": 64,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 16,
}


@dataclass(frozen=True)
class Closeness(SingleGrader):
    """Rewards the right sum with 1, and another number the less the further it is off."""

    def grade_one(self, problem: Problem, completion: Completion) -> Grade:
        """Called with every problem and completion; an answer that is no number is malformed."""
        if not completion.text.isdecimal():
            return failed(Verdict.MALFORMED)
        distance = abs(int(completion.text) - int(problem.reference))
        verdict = Verdict.INCORRECT if distance else Verdict.CORRECT
        return Grade(1 / (1 + distance), distance == 0, verdict)


def teach(source: ProblemSource, steps: int, folder: Path) -> Path:
    """SFT of a random network on worked sums; the folder of the exported model."""
    method = SFTModule(
        NetworkConfig(config=SHAPE, chunk_tokens=0),
        TextConfig(characters="0123456789+="),
        optimizer=lambda p: torch.optim.AdamW(p, lr=2e-3, weight_decay=0.0),
    )
    trainer = make_trainer(steps)
    trainer.fit(method, ChatData(source, batch_sequences=64))
    trainer.save_checkpoint(folder / "sft.ckpt")
    return export(folder / "sft.ckpt", folder / "model")


def improve(model: Path, source: ProblemSource, steps: int) -> list[float]:
    """GRPO from a model folder; held-out accuracy of every probe, the first of the model as it came."""
    method = GRPOModule(
        NetworkConfig(path=str(model), chunk_tokens=0),
        Closeness(),
        rollouts=Rollouts(group_size=16, sampling=Sampling(temperature=1.0, max_new_tokens=4)),
        optimizer=lambda p: torch.optim.AdamW(p, lr=4e-4, betas=(0.9, 0.99), weight_decay=0.0),
    )
    data = PromptData(source, problems_per_rollout=64)
    probe = AccuracyProbe(problems=256, every_n_steps=50)
    make_trainer(steps, ComputeMeter(), probe).fit(method, data)
    return [point["scurve/accuracy"] for point in probe.points]


def make_trainer(steps: int, *callbacks: pl.Callback) -> pl.Trainer:
    """Lightning's own, on one CPU process, without a logger; any logger can be given."""
    return pl.Trainer(
        accelerator="cpu",
        devices=1,
        max_steps=steps,
        gradient_clip_val=1.0,
        callbacks=list(callbacks),
        plugins=[FolderIO()],  # checkpoints that are verified, and never a pickle
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )


def main() -> None:
    """Prints held-out accuracy before, during and after GRPO."""
    parser = argparse.ArgumentParser(description="SFT, then GRPO with a reward of one's own.")
    parser.add_argument("--folder", type=Path, default=Path("runs/example"), help="must not hold a model yet")
    parser.add_argument("--sft_steps", type=int, default=500)
    parser.add_argument("--grpo_steps", type=int, default=150)
    chosen = parser.parse_args()
    pl.seed_everything(0, verbose=False)
    source = Arithmetic(digits=2, train_size=8_000, held_out_size=256)
    model = teach(source, chosen.sft_steps, chosen.folder)
    accuracy = improve(model, source, chosen.grpo_steps)
    print("held-out accuracy:", " ".join(f"{value:.3f}" for value in accuracy))


if __name__ == "__main__":
    main()
