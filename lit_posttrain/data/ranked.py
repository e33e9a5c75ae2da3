"""Completions with a grade each, those of a prompt together: what regression and K-wise ranking learn from."""

import torch

from lit_posttrain.batches import RankedBatch, TokenBatch
from lit_posttrain.contracts import ProblemSource
from lit_posttrain.data.preparation import Preparation
from lit_posttrain.data.unit_data import AS_USUAL, UnitData, UnitSettings
from lit_posttrain.data.unit_limit import TooLong
from lit_posttrain.data.unit_loader import Standing
from lit_posttrain.data.unit_tokenising import Ranking
from lit_posttrain.text import ChatText


class RankedData(UnitData):
    """Graded completions; all of a prompt stand in one micro-batch, on one rank.

    Every prompt of a step has the same share, which its completions divide evenly.

    Args:
        source: Where they come from: a `Table` of ranked rows, or `GradedPool`.
        batch_prompts: Prompts per optimiser step, over all micro-batches and ranks.
        max_tokens: The longest prompt with completion allowed; 0 means the network's limit.
        too_long: What happens to prompts with a longer one, as in `PreferenceData`.
        packed: Put several sequences into a row, kept apart by the attention mask, instead of padding.
        row_tokens: Most tokens of a packed row; 0 means `max_tokens`.
        validation_split: The split for the validation figures; none switches it off.
        seed: Of the order.
        text: Tokenizer and template; those of the module by default.
        preparation: How rows become tokens: in how many processes, and where they are kept for the next run.
    """

    def __init__(
        self,
        source: ProblemSource,
        batch_prompts: int = 8,
        max_tokens: int = 0,
        too_long: TooLong = "error",
        packed: bool = False,
        row_tokens: int = 0,
        validation_split: str | None = "validation",
        seed: int = 0,
        text: ChatText | None = None,
        preparation: Preparation = AS_USUAL,
    ) -> None:
        settings = UnitSettings(
            batch_prompts, max_tokens, too_long, packed, row_tokens, validation_split, seed, preparation
        )
        super().__init__(source, settings, Ranking(), text)

    def assembly(self, base: TokenBatch, standing: Standing) -> RankedBatch:
        """A batch of groups."""
        return ranked_batch(base, standing)


def ranked_batch(base: TokenBatch, standing: Standing) -> RankedBatch:
    """A batch of groups, whose sequences' values are their targets."""
    sizes = torch.bincount(standing.unit)[standing.unit]
    share = standing.share / sizes
    return RankedBatch(
        base.input_ids,
        base.segments,
        base.position_ids,
        base.mask,
        (share / base.mask.sum(dim=1).clamp(min=1))[:, None] * base.mask,
        target=standing.value,
        group=standing.unit,
        share=share,
    )
