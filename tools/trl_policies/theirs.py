"""TRL's GRPOTrainer and RLOOTrainer on the shared tensors: their own methods from rewards to the loss.

Stand-ins are the networks, which give the log-probs that are wanted, the generation, which gives completions of the
lengths that are wanted, and the launcher of processes.
"""
# pyright: reportMissingImports=false

import contextlib
import tempfile
from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from trl_policies.tensors import (
    END,
    FIRST_PROMPT,
    GROUP,
    PAD,
    ROWS,
    WIDTH,
    WORD,
    Tensors,
    entropy,
    policy,
)

CPU = torch.device("cpu")
LAUNCHER = SimpleNamespace(
    device=CPU,
    num_processes=1,
    process_index=0,
    is_main_process=False,
    sync_gradients=True,
    autocast=contextlib.nullcontext,
    gather=lambda value: value,
    gather_for_metrics=lambda value: value,
    reduce=lambda value, reduction: value,
    unwrap_model=lambda model: model,
)


class Network(torch.nn.Module):
    """Gives the log-probs and entropies of the completions whose prompts it is shown."""

    is_gradient_checkpointing = False

    def __init__(self, log_probs: Tensor, entropy: Tensor | None = None) -> None:
        super().__init__()
        self.log_probs = log_probs
        self.entropy = torch.zeros_like(log_probs) if entropy is None else entropy

    def forward(self, input_ids: Tensor, **named: Any) -> SimpleNamespace:
        """Both (B, 12)."""
        rows = input_ids[:, 0] - FIRST_PROMPT
        return SimpleNamespace(log_probs=self.log_probs[rows], entropy=self.entropy[rows])


def bare(trainer: type, config: type, given: Tensors, **settings: Any) -> Any:
    """A trainer that was never set up, with the settings of a real config and what is made of them in its set-up."""
    with tempfile.TemporaryDirectory() as folder:
        args = config(
            output_dir=folder,
            use_cpu=True,
            bf16=False,
            report_to="none",
            per_device_train_batch_size=ROWS,
            num_generations=GROUP,
            num_iterations=2,  # or the old log-probs would be taken to be the new ones
            max_completion_length=WIDTH,
            **settings,
        )
    made = object.__new__(trainer)
    for name, value in vars(args).items():
        setattr(made, name, value)
    upper = args.epsilon if args.epsilon_high is None else args.epsilon_high
    weights = [1.0, 1.0] if args.reward_weights is None else args.reward_weights
    own: dict[str, Any] = {
        "args": args,
        "accelerator": LAUNCHER,
        "epsilon_low": args.epsilon,
        "epsilon_high": upper,
        "reward_weights": torch.tensor(weights),
        "chat_template_kwargs": {},
        "_tokenizer": SimpleNamespace(pad_token_id=PAD),
        "eos_token_ids": [END],
        "state": SimpleNamespace(global_step=0),
        "model": Network(given["old"]),
        "ref_model": Network(given["reference"]),
        "aux_loss_enabled": False,
        "current_gradient_accumulation_steps": args.gradient_accumulation_steps,
        "_metrics": {"train": defaultdict(list)},
        "_logs": defaultdict(list) | {"rewards": defaultdict(list), "extra": defaultdict(list)},
        "_pending_extra_logs": {},
        "_pending_metrics": {},
    }
    for name, value in (own | rewarded(given)).items():
        setattr(made, name, value)
    return made


def rewarded(given: Tensors) -> dict[str, Any]:
    """Two functions that reward completions as the tensors say, None where they are not graded."""

    def function(part: int) -> Any:
        rewards = [None if r != r else r for r in given["rewards"][:, part].tolist()]
        return lambda **named: rewards

    return {
        "reward_funcs": [function(0), function(1)],
        "reward_func_names": ["first", "second"],
        "reward_processing_classes": [None, None],
        "environments": None,
        "environment_factories": None,
        "tools": None,
    }


def completions(given: Tensors) -> list[list[int]]:
    """Token ids of the completions."""
    lengths = given["mask"].sum(dim=1).tolist()
    ends = [[WORD] if cut else [END] for cut in given["cut"].tolist()]
    return [[WORD] * (length - 1) + end for length, end in zip(lengths, ends, strict=True)]


def by_row(values: Tensor, mask: Tensor) -> list[list[Any]]:
    """The values under a mask, row by row."""
    return [row[live].tolist() for row, live in zip(values, mask, strict=True)]


PROMPTS = [[FIRST_PROMPT + row] for row in range(ROWS)]
INPUTS = [{"prompt": str(row)} for row in range(ROWS)]


def grpo(
    given: Tensors, *, micro_batches: int = 1, first: bool = False, injected: bool = False, **settings: Any
) -> Tensor:
    """GRPOTrainer's loss.

    Args:
        given: The tensors.
        micro_batches: That the rollout is cut into.
        first: The loss of the first of them alone, as a step of its own; otherwise they are one step.
        injected: Some tokens were put there by a tool.
        settings: Of GRPOConfig, where they differ from its defaults.
    """
    from trl import GRPOConfig, GRPOTrainer
    from trl.trainer.utils import split_tensor_dict

    settings = {"vllm_importance_sampling_correction": False, "scale_rewards": "none"} | settings
    trainer = bare(GRPOTrainer, GRPOConfig, given, **settings)
    trainer._entropy_bonus_enabled = trainer.entropy_coef != 0.0
    mask, ids = given["mask"], completions(given)
    tool_mask = by_row((~given["injected"]).long(), mask) if injected else None
    sampled = by_row(given["sampled"], mask) if trainer.use_vllm else None
    trainer._generate = lambda prompts: (PROMPTS, ids, tool_mask, ids, sampled, {}, None, None)
    inputs = trainer._generate_and_score_completions(INPUTS)
    trainer.model = Network(policy(given), entropy(given))
    trainer.args.steps_per_generation = micro_batches
    trainer.current_gradient_accumulation_steps = 1 if first else micro_batches
    parts = split_tensor_dict(inputs, micro_batches)[: 1 if first else None]
    return torch.stack([trainer._compute_loss(trainer.model, part) for part in parts]).sum()


def rloo(given: Tensors, **settings: Any) -> Tensor:
    """RLOOTrainer's loss.

    Args:
        given: The tensors.
        settings: Of RLOOConfig, where they differ from its defaults.
    """
    from trl import RLOOConfig, RLOOTrainer

    trainer = bare(RLOOTrainer, RLOOConfig, given, **({"beta": 0.0} | settings))
    ids = completions(given)
    trainer._generate = lambda prompts: (PROMPTS, ids, ids)
    inputs = trainer._generate_and_score_completions(INPUTS)
    trainer.model = Network(policy(given), entropy(given))
    return trainer._compute_loss(trainer.model, inputs)
