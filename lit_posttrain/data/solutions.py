"""Solutions in steps with labels: what process reward models learn from."""

from dataclasses import dataclass
from typing import Any, Literal

import torch

from lit_posttrain.batches import StepBatch, TokenBatch
from lit_posttrain.contracts import ProblemSource
from lit_posttrain.data.formats import StepwiseRow
from lit_posttrain.data.preparation import Preparation
from lit_posttrain.data.trained_with import weighting_of
from lit_posttrain.data.unit_data import AS_USUAL, UnitData, UnitSettings
from lit_posttrain.data.unit_limit import TooLong
from lit_posttrain.data.unit_loader import Shares, Standing
from lit_posttrain.data.unit_tokenising import check_kind
from lit_posttrain.data.units import Member, Unit
from lit_posttrain.errors import InputError
from lit_posttrain.solution_steps import StepFormat, reader_of
from lit_posttrain.text import ChatText

UNKNOWN = float("nan")
HALF = 0.5


@dataclass(frozen=True)
class StepLabels:
    """What the labels of the data come to mean.

    Args:
        kind: `soft` takes them as they are, in [0, 1]. `hard` makes 1 of those above `hard_above`, and 0 of others.
        hard_above: With 0, a step is right if any of the rollouts behind it was: Math-Shepherd's hard estimation.
        until_first_error: Labels after the first wrong step (below 0.5) count as unknown.

    Source: Wang et al. 2023, arXiv:2312.08935, eq. 3 and 4.
    """

    kind: Literal["soft", "hard"] = "soft"
    hard_above: float = 0.0
    until_first_error: bool = False

    def __post_init__(self) -> None:
        if self.kind not in ("soft", "hard") or not 0 <= self.hard_above < 1:
            raise InputError(
                f"labels are soft or hard, with hard_above in [0, 1); got {self.kind!r} and {self.hard_above}"
            )

    def __call__(self, labels: list[float | None]) -> list[float]:
        """The labels, NaN where nothing is known of a step.

        Raises:
            InputError: for a label outside of [0, 1], or if none is known.
        """
        known = [label for label in labels if label is not None]
        if not known or not all(0 <= label <= 1 for label in known):
            raise InputError(f"labels must be in [0, 1] or null, and one at least known; got {labels}")
        if self.kind == "hard":
            labels = [None if label is None else float(label > self.hard_above) for label in labels]
        wrong = next((i for i, one in enumerate(labels) if one is not None and one < HALF), len(labels))
        last = wrong if self.until_first_error else len(labels)
        return [UNKNOWN if one is None or i > last else float(one) for i, one in enumerate(labels)]


@dataclass(frozen=True)
class Solutions:
    """Reads solutions in steps."""

    steps: StepFormat
    labels: StepLabels

    def __call__(self, row: Any, text: ChatText) -> list[Unit]:
        """One unit of one sequence, with a label at the end of each step."""
        check_kind(row, (StepwiseRow,), "StepData")
        steps = row.steps
        if len(steps) == 1 < len(row.labels):
            steps = self.steps.labelled(steps[0], row.labels)
        if len(steps) != len(row.labels):
            raise InputError(f"there are {len(steps)} steps, but {len(row.labels)} labels; give one for each")
        solution = reader_of(text, self.steps)(row.prompt, steps)
        mask = [False] * len(solution.ids)
        for end in solution.ends:
            mask[end] = True
        labels, start = self.labels(row.labels), solution.prompt_tokens
        return [[Member.of(solution.ids, mask, labels=labels, prompt_tokens=start)]]


class StepData(UnitData):
    """Solutions in steps. The label of a step stands at its last token, the last one of the separator.

    Tokens are weighed by the module's `weighting`: a labelled step is a token of it. A step that holds the separator
    itself is one step here; a text that is cut in use would make several of it, so choose one that steps lack.

    Args:
        source: Where they come from: a `Table` of stepwise rows, or any source whose `rows` are such.
        batch_solutions: Solutions per optimiser step, over all micro-batches and ranks.
        steps: How solutions are written in steps.
        labels: What the labels come to mean.
        max_tokens: The longest prompt with solution allowed; 0 means the network's limit.
        too_long: What happens to longer ones, as in `PreferenceData`; steps that are cut away have no label.
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
        batch_solutions: int = 32,
        steps: StepFormat = StepFormat(),  # noqa: B008, frozen
        labels: StepLabels = StepLabels(),
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
            batch_solutions, max_tokens, too_long, packed, row_tokens, validation_split, seed, preparation
        )
        super().__init__(source, settings, Solutions(steps, labels), text)
        self.steps = steps

    def shares(self) -> Shares:
        """The weight of every labelled step of a solution, as the module's `weighting` says."""
        weighting = weighting_of(self)
        return lambda units, counts: weighting(counts, torch.arange(len(units)))

    def assembly(self, base: TokenBatch, standing: Standing) -> StepBatch:
        """A batch of solutions."""
        return step_batch(base, standing)


def step_batch(base: TokenBatch, standing: Standing) -> StepBatch:
    """A batch of solutions, whose shares are the weight of a labelled step."""
    known = base.mask & ~standing.labels.isnan()
    return StepBatch(
        base.input_ids,
        base.segments,
        base.position_ids,
        known,
        standing.share[:, None] * known,
        step_ends=base.mask,
        step_labels=standing.labels.nan_to_num(0.0),
    )
