"""TRL's own code on the shared tensors: methods of its trainers, with stand-ins for the network and the launcher."""
# pyright: reportMissingImports=false

import contextlib
from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

Tensors = dict[str, Tensor]


class Network(torch.nn.Module):
    """Gives the outputs that it was made with, whatever goes in."""

    is_gradient_checkpointing = False

    def __init__(self, **outputs: Tensor) -> None:
        super().__init__()
        self.outputs = SimpleNamespace(**outputs)

    def forward(self, *inputs: Any, **named: Any) -> SimpleNamespace:
        """The outputs."""
        return self.outputs


LAUNCHER = SimpleNamespace(
    device=torch.device("cpu"), gather=lambda value: value, gather_for_metrics=lambda value: value
)


def bare(trainer: type, **settings: Any) -> Any:
    """A trainer that was never set up, with what its loss reads."""
    made = object.__new__(trainer)
    made.accelerator, made.aux_loss_enabled, made._total_train_tokens, made._tp_size = LAUNCHER, False, 0, 1
    made._metrics = {"train": defaultdict(list)}
    for name, value in settings.items():
        setattr(made, name, value)
    return made


def answers(given: Tensors, aligned: bool = True) -> Network:
    """A network whose completions have the log-probs."""
    logprobs = given["logprobs"]
    zeros = torch.zeros_like(logprobs)
    return Network(
        log_probs=logprobs,
        log_sum_sq_probs=given["collision"] if aligned else zeros,
        entropy=zeros,
        mean_logits=zeros,
        is_top1=zeros.bool(),
    )


def padded(given: Tensors) -> Tensors:
    """Inputs with a prompt of one token: the first entry of every row, which the loss cuts off."""
    mask = torch.nn.functional.pad(given["mask"].long(), (1, 0))
    return {
        "input_ids": torch.ones_like(mask),
        "attention_mask": torch.ones_like(mask),
        "completion_mask": mask,
    }


def dpo(
    given: Tensors, settings: dict[str, Any], aligned: bool = True, known: Tensors | None = None
) -> Tensor:
    """DPOTrainer's loss; `known` has the reference's log-probs where they are no sums."""
    from trl import DPOTrainer

    defaults = {
        "label_smoothing": 0.0,
        "f_divergence_type": "reverse_kl",
        "ld_alpha": None,
        "use_weighting": False,
        "precompute_ref_logps": True,
        "loss_weights": [1.0] * len(settings["loss_types"]),
    }
    trainer = bare(DPOTrainer, model=answers(given, aligned), **(defaults | settings))
    chosen, rejected = given["reference"].sum(dim=1).chunk(2)
    inputs = padded(given) | (known or {"ref_chosen_logps": chosen, "ref_rejected_logps": rejected})
    return trainer._compute_loss(trainer.model, inputs, return_outputs=False)


def dpo_desensitised(given: Tensors, beta: float, alpha: float) -> Tensor:
    """DPOTrainer's loss with `ld_alpha`, for the policy and, by its own method, for the reference."""
    from trl import DPOTrainer

    reference = answers(given | {"logprobs": given["reference"]})
    trainer = bare(DPOTrainer, model=reference, ref_model=reference, ld_alpha=alpha)
    trainer.args = SimpleNamespace(gradient_checkpointing_kwargs=None)
    trainer.accelerator = SimpleNamespace(**vars(LAUNCHER), autocast=contextlib.nullcontext)
    chosen, rejected = trainer.compute_ref_log_probs(reference, padded(given))
    known = {"ref_chosen_logps": chosen, "ref_rejected_logps": rejected}
    return dpo(given, {"beta": beta, "loss_types": ["sigmoid"], "ld_alpha": alpha}, known=known)


def sides(given: Tensors, averaged: bool, reference: bool = False) -> tuple[Tensor, ...]:
    """Log-probs, or log-ratios, of both sides."""
    values = given["logprobs"] - given["reference"] if reference else given["logprobs"]
    return (values.sum(dim=1) / (given["mask"].sum(dim=1) if averaged else 1)).chunk(2)


def cpo(given: Tensors, settings: dict[str, Any], averaged: bool, reference: bool) -> Tensor:
    """CPOTrainer's loss without its likelihood."""
    from trl.experimental.cpo import CPOTrainer

    losses, *_ = bare(CPOTrainer, **settings).cpo_loss(*sides(given, averaged, reference))
    return losses.mean()


def orpo(given: Tensors, beta: float) -> Tensor:
    """ORPOTrainer's loss; its likelihood is the mean over all tokens of the chosen sides."""
    from trl.experimental.orpo import ORPOTrainer

    chosen, rejected = sides(given, averaged=True)
    live = given["mask"].chunk(2)[0]
    likelihood = -given["logprobs"].chunk(2)[0][live].mean()
    nothing = torch.zeros(1)
    trainer = bare(ORPOTrainer, beta=beta)
    trainer.concatenated_forward = lambda model, batch: (chosen, rejected, nothing, nothing, likelihood)
    return trainer.get_batch_loss_metrics(None, {})[0]


def kto(given: Tensors, kind: str, beta: float, weights: tuple[float, float]) -> Tensor:
    """KTOTrainer's loss."""
    from trl import KTOTrainer

    trainer = bare(
        KTOTrainer,
        model=answers(given),
        loss_type=kind,
        beta=beta,
        calculate_KL=kind == "kto",
        precompute_ref_logps=True,
        desirable_weight=weights[0],
        undesirable_weight=weights[1],
    )
    trainer._compute_kl_logps = lambda model, batch: given["mismatched"]
    known = {"ref_logps": given["reference"].sum(dim=1), "ref_KL_logps": given["mismatched_reference"]}
    inputs = padded(given) | known | {"label": given["desirable"]}
    return trainer._compute_loss(trainer.model, inputs, return_outputs=False)


def reward(given: Tensors, margin: bool, centring: float | None) -> Tensor:
    """RewardTrainer's loss."""
    from trl import RewardTrainer

    network = Network(logits=given["scores"][:, None])
    trainer = bare(RewardTrainer, model=network, args=SimpleNamespace(center_rewards_coefficient=centring))
    inputs = {"attention_mask": torch.ones(1)} | ({"margin": given["margin"]} if margin else {})
    return trainer.compute_loss(network, inputs)


def steps(given: Tensors) -> Tensor:
    """What TRL's PRMTrainer, gone since, minimised: the token classification loss of transformers."""
    from transformers.loss.loss_utils import ForTokenClassification

    labels = given["step_labels"].masked_fill(~given["step_ends"], -100)
    return ForTokenClassification(given["step_logits"], labels, SimpleNamespace(num_labels=2))
