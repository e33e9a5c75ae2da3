"""Pairs of completions, the better one first: what reward models and DPO learn from."""

from collections.abc import Sequence

import torch

from lit_posttrain.batches import PreferenceBatch, TokenBatch
from lit_posttrain.contracts import ProblemSource
from lit_posttrain.data.preparation import Preparation
from lit_posttrain.data.reference_cache import ReferenceCache
from lit_posttrain.data.unit_data import AS_USUAL, UnitData, UnitSettings
from lit_posttrain.data.unit_limit import TooLong
from lit_posttrain.data.unit_loader import Shares, Standing, spread
from lit_posttrain.data.unit_tokenising import Pairs
from lit_posttrain.data.units import Unit
from lit_posttrain.text import ChatText


class PreferenceData(UnitData):
    """Pairs of completions of a prompt. Both sides of a pair stand in one micro-batch, on one rank.

    The shares of the pairs of a step are in proportion to their weights (1 where the rows have none), and sum to 1
    over all its micro-batches and ranks.

    Args:
        source: Where they come from: a `Table` of preferences, or a `Mixture` of several.
        batch_pairs: Pairs per optimiser step, over all micro-batches and ranks.
        max_tokens: The longest prompt with completion allowed; 0 means the network's limit.
        too_long: What happens to pairs with a longer side. `error` stops at start, `skip` leaves the pair out.
            `cut_prompt` takes away the beginning of the prompt (but a BOS), the same of both sides.
            `cut_completion` takes away the end of a completion, and its end token. `cut_both` leaves the
            completions what half of `max_tokens`, or a shorter prompt, leaves room for, then cuts the prompt. Pairs
            of which nothing, or no difference, would be left are left out. All are counted in the report.
        packed: Put several sequences into a row, kept apart by the attention mask, instead of padding.
        row_tokens: Most tokens of a packed row; 0 means `max_tokens`.
        validation_split: The split for the validation figures; none switches it off.
        seed: Of the order.
        text: Tokenizer and template; those of the module by default.
        preparation: How rows become tokens: in how many processes, and where they are kept for the next run.
        reference_cache: Where the log-probs of a fixed reference are kept, computed before the training; without
            it the method computes them at every step.
    """

    def __init__(
        self,
        source: ProblemSource,
        batch_pairs: int = 32,
        max_tokens: int = 0,
        too_long: TooLong = "error",
        packed: bool = False,
        row_tokens: int = 0,
        validation_split: str | None = "validation",
        seed: int = 0,
        text: ChatText | None = None,
        preparation: Preparation = AS_USUAL,
        reference_cache: ReferenceCache | None = None,
    ) -> None:
        settings = UnitSettings(
            batch_pairs, max_tokens, too_long, packed, row_tokens, validation_split, seed, preparation
        )
        super().__init__(source, settings, Pairs(), text, reference_cache)

    def shares(self) -> Shares:
        """By the weights of the pairs."""
        return by_weight

    def assembly(self, base: TokenBatch, standing: Standing) -> PreferenceBatch:
        """A batch of pairs."""
        return preference_batch(base, standing)


def by_weight(units: Sequence[Unit], counts: torch.Tensor) -> torch.Tensor:
    """Every pair of a step counts by its weight."""
    weights = torch.tensor([rejected.value for _, rejected in units], dtype=torch.float64)
    return (weights / weights.sum()).float()


def preference_batch(base: TokenBatch, standing: Standing) -> PreferenceBatch:
    """A batch of pairs; the value of a chosen sequence is the margin, that of a rejected one the weight."""
    is_chosen = standing.number == 0
    margins = torch.zeros_like(standing.value)
    margins[standing.unit[is_chosen]] = standing.value[is_chosen]
    return PreferenceBatch(
        base.input_ids,
        base.segments,
        base.position_ids,
        base.mask,
        spread(standing.share, base.mask, standing.unit),
        pair=standing.unit,
        chosen=is_chosen,
        margin=margins[standing.unit],
        share=standing.share,
    )
