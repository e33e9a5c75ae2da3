"""One optimiser step of our SFTModule and of TRL's SFTTrainer: loss and gradient."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, TrainerCallback

from lit_posttrain.data import ChatData
from lit_posttrain.data.formats import recognise
from lit_posttrain.data.preparation import Preparation
from lit_posttrain.data.sources import Table
from lit_posttrain.data.tokenising import tokenise
from lit_posttrain.loss_mask import LossOn
from lit_posttrain.methods import SFTModule
from lit_posttrain.networks import NetworkConfig
from lit_posttrain.text import TextConfig, load_text
from trl_comparison.cases import MAX_TOKENS, ROW_TOKENS


def folder_of(case: Mapping[str, Any], models: Path) -> Path:
    """The network with the tokenizer of a case."""
    return models / case.get("tokenizer", "characters")


class KeepOurs(pl.Callback):
    """Keeps the gradient of the step."""

    gradients: dict[str, torch.Tensor]

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        """Before it is spent."""
        named = pl_module.policy.causal.named_parameters()
        self.gradients = {name: p.grad.clone() for name, p in named if p.grad is not None}


def ours(case: Mapping[str, Any], models: Path, folder: Path) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradient of one step of SFTModule."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    model, keep = folder_of(case, models), KeepOurs()
    module = SFTModule(
        NetworkConfig(path=str(model)),
        text_of(case, model),
        optimizer=lambda p: torch.optim.SGD(p, lr=0.0),
        label_smoothing=case.get("smoothing", 0.0),
    )
    trainer = pl.Trainer(
        accelerator="cpu",
        max_steps=1,
        accumulate_grad_batches=case.get("accumulate", 1),
        callbacks=[keep],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, datamodule=our_data(case, folder / "rows.jsonl"))
    return float(trainer.callback_metrics["train/loss"]), keep.gradients


def our_data(case: Mapping[str, Any], file: Path) -> ChatData:
    """All rows of a case in one step."""
    file.write_text("".join(json.dumps(row) + "\n" for row in case["rows"]))
    packed = case.get("packed", False)
    return ChatData(
        Table(str(file), held_out_share=1e-9),
        batch_sequences=len(case["rows"]),
        too_long="skip" if case.get("too_long") else "error",
        packed=packed,
        row_tokens=ROW_TOKENS if packed else 0,
        validation_split=None,
        loss=LossOn(case["what"]),
        preparation=Preparation(0),
    )


def text_of(case: Mapping[str, Any], model: Path) -> TextConfig:
    """The tokenizer of a case; prompts and completions that are texts have no template."""
    text = isinstance(case["rows"][0].get("prompt"), str)
    return TextConfig(path=str(model), template="plain" if text else None)


def theirs(case: Mapping[str, Any], models: Path, folder: Path) -> tuple[float, dict[str, torch.Tensor], int]:
    """Loss and gradient of one step of SFTTrainer, and by how many tokens it divided."""
    from trl import SFTTrainer  # pyright: ignore[reportMissingImports]

    kept: dict[str, Any] = {}

    class Keep(TrainerCallback):
        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            named = kwargs["model"].named_parameters()
            kept["gradients"] = {name: p.grad.clone() for name, p in named if p.grad is not None}

    class Counting(SFTTrainer):
        def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            kept["divisor"] = kwargs.get("num_items_in_batch")
            return super().compute_loss(model, inputs, *args, **kwargs)

    network = AutoModelForCausalLM.from_pretrained(folder_of(case, models), dtype=torch.float32)
    rows = Dataset.from_list(case["rows"])
    trainer = Counting(network, their_settings(case, folder), train_dataset=rows, callbacks=[Keep()])
    told = trainer.train()
    return told.training_loss, kept["gradients"], -1 if kept["divisor"] is None else int(kept["divisor"])


def their_settings(case: Mapping[str, Any], folder: Path) -> Any:
    """All rows of a case in one step, without what would change the gradient."""
    from trl import SFTConfig  # pyright: ignore[reportMissingImports]

    accumulate, packed = case.get("accumulate", 1), case.get("packed", False)
    return SFTConfig(
        output_dir=str(folder),
        per_device_train_batch_size=len(case["rows"]) // accumulate,
        gradient_accumulation_steps=accumulate,
        max_steps=1,
        max_grad_norm=0.0,
        learning_rate=0.0,
        optim="sgd",
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        max_length=ROW_TOKENS if packed else MAX_TOKENS,
        packing=packed,
        assistant_only_loss=case["what"] == "assistant",
        label_smoothing_factor=case.get("smoothing", 0.0),
    )


def predicted(case: Mapping[str, Any], models: Path) -> int:
    """Tokens of a case that are predicted and count."""
    encode = load_text(text_of(case, folder_of(case, models)))
    layout = recognise([*case["rows"][0]], case["rows"])
    rows = [tokenise(layout.read(row), encode, LossOn(case["what"])) for row in case["rows"]]
    return sum(sum(row.mask[1:]) for row in rows if len(row.ids) <= MAX_TOKENS)
