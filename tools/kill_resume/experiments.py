"""The runs that are killed: tiny, seconds long, and with everything on that a resume could get wrong."""

from typing import Any

FOLDER = "kept"
"""Of the checkpoints, within the folder of a trial."""
STEPS = {"sft": 22, "grpo": 22, "lora": 24}
"""The last step of `lora` has a checkpoint and a probe of its own before the end of training makes another."""
CHECKPOINT_EVERY = 3
PROBE_EVERY = 4
NETWORK = {
    "model_type": "llama",
    "vocab_size": 16,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 40,
}
TEXT = {"characters": "0123456789+="}
SOURCE = {
    "class_path": "Arithmetic",
    "init_args": {"digits": 2, "train_size": 80, "held_out_size": 16},
}
SCHEDULE = {"class_path": "WarmupDecay", "init_args": {"total_steps": max(STEPS.values()), "warmup_steps": 4}}
OPTIMIZER = {"class_path": "torch.optim.AdamW", "init_args": {"lr": 3.0e-3, "weight_decay": 0.1}}
GRADER = {
    "class_path": "PythonFunction",
    "init_args": {
        "function": "kill_resume.rewards.leading_characters",
        "workers": 2,
        "deadline_s": 120.0,
        "correct_at": 1.0,
    },
}


def config(method: str, *, upload: bool) -> dict[str, Any]:
    """The whole config of one of `METHODS`; `upload` starts the MLflow uploader beside the training."""
    return {
        "seed_everything": 7,
        **METHODS[method](),
        "trainer": {
            "accelerator": "cpu",
            "devices": 1,
            "max_steps": STEPS[method],
            "gradient_clip_val": 0.5,
            "accumulate_grad_batches": 2,
            "log_every_n_steps": 1,
            "logger": {
                "class_path": "JournaledMLflowLogger",
                "init_args": {"experiment": "kill", "root": "runs", "upload": upload, "drain_s": 120.0},
            },
            "callbacks": [_probe(), {"class_path": "Transcripts", "init_args": {"every_n_rollouts": 2}}],
        },
        "checkpoint": {"dirpath": FOLDER, "every_n_train_steps": CHECKPOINT_EVERY},
    }


def _sft() -> dict[str, Any]:
    return _supervised({"config": NETWORK | {"attention_dropout": 0.1}})


def _lora() -> dict[str, Any]:
    return _supervised({"config": NETWORK, "lora": {"rank": 4, "dropout": 0.1}})


def _supervised(network: dict[str, Any]) -> dict[str, Any]:
    """5 optimiser steps an epoch, a validation after each epoch."""
    return {
        "model": {
            "class_path": "SFTModule",
            "init_args": {"network": network, "text": TEXT, "optimizer": OPTIMIZER, "schedule": SCHEDULE},
        },
        "data": {
            "class_path": "ChatData",
            "init_args": {"source": SOURCE, "batch_sequences": 16, "packed": True, "row_tokens": 24},
        },
    }


def _grpo() -> dict[str, Any]:
    """4 optimiser steps a rollout, 3 rollouts an epoch; a KL to a reference network."""
    return {
        "model": {
            "class_path": "GRPOModule",
            "init_args": {
                "network": {"config": NETWORK},
                "text": TEXT,
                "grader": GRADER,
                "rollouts": {
                    "group_size": 4,
                    "sampling": {"max_new_tokens": 6},
                    "rescore": True,
                    "grading_deadline_s": 600.0,
                },
                "reuse": {"epochs": 2, "minibatches": 2},
                "terms": {"kl": {"class_path": "KLInLoss", "init_args": {"coefficient": 0.05}}},
                "optimizer": OPTIMIZER,
                "schedule": SCHEDULE,
            },
        },
        "data": {
            "class_path": "PromptData",
            "init_args": {
                "source": SOURCE,
                "problems_per_rollout": 4,
                "rollouts_per_epoch": 3,
                "packed": True,
                "row_tokens": 24,
            },
        },
    }


def _probe() -> dict[str, Any]:
    return {
        "class_path": "AccuracyProbe",
        "init_args": {
            "data": {"class_path": "PromptData", "init_args": {"source": SOURCE}},
            "grader": GRADER,
            "sampling": {"max_new_tokens": 6},
            "samples_per_problem": 2,
            "problems": 6,
            "every_n_steps": PROBE_EVERY,
        },
    }


METHODS = {"sft": _sft, "grpo": _grpo, "lora": _lora}
