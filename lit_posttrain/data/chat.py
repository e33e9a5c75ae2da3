"""Conversations and texts for supervised training."""

from typing import Literal

import lightning.pytorch as pl

from lit_posttrain.batches import TokenBatch
from lit_posttrain.contracts import OnlineMethod, ProblemSource
from lit_posttrain.data.loader import TokenLoader
from lit_posttrain.data.order import EpochOrder, StepSize
from lit_posttrain.data.parts import PreparedSplit, Preparer
from lit_posttrain.data.preparation import Preparation
from lit_posttrain.data.replay import ReplayOrder, StepShares
from lit_posttrain.data.report import LengthLimit
from lit_posttrain.data.sources.mixture import WithReplay
from lit_posttrain.data.sources.streaming import Streaming
from lit_posttrain.data.steps import Cut
from lit_posttrain.data.tokenising import Tokenising
from lit_posttrain.data.trained_with import (
    max_positions_of,
    micro_batches_of,
    ranks_of,
    text_of,
    weighting_of,
)
from lit_posttrain.data.window_loader import WindowLoader
from lit_posttrain.errors import InputError
from lit_posttrain.loss_mask import LossOn
from lit_posttrain.text import ON_COMPLETION, ChatText

AS_USUAL = Preparation()


class ChatData(pl.LightningDataModule):
    """Conversations, or texts, that a model learns to write.

    Args:
        source: Where they come from: a file or hub data set, a `Mixture` of several, one `WithReplay` of another,
            one that is `Streaming`.
        batch_sequences: Sequences per optimiser step, over all micro-batches and ranks.
        max_tokens: The longest sequence allowed; 0 means the network's limit.
        too_long: What happens to a longer one: `error` stops at start, `skip` leaves it out, `cut` keeps its
            beginning. Both are counted in the report.
        packed: Put several sequences into a row, kept apart by the attention mask, instead of padding.
        row_tokens: Most tokens of a packed row; 0 means `max_tokens`.
        validation_split: The split for the validation loss; none switches it off.
        seed: Of the order.
        text: Tokenizer and template; those of the module by default.
        loss: Which tokens the loss speaks of; by default the last answer.
        batch_tokens: About so many tokens per optimiser step instead of `batch_sequences`.
        preparation: How rows become tokens: in how many processes, and where they are kept for the next run.
    """

    def __init__(
        self,
        source: ProblemSource,
        batch_sequences: int = 32,
        max_tokens: int = 0,
        too_long: Literal["error", "skip", "cut"] = "error",
        packed: bool = False,
        row_tokens: int = 0,
        validation_split: str | None = "validation",
        seed: int = 0,
        text: ChatText | None = None,
        loss: LossOn = ON_COMPLETION,
        batch_tokens: int = 0,
        preparation: Preparation = AS_USUAL,
    ) -> None:
        super().__init__()
        self.size = StepSize(0 if batch_tokens else batch_sequences, batch_tokens)
        self.source, self.loss, self.preparation = source, loss, preparation
        self.max_tokens = max_tokens
        self.too_long: Literal["error", "skip", "cut"] = too_long
        self.packed, self.row_tokens = packed, row_tokens
        self.validation_split, self.seed, self.text = validation_split, seed, text
        self.splits: dict[tuple[str, bool], PreparedSplit] = {}

    def setup(self, stage: str) -> None:
        """Tokenises the splits, reports on them and applies the length policy, once.

        Raises:
            InputError: if the module draws its own answers, or a setting does not fit the data.
        """
        module = self.trainer.lightning_module if self.trainer else None
        if isinstance(module, OnlineMethod):
            raise InputError(
                f"{type(module).__name__} draws its own answers and would not learn ChatData's; give it PromptData"
            )
        if isinstance(self.source, Streaming):
            self._check_stream()
        else:
            self._order(self.prepare("train"), shuffle=True)
        if self.validation_split is not None:
            self.prepare(self.validation_split)

    def prepare(self, split: str, *, replayed: bool = False) -> PreparedSplit:
        """The tokenised split of the source, or of what is replayed beside it.

        Raises:
            InputError: if it is empty, or a row does not fit and the policy is `error`.
        """
        key = (split, replayed)
        if key not in self.splits:
            source = self.source
            if replayed:
                assert isinstance(source, WithReplay)
                source = source.replay
            self.splits[key] = Preparer(self._work(), self.preparation).split(source, split)
        return self.splits[key]

    def datasets(self) -> list[dict[str, str]]:
        """The splits that were read, as dataset entries of a tracked run."""
        return [one for split in self.splits.values() for one in split.entries]

    def train_dataloader(self) -> TokenLoader | WindowLoader:
        """Micro-batches of the training split."""
        cut = Cut(micro_batches_of(self), self.packed, self.row_tokens or self.max_tokens, ranks_of(self))
        if isinstance(self.source, Streaming):
            return self._streamed(self.source, cut)
        return self._loader(self.prepare("train"), cut, shuffle=True)

    def val_dataloader(self) -> list[TokenBatch] | TokenLoader | list[TokenLoader]:
        """The validation split in a fixed order, then that of what is replayed if asked for; empty without one."""
        if self.validation_split is None:
            return []
        own = self._loader(self.prepare(self.validation_split), Cut(ranks=ranks_of(self)), shuffle=False)
        if not (isinstance(self.source, WithReplay) and self.source.replay_validation):
            return own
        other = self.prepare(self.validation_split, replayed=True)
        return [own, self._loader(other, Cut(ranks=ranks_of(self)), shuffle=False)]

    def _loader(self, held: PreparedSplit, cut: Cut, *, shuffle: bool) -> TokenLoader:
        order, replay = self._order(held, shuffle=shuffle)
        pad_id = self._text().pad_id
        return TokenLoader(
            held.table, order, cut=cut, weighting=weighting_of(self), pad_id=pad_id, replay=replay
        )

    def _order(self, held: PreparedSplit, *, shuffle: bool) -> tuple[EpochOrder, ReplayOrder | None]:
        """Which sequences each step holds; only training packs, replays and shuffles.

        Raises:
            InputError: if a step or a packed row is too small for the data.
        """
        lengths, size, replay = held.table.lengths, self.size, None
        capacity, longest = self.row_tokens or self.max_tokens, int(lengths.max())
        if shuffle and self.packed and 0 < capacity < longest:
            raise InputError(
                f"row_tokens {capacity} is less than the longest sequence, of {longest} tokens; raise it, or set "
                "max_tokens and too_long"
            )
        if held.replays:
            assert isinstance(self.source, WithReplay)
            shares = StepShares.of(size, self.source.share)
            size = shares.own
            replay = ReplayOrder(lengths, held.replayed, shares.replayed, seed=self.seed)
        return EpochOrder(lengths, size, portions=held.portions, seed=self.seed, shuffle=shuffle), replay

    def _check_stream(self) -> None:
        if not self.size.sequences:
            raise InputError(
                "a step of batch_tokens needs to know all lengths beforehand; streamed data takes batch_sequences"
            )
        if self.packed and self.row_tokens and not 0 < self._work().limit.max_tokens <= self.row_tokens:
            raise InputError(
                f"row_tokens {self.row_tokens} may be less than the longest sequence of streamed data; set max_tokens "
                "to at most row_tokens, and too_long"
            )

    def _streamed(self, source: Streaming, cut: Cut) -> WindowLoader:
        self._check_stream()
        return WindowLoader(
            source,
            self._work().named("train"),
            batch_sequences=self.size.sequences,
            cut=cut,
            weighting=weighting_of(self),
            seed=self.seed,
            workers=self.preparation.workers,
        )

    def _work(self) -> Tokenising:
        limit = LengthLimit(self.max_tokens or max_positions_of(self), self.too_long)
        return Tokenising(self._text(), self.loss, limit)

    def _text(self) -> ChatText:
        if self.text is None:
            self.text = text_of(self)
        return self.text
