"""TRL's PPOTrainer on the shared tensors: its own `train`, for one rollout and one optimiser step.

Stand-ins are the networks, which give logits of the log-probs that are wanted, values and scores, and the launcher.
"""
# pyright: reportMissingImports=false

import contextlib
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from trl_policies.tensors import END, FIRST_PROMPT, OTHER, PAD, ROWS, WIDTH, WORD, Tensors, new_values, policy

PROMPTS = torch.arange(ROWS)[:, None] + FIRST_PROMPT


def tokens(given: Tensors) -> Tensor:
    """Prompts and completions (24, 1 + 12), padded."""
    ids = torch.full((ROWS, WIDTH), WORD).masked_fill(~given["mask"], PAD)
    last = given["mask"].sum(dim=1) - 1
    ids[torch.arange(ROWS), last] = torch.where(given["cut"], WORD, END)
    return torch.cat([PROMPTS, ids], dim=1)


def logits_of(logprobs: Tensor, drawn: Tensor) -> Tensor:
    """Logits (B, T, 4) whose softmax gives the tokens drawn (B, T) these log-probs, and one other the rest."""
    logprobs = torch.where(logprobs < 0, logprobs, -1.0)  # padding
    rest = torch.log(-torch.expm1(logprobs))
    kept, other = (nn.functional.one_hot(ids, 4).bool() for ids in (drawn, torch.full_like(drawn, OTHER)))
    logits = torch.full((*drawn.shape, 4), -100.0)
    return torch.where(kept, logprobs[..., None], torch.where(other, rest[..., None], logits))


class Policy:
    """A policy, or the reference, with the log-probs of completions (24, 12)."""

    def __init__(self, logprobs: Tensor, ids: Tensor) -> None:
        self.logprobs, self.ids = logprobs, ids

    def logits(self, rows: Tensor) -> Tensor:
        """(B, 13, 4): entry t speaks of the token after it."""
        return nn.functional.pad(logits_of(self.logprobs[rows], self.ids[rows, 1:]), (0, 0, 0, 1))

    def __call__(self, input_ids: Tensor, **named: Any) -> SimpleNamespace:
        """The output of a causal network."""
        return SimpleNamespace(logits=self.logits(input_ids[:, 0] - FIRST_PROMPT))

    def generate(self, input_ids: Tensor, **named: Any) -> SimpleNamespace:
        """The completions."""
        rows = input_ids[:, 0] - FIRST_PROMPT
        return SimpleNamespace(sequences=self.ids[rows], scores=list(self.logits(rows)[:, :-1].unbind(dim=1)))


class Scorer:
    """A value or reward network with a score at each place (24, 13)."""

    base_model_prefix = "backbone"

    def __init__(self, scores: Tensor) -> None:
        self.scores = scores

    def backbone(self, input_ids: Tensor, **named: Any) -> SimpleNamespace:
        """States (B, 13, 1), which are the scores."""
        return SimpleNamespace(hidden_states=[self.scores[input_ids[:, 0] - FIRST_PROMPT][..., None]])

    def score(self, states: Tensor) -> Tensor:
        """The states."""
        return states


class Both:
    """The present policy with the present values for the update, those of the rollout for all else."""

    is_gradient_checkpointing = False

    def __init__(self, given: Tensors, ids: Tensor) -> None:
        self.policy = Policy(given["old"], ids)
        self.value_model = Scorer(behind_prompt(given["values"]))
        self.now = Policy(policy(given), ids), Scorer(behind_prompt(new_values(given)))

    def train(self) -> None:
        """Nothing to switch."""

    def __call__(self, **named: Any) -> tuple[SimpleNamespace, Tensor]:
        """Logits and values."""
        network, values = self.now
        return network(**named), values.backbone(**named).hidden_states[-1]


def behind_prompt(values: Tensor) -> Tensor:
    """Values before each token of the completion (24, 12) as scores of the places before them (24, 13)."""
    return nn.functional.pad(values, (0, 1))


class Launcher:
    """Keeps the loss in place of going back through it."""

    device = torch.device("cpu")
    state = SimpleNamespace(deepspeed_plugin=None)
    loss: Tensor

    def backward(self, loss: Tensor) -> None:
        """Keeps it."""
        self.loss = loss

    def accumulate(self, model: Any) -> Any:
        """One micro-batch is a step."""
        return contextlib.nullcontext()

    def print(self, *texts: Any) -> None:
        """Says nothing."""

    def unwrap_model(self, model: Any) -> Any:
        """The same."""
        return model

    def gather_for_metrics(self, value: Tensor) -> Tensor:
        """The same."""
        return value


class Silent:
    """Takes any call."""

    def __getattr__(self, name: str) -> Any:
        return lambda *given, **named: SimpleNamespace(should_save=False)


DEFAULTS: dict[str, Any] = {
    "kl_coef": 0.0,
    "kl_estimator": "k1",
    "whiten_rewards": False,
    "missing_eos_penalty": None,
    "cliprange": 0.2,
    "cliprange_value": 0.2,
    "vf_coef": 0.1,
    "gamma": 1.0,
    "lam": 0.95,
}
LOOP: dict[str, Any] = {
    "temperature": 1.0,
    "response_length": WIDTH,
    "num_ppo_epochs": 1,
    "num_mini_batches": 1,
    "gradient_accumulation_steps": 1,
    "num_total_batches": 1,
    "total_episodes": ROWS,
    "batch_size": ROWS,
    "local_batch_size": ROWS,
    "local_mini_batch_size": ROWS,
    "per_device_train_batch_size": ROWS,
    "local_rollout_forward_batch_size": ROWS,
    "num_sample_generations": 0,
    "ds3_gather_for_generation": False,
    "logging_steps": None,
    "eval_steps": None,
    "save_steps": None,
}


def ppo(given: Tensors, **settings: Any) -> Tensor:
    """PPOTrainer's loss in the first step of the first rollout.

    Args:
        given: The tensors; a completion's score is the sum of its two rewards.
        settings: Of PPOConfig, where they differ from its defaults; the KL is off.
    """
    from trl.experimental.ppo import PPOTrainer

    trainer, ids = object.__new__(PPOTrainer), tokens(given)
    launcher, scores = Launcher(), given["rewards"].sum(dim=1, keepdim=True).expand(-1, WIDTH + 1)
    own: dict[str, Any] = {
        "args": SimpleNamespace(**(LOOP | DEFAULTS | settings)),
        "accelerator": launcher,
        "optimizer": Silent(),
        "model": Both(given, ids),
        "ref_model": Policy(given["reference"], ids),
        "reward_model": Scorer(scores),
        "processing_class": SimpleNamespace(pad_token_id=PAD, eos_token_id=END),
        "dataloader": [{"input_ids": PROMPTS}],
        "state": SimpleNamespace(),
        "control": SimpleNamespace(should_save=False),
        "callback_handler": Silent(),
        "lr_scheduler": SimpleNamespace(step=lambda: None, get_last_lr=lambda: [0.0]),
        "train_dataset_len": ROWS,
        "is_deepspeed_enabled": False,
        "stop_token_id": None,
        "log": lambda metrics: None,
    }
    for name, value in own.items():
        setattr(trainer, name, value)
    np.random.seed(0)  # its order of rows
    trainer.train()
    return launcher.loss
