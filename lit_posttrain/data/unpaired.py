"""Single completions that are wanted or not, with completions of other prompts for the estimate of a KL."""

from collections.abc import Callable, Sequence

import numpy as np

from lit_posttrain.batches import TokenBatch, UnpairedBatch
from lit_posttrain.contracts import ProblemSource
from lit_posttrain.data.parts import PreparedSplit
from lit_posttrain.data.preparation import Preparation
from lit_posttrain.data.reference_cache import ReferenceCache
from lit_posttrain.data.token_table import JoinedTable, array_digest, joined_digest
from lit_posttrain.data.trained_with import module_of
from lit_posttrain.data.unit_data import AS_USUAL, UnitData, UnitSettings
from lit_posttrain.data.unit_limit import TooLong
from lit_posttrain.data.unit_loader import Standing, StepReader
from lit_posttrain.data.unit_tokenising import Verdicts
from lit_posttrain.data.units import Unit, UnitRows, UnitTable
from lit_posttrain.errors import InputError
from lit_posttrain.text import ChatText


class UnpairedData(UnitData):
    """Completions that are wanted or not, each with a mismatched one in the same micro-batch.

    A mismatched sequence is the prompt of a row and the completion of the next row that has another prompt; it is
    the same in every epoch. Where it is longer than any sequence of the data, its end is cut.

    A module with a method `before_step(batches)` is given its micro-batches of a step before it learns from the
    first, so that its estimate of the KL can be that of the whole step.

    Args:
        source: Where they come from: a `Table` of unpaired rows, or of preferences, of which both sides are taken.
        batch_completions: Completions per optimiser step, over all micro-batches and ranks, mismatched ones apart.
        max_tokens: The longest prompt with completion allowed; 0 means the network's limit.
        too_long: What happens to longer ones, as in `PreferenceData`.
        packed: Put several sequences into a row, kept apart by the attention mask, instead of padding.
        row_tokens: Most tokens of a packed row; 0 means `max_tokens`.
        validation_split: The split for the validation figures; none switches it off.
        seed: Of the order.
        text: Tokenizer and template; those of the module by default.
        preparation: How rows become tokens: in how many processes, and where they are kept for the next run.
        reference_cache: Where the log-probs of a fixed reference are kept, computed before the training.
        mismatched: Whether there are mismatched sequences; a loss without a KL needs none.
    """

    def __init__(
        self,
        source: ProblemSource,
        batch_completions: int = 64,
        max_tokens: int = 0,
        too_long: TooLong = "error",
        packed: bool = False,
        row_tokens: int = 0,
        validation_split: str | None = "validation",
        seed: int = 0,
        text: ChatText | None = None,
        preparation: Preparation = AS_USUAL,
        reference_cache: ReferenceCache | None = None,
        mismatched: bool = True,
    ) -> None:
        settings = UnitSettings(
            batch_completions, max_tokens, too_long, packed, row_tokens, validation_split, seed, preparation
        )
        super().__init__(source, settings, Verdicts(), text, reference_cache)
        self.mismatched = mismatched

    def units(self, held: PreparedSplit) -> UnitRows:
        """The completions, each with its mismatched one."""
        return Mismatched(held.table) if self.mismatched else UnitTable(held.table)

    def before_step(self) -> Callable[[Sequence[TokenBatch]], None] | None:
        """That of the module, if it has one."""
        module = module_of(self)
        return module.before_step if isinstance(module, StepReader) else None

    def assembly(self, base: TokenBatch, standing: Standing) -> UnpairedBatch:
        """A batch of single completions."""
        return unpaired_batch(base, standing)


class Mismatched:
    """Completions, each followed by its prompt with the completion of the next row that has another prompt.

    Args:
        table: Units of one sequence.

    Raises:
        InputError: if all prompts are the same.
    """

    def __init__(self, table: JoinedTable) -> None:
        self.alone = UnitTable(table)
        self.counts = table.counts
        prompts, self.partners = _partners(self.alone)
        self.longest = self.alone.longest
        behind = np.minimum(
            prompts + (table.lengths - prompts)[self.partners], np.maximum(self.longest, prompts + 1)
        )
        self.lengths = table.lengths + behind
        self.digest = joined_digest([table.digest, array_digest(self.partners)])

    def __len__(self) -> int:
        return len(self.partners)

    def unit(self, row: int) -> Unit:
        """The completion of a row, and the mismatched one."""
        [own] = self.alone.unit(row)
        [other] = self.alone.unit(int(self.partners[row]))
        return [own, other.behind(own.prompt, self.longest)]


def _partners(units: UnitTable) -> tuple[np.ndarray, np.ndarray]:
    """Tokens of the prompt of each row, and the row that its mismatched completion is from.

    Rows of one prompt that follow each other take theirs from those of the next prompt, in turn.
    """
    prompts = np.zeros(len(units), np.int64)
    before, begins = units.unit(-1 % len(units))[0].prompt.tobytes(), []
    for row in range(len(units)):
        prompt = units.unit(row)[0].prompt
        prompts[row] = len(prompt)
        if prompt.tobytes() != before:
            begins.append(row)
        before = prompt.tobytes()
    if not begins:
        raise InputError(
            "all completions belong to one prompt, so there are none of another for the estimate of the KL; set "
            "mismatched: false for a loss without it, or give rows with other prompts"
        )
    firsts = np.array(begins)
    sizes = np.diff(firsts, append=firsts[0] + len(units))
    rows = np.arange(firsts[0], firsts[0] + len(units))  # as if the first prompt came first
    run = np.searchsorted(firsts, rows, side="right") - 1
    following = (run + 1) % len(firsts)
    found = firsts[following] + (rows - firsts[run]) % sizes[following]
    partners = np.empty(len(units), np.int64)
    partners[rows % len(units)] = found % len(units)
    return prompts, partners


def unpaired_batch(base: TokenBatch, standing: Standing) -> UnpairedBatch:
    """A batch of completions whose value is 1 where they are wanted; the second of a unit is mismatched."""
    second = standing.number > 0
    share = standing.share.masked_fill(second, 0.0)
    counts = base.mask.sum(dim=1).clamp(min=1)
    return UnpairedBatch(
        base.input_ids,
        base.segments,
        base.position_ids,
        base.mask,
        (share / counts)[:, None] * base.mask,
        desirable=standing.value > 0.5,
        mismatched=second & (standing.share > 0),  # what only keeps step with other ranks is no estimate
        share=share,
    )
