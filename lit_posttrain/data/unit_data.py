"""What the data modules of preferences, verdicts, steps and rankings share."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as pl
import numpy as np

from lit_posttrain.batches import TokenBatch
from lit_posttrain.contracts import OnlineMethod, ProblemSource
from lit_posttrain.data.order import EpochOrder, StepSize
from lit_posttrain.data.parts import PreparedSplit, Preparer
from lit_posttrain.data.preparation import Preparation
from lit_posttrain.data.reference_cache import ReferenceCache, ReferenceScorer, reference_logprobs
from lit_posttrain.data.sources.mixture import WithReplay
from lit_posttrain.data.sources.streaming import Streaming
from lit_posttrain.data.steps import Cut
from lit_posttrain.data.trained_with import (
    max_positions_of,
    micro_batches_of,
    module_of,
    ranks_of,
    text_of,
)
from lit_posttrain.data.unit_limit import TooLong, UnitLimit
from lit_posttrain.data.unit_loader import Assembly, Shares, UnitBuilder, UnitLoader, even
from lit_posttrain.data.unit_tokenising import Reading, UnitTokenising
from lit_posttrain.data.units import UnitRows, UnitTable
from lit_posttrain.errors import InputError
from lit_posttrain.text import ChatText

AS_USUAL = Preparation()


@dataclass(frozen=True)
class UnitSettings:
    """How rows become steps; the data modules document each setting."""

    batch: int
    max_tokens: int
    too_long: TooLong
    packed: bool
    row_tokens: int
    validation_split: str | None
    seed: int
    preparation: Preparation


class UnitData(pl.LightningDataModule):
    """Rows whose sequences stay together, for one kind of batch.

    Args:
        source: Where the rows come from.
        settings: How they become steps.
        reading: The units of a row.
        text: Tokenizer and template; those of the module by default.
        reference: Where the reference's log-probs are kept; None where the method computes them.
    """

    def __init__(
        self,
        source: ProblemSource,
        settings: UnitSettings,
        reading: Reading,
        text: ChatText | None,
        reference: ReferenceCache | None = None,
    ) -> None:
        super().__init__()
        if isinstance(source, WithReplay | Streaming):
            raise InputError(
                f"{type(self).__name__} neither replays nor streams; give it a plain source or a Mixture"
            )
        self.source, self.settings, self.reading = source, settings, reading
        self.text, self.reference = text, reference
        self.size = StepSize(settings.batch)
        self.splits: dict[str, PreparedSplit] = {}

    assembly: Assembly[Any]

    def shares(self) -> Shares:
        """How the units of a step share its loss."""
        return even

    def units(self, held: PreparedSplit) -> UnitRows:
        """The units of a split."""
        return UnitTable(held.table)

    def before_step(self) -> Callable[[Sequence[TokenBatch]], None] | None:
        """What hears of a step of training before it is learned from."""
        return None

    def setup(self, stage: str) -> None:
        """Tokenises the splits, reports on them and applies the length policy, once.

        Raises:
            InputError: if the module draws its own answers, or a setting does not fit the data.
        """
        module = module_of(self)
        if isinstance(module, OnlineMethod):
            raise InputError(
                f"{type(module).__name__} draws its own answers and would not learn those of "
                f"{type(self).__name__}; give it PromptData"
            )
        self._check_rows(self.prepare("train"))
        if self.settings.validation_split is not None:
            self.prepare(self.settings.validation_split)

    def prepare(self, split: str) -> PreparedSplit:
        """The tokenised split of the source.

        Raises:
            InputError: if it is empty, or a row does not fit and the policy is `error`.
        """
        if split not in self.splits:
            held = Preparer(self._work(), self.settings.preparation).split(self.source, split)
            if not len(held.table):
                raise InputError(
                    f"the policy {self.settings.too_long!r} for rows that are too long leaves nothing of the split "
                    f"{split!r}; raise max_tokens"
                )
            self.splits[split] = held
        return self.splits[split]

    def datasets(self) -> list[dict[str, str]]:
        """The splits that were read, as dataset entries of a tracked run."""
        return [one for split in self.splits.values() for one in split.entries]

    def train_dataloader(self) -> UnitLoader:
        """Micro-batches of the training split."""
        settings = self.settings
        cut = Cut(micro_batches_of(self), settings.packed, self._capacity(), ranks_of(self))
        return self._loader("train", cut, shuffle=True)

    def val_dataloader(self) -> UnitLoader | list[TokenBatch]:
        """The validation split in a fixed order; empty without one."""
        if self.settings.validation_split is None:
            return []
        return self._loader(self.settings.validation_split, Cut(ranks=ranks_of(self)), shuffle=False)

    def _loader(self, split: str, cut: Cut, *, shuffle: bool) -> UnitLoader:
        held = self.prepare(split)
        units, pad_id = self.units(held), self._text().pad_id
        portions = held.portions if len(units) == len(held.table) else ()
        order = EpochOrder(
            units.lengths, self.size, portions=portions, seed=self.settings.seed, shuffle=shuffle
        )
        reference = self._reference(split, units, pad_id)
        builder = UnitBuilder(units, cut, self.assembly, self.shares(), pad_id, reference)
        return UnitLoader(order, builder, self.before_step() if shuffle else None)

    def _reference(self, split: str, units: UnitRows, pad_id: int) -> np.ndarray | None:
        if self.reference is None:
            return None
        module = module_of(self)
        if not isinstance(module, ReferenceScorer):
            raise InputError(
                f"{type(module).__name__} has no fixed reference to compute log-probs with; remove reference_cache"
            )
        settings = self.reference.of_split(split)
        return reference_logprobs(units, module, settings, pad_id=pad_id, ranks=ranks_of(self))

    def _check_rows(self, held: PreparedSplit) -> None:
        """
        Raises:
            InputError: if a sequence does not fit into a packed row.
        """
        if not self.settings.packed or not self._capacity():
            return
        longest, capacity = self.units(held).longest, self._capacity()
        if longest > capacity:
            raise InputError(
                f"row_tokens {capacity} is less than the longest sequence, of {longest} tokens; raise it, or set "
                "max_tokens and too_long"
            )

    def _capacity(self) -> int:
        return self.settings.row_tokens or self.settings.max_tokens

    def _work(self) -> UnitTokenising:
        text = self._text()
        limit = UnitLimit(
            self.settings.max_tokens or max_positions_of(self),
            self.settings.too_long,
            bos=text.tokenizer.bos_token_id,
        )
        return UnitTokenising(text, self.reading, limit)

    def _text(self) -> ChatText:
        if self.text is None:
            self.text = text_of(self)
        return self.text
