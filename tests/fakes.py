"""Small real parts that tests of several rooms share: a tiny network, a tokenizer, a grader, a trainer."""

from dataclasses import dataclass
from typing import Any

import lightning.pytorch as pl
import torch

from lit_posttrain.batches import Grade, Problem, PromptBatch, Sampling, Verdict
from lit_posttrain.contracts import Grader, ProblemSource, Reuse
from lit_posttrain.data import PromptData
from lit_posttrain.methods import GRPOModule
from lit_posttrain.methods.ppo import PPOModule
from lit_posttrain.methods.rollouts import Rollouts
from lit_posttrain.methods.terms import KLInLoss, Terms
from lit_posttrain.networks import NetworkConfig
from lit_posttrain.text import TextConfig

ALPHABET = "0123456789+="
TEXT = TextConfig(characters=ALPHABET)
SHAPE = {
    "model_type": "llama",
    "vocab_size": 16,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
}


def tiny(**settings: Any) -> NetworkConfig:
    """A random Llama of 20,000 parameters; weights large enough to be far from uniform."""
    return NetworkConfig(config=SHAPE | settings.pop("shape", {}), **settings)


@dataclass(frozen=True)
class Numbers(ProblemSource):
    """Prompts of uneven lengths, with sums as answers."""

    count: int = 32

    def problems(self, split: str) -> list[Problem]:
        return [self._problem(i) for i in range(self.count)]

    def chats(self, split: str) -> list[list[dict[str, str]]]:
        return [
            [*p.messages, {"role": "assistant", "content": p.reference}]  # type: ignore[list-item]
            for p in self.problems(split)
        ]

    def _problem(self, i: int) -> Problem:
        a, b = 7**i % 10 ** (1 + i % 3), i
        return Problem(({"role": "user", "content": f"{a}+{b}="},), str(a + b), f"{a}+{b}", "numbers")


class DigitCount(Grader):
    """Rewards a completion by its share of even digits: varied enough that every group teaches something."""

    def grade(self, items):
        return [self._one(completion.text) for _, completion in items]

    def _one(self, text: str) -> Grade:
        even = sum(c in "02468" for c in text)
        correct = even > 1
        return Grade(
            float(even), correct, Verdict.CORRECT if correct else Verdict.INCORRECT, {"even": float(even)}
        )


def grpo(
    network: NetworkConfig | None = None, *, group_size: int = 4, temperature: float = 1.0, **arguments: Any
):
    """A GRPO module on the tiny network, learning by plain SGD; `kl_weight` puts a KL into its loss."""
    return _online(GRPOModule, network, group_size, temperature, arguments)


def ppo(
    network: NetworkConfig | None = None, *, group_size: int = 2, temperature: float = 1.0, **arguments: Any
):
    """A PPO module on the tiny network, learning by plain SGD, one step a rollout unless told otherwise."""
    arguments.setdefault("reuse", Reuse())
    return _online(PPOModule, network, group_size, temperature, arguments)


def _online(
    kind: Any, network: NetworkConfig | None, group_size: int, temperature: float, arguments: dict[str, Any]
):
    rollouts = arguments.pop("rollouts", {})
    weight = arguments.pop("kl_weight", 0.0)
    if weight:
        arguments["terms"] = Terms(kl=KLInLoss(weight))
    arguments.setdefault("optimizer", lambda p: torch.optim.SGD(p, lr=0.1))
    return kind(
        network or tiny(),
        arguments.pop("grader", DigitCount()),
        TEXT,
        rollouts=Rollouts(group_size, Sampling(temperature=temperature, max_new_tokens=8), **rollouts),
        **arguments,
    )


def trainer(**arguments: Any) -> pl.Trainer:
    """A quiet trainer on one CPU."""
    quiet = {
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "limit_val_batches": 0,
    }
    return pl.Trainer(**(quiet | arguments))


class KeepGradients(pl.Callback):
    """Keeps the gradients of every optimiser step, by parameter name."""

    def __init__(self) -> None:
        self.steps: list[dict[str, torch.Tensor]] = []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer) -> None:
        named = pl_module.policy.named_parameters()
        self.steps.append({name: p.grad.clone() for name, p in named if p.grad is not None})


class KeepBatches(pl.Callback):
    """Keeps every training batch and the parameters' state before it."""

    def __init__(self) -> None:
        self.batches: list[Any] = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        self.batches.append(batch)


def difference(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> float:
    """The largest absolute difference between two sets of named tensors."""
    assert left.keys() == right.keys()
    return max(float((left[name] - right[name]).abs().max()) for name in left)


def prompts(text, count: int = 6) -> PromptBatch:
    """Prompts of uneven lengths."""
    problems = Numbers(count).problems("train")
    return PromptBatch(problems, [text.prompt_ids(p.messages) for p in problems])


def prompt_data(**arguments: Any) -> PromptData:
    """PromptData over the numbers."""
    return PromptData(Numbers(), **({"problems_per_rollout": 6} | arguments))
