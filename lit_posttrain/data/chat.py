"""Conversations for supervised training."""

from typing import Any, Literal

import lightning.pytorch as pl

from lit_posttrain.batches import TokenBatch
from lit_posttrain.contracts import OnlineMethod, ProblemSource
from lit_posttrain.data.loader import TokenLoader, TokenTable
from lit_posttrain.data.report import entry, fit_to_length, report
from lit_posttrain.data.steps import Cut
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


class ChatData(pl.LightningDataModule):
    """Conversations whose last assistant message is learned; the loss never sees the prompt.

    Args:
        source: Where the conversations come from.
        batch_sequences: Conversations per optimiser step, over all micro-batches and ranks.
        max_tokens: The longest sequence allowed; 0 means the network's limit.
        too_long: What happens to a longer one: `error` stops at start, `skip` leaves it out, `cut` keeps its
            beginning. Both are counted in the report.
        packed: Put several conversations into a row, kept apart by the attention mask, instead of padding.
        row_tokens: Tokens of a packed row; 0 means `max_tokens`.
        validation_split: The split for the validation loss; none switches it off.
        seed: Of the order.
        text: Tokenizer and template; those of the module by default.
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
    ) -> None:
        super().__init__()
        if batch_sequences < 1:
            raise InputError(f"batch_sequences must be at least 1 (got {batch_sequences})")
        self.source, self.batch_sequences = source, batch_sequences
        self.max_tokens = max_tokens
        self.too_long: Literal["error", "skip", "cut"] = too_long
        self.packed, self.row_tokens = packed, row_tokens
        self.validation_split, self.seed, self.text = validation_split, seed, text
        self.tables: dict[str, TokenTable] = {}
        self.entries: dict[str, dict[str, str]] = {}

    def setup(self, stage: str) -> None:
        """Tokenises the splits, reports on them and applies the length policy, once.

        Raises:
            InputError: if the module draws its own answers.
        """
        module = self.trainer.lightning_module if self.trainer else None
        if isinstance(module, OnlineMethod):
            raise InputError(
                f"{type(module).__name__} draws its own answers and would not learn ChatData's; give it PromptData"
            )
        self.prepare("train")
        if self.validation_split is not None:
            self.prepare(self.validation_split)

    def prepare(self, split: str) -> TokenTable:
        """The tokenised split.

        Raises:
            InputError: if it is empty, or a conversation does not fit and the policy is `error`.
        """
        if split not in self.tables:
            text = self._text()
            examples = [text.example(chat) for chat in self.source.chats(split)]
            if not examples:
                raise InputError(f"{type(self.source).__name__} has no conversations in split {split!r}")
            limit = self.max_tokens or self._limit()
            examples, told = fit_to_length(examples, limit, self.too_long, name=split)
            report(told)
            table = TokenTable.of([e.ids for e in examples], [e.mask for e in examples])
            self.tables[split], self.entries[split] = table, entry(self.source, split, table.digest, told)
        return self.tables[split]

    def datasets(self) -> list[dict[str, str]]:
        """The splits that were read, as dataset entries of a tracked run."""
        return list(self.entries.values())

    def train_dataloader(self) -> TokenLoader:
        """Micro-batches of the training split."""
        cut = Cut(self._accumulate(), self.packed, self.row_tokens or self.max_tokens, self._ranks())
        return self._loader("train", cut, shuffle=True)

    def val_dataloader(self) -> list[TokenBatch] | TokenLoader:
        """The validation split in a fixed order; empty where there is none."""
        if self.validation_split is None:
            return []
        return self._loader(self.validation_split, Cut(ranks=self._ranks()), shuffle=False)

    def _loader(self, split: str, cut: Cut, *, shuffle: bool) -> TokenLoader:
        module = self.trainer.lightning_module if self.trainer else None
        return TokenLoader(
            self.prepare(split),
            batch_sequences=self.batch_sequences,
            cut=cut,
            weighting=getattr(module, "weighting", TokenMean()),
            pad_id=self._text().pad_id,
            seed=self.seed,
            shuffle=shuffle,
        )

    def _accumulate(self) -> int:
        return int(self.trainer.accumulate_grad_batches) if self.trainer else 1

    def _ranks(self) -> Ranks:
        return Ranks.of(self.trainer) if self.trainer else Ranks()

    def _text(self) -> ChatText:
        if self.text is None:
            self.text = text_of(self)
        return self.text

    def _limit(self) -> int:
        module = self.trainer.lightning_module if self.trainer else None
        return int(module.max_positions) if module is not None else 0  # type: ignore[arg-type]
