"""What a data module takes over from the trainer and the module that it is used with."""

from typing import Any

import lightning.pytorch as pl

from lit_posttrain.contracts import TokenWeights
from lit_posttrain.errors import InputError
from lit_posttrain.objectives.weights import TokenMean
from lit_posttrain.ranks import Ranks
from lit_posttrain.text import ChatText


def text_of(data: pl.LightningDataModule) -> ChatText:
    """The tokenizer of the module that the trainer trains with this data.

    Raises:
        InputError: outside a trainer.
    """
    if data.trainer is None:
        raise InputError(
            f"{type(data).__name__} has no tokenizer: give it text, or use it with a module that has one"
        )
    module: Any = data.trainer.lightning_module
    return module.text


def module_of(data: pl.LightningDataModule) -> Any:
    """The module that is trained with this data; None outside a trainer."""
    return data.trainer.lightning_module if data.trainer else None


def weighting_of(data: pl.LightningDataModule) -> TokenWeights:
    """How the module weighs tokens within a step; all alike outside a trainer."""
    return getattr(module_of(data), "weighting", TokenMean())


def micro_batches_of(data: pl.LightningDataModule) -> int:
    """Micro-batches of an optimiser step on each rank."""
    return int(data.trainer.accumulate_grad_batches) if data.trainer else 1


def ranks_of(data: pl.LightningDataModule) -> Ranks:
    """This process among those that train on different data."""
    return Ranks.of(data.trainer) if data.trainer else Ranks()


def max_positions_of(data: pl.LightningDataModule) -> int:
    """Tokens of the longest sequence that the network takes; 0 = not known."""
    module = module_of(data)
    return int(module.max_positions) if module is not None else 0
