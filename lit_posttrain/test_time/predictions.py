"""The pool that `predict` fills: what is in it already is not drawn again."""

from collections.abc import Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

from lit_posttrain.batches import PromptBatch
from lit_posttrain.candidates import Candidate, Origin
from lit_posttrain.contracts import Strategy
from lit_posttrain.errors import InputError
from lit_posttrain.rollouts.pool import PoolWriter
from lit_posttrain.rollouts.provenance import settings_json
from lit_posttrain.test_time.sample import Sample


class Predictions:
    """A pool that the first process writes, and what all of them know of it.

    Collective: every process makes one with the same arguments.

    Args:
        output: Where the pool is, or will be.
        origin: Who draws, and how.
        samples: Completions wanted of each problem.
        strategy: Of the trainer; tells the others what the first process found.
        is_first: Whether this is the first process.

    Raises:
        InputError: in every process, if the pool cannot be added to.
    """

    def __init__(
        self, output: str | Path, origin: Origin, samples: int, *, strategy: Any, is_first: bool
    ) -> None:
        self.path = Path(output)
        self.writer: PoolWriter | None = None
        found: tuple[str | None, set[tuple[str, str]]] = None, set()
        if is_first:
            try:
                self.writer = PoolWriter(output)
                found = None, self.writer.done(origin, samples)
            except InputError as error:
                found = str(error), set()
        refusal, self.done = strategy.broadcast(found)
        if refusal is not None:
            raise InputError(refusal)
        self.left_out = 0

    def left(self, batch: PromptBatch) -> PromptBatch:
        """The problems of a batch that have no completions in the pool yet."""
        open_ones = [
            (problem, ids)
            for problem, ids in zip(batch.problems, batch.prompt_ids, strict=True)
            if (problem.source, problem.uid) not in self.done
        ]
        self.left_out += len(batch) - len(open_ones)
        return PromptBatch([problem for problem, _ in open_ones], [ids for _, ids in open_ones])

    def add(self, candidates: Sequence[Candidate]) -> None:
        """Writes the candidates of whole problems, in the first process."""
        if self.writer is not None:
            self.writer.write(candidates)
        self.done |= {candidate.problem_key for candidate in candidates}

    def in_words(self) -> str:
        """What was written, for the screen of the first process."""
        rows = 0 if self.writer is None else self.writer.rows
        before = f"; {self.left_out} problems were answered there before" if self.left_out else ""
        return f"{rows} graded completions in {self.path}{before}"


def origin_of(strategy: Strategy, policy: str, run_id: str | None, step: int | None) -> Origin:
    """Who draws with a strategy: two with the same policy and settings draw the same completions."""
    settings = settings_json(strategy) if is_dataclass(strategy) else "{}"
    return Origin(policy, run_id, step, type(strategy).__name__, settings)


def wanted(strategy: Strategy) -> int:
    """Completions of a problem, as far as the strategy says so beforehand."""
    return strategy.n if isinstance(strategy, Sample) else 1
