"""Graded candidates of a pool, those of a problem together: what a reward model learns to grade."""

from dataclasses import dataclass

from lightning.pytorch.utilities.rank_zero import rank_zero_only

from lit_posttrain.batches import Problem
from lit_posttrain.candidates import Candidate
from lit_posttrain.contracts import ProblemSource
from lit_posttrain.data.formats import RankedRow
from lit_posttrain.data.sources.pool import Pool
from lit_posttrain.errors import InputError


@dataclass(frozen=True)
class GradedPool(ProblemSource):
    """Completions that `lit-posttrain predict` wrote, with their rewards as targets.

    The split is that of the prompt, by a hash. Candidates that were not graded, or have no text, are left out, and
    so are problems with too few; both are counted.

    Args:
        path: A pool, or several: folders of Parquet parts, .parquet or .jsonl files.
        held_out_share: Share of the problems that goes to `validation`, and as much again to `test`.
        at_least: Candidates that a problem needs; 2 for losses that compare them.
    """

    path: str | list[str]
    held_out_share: float = 0.05
    at_least: int = 2

    def __post_init__(self) -> None:
        Pool(self.path, [], self.held_out_share)  # which checks both
        if self.at_least < 1:
            raise InputError(f"at_least must be 1 or more; got {self.at_least}")

    def problems(self, split: str) -> list[Problem]:
        """The problems of the pool, each once."""
        return self._pool.problems(split)

    def rows(self, split: str) -> list[RankedRow]:
        """The problems of the split with their graded candidates.

        Raises:
            InputError: if no problem has enough.
        """
        came = self._pool.candidates(split)
        groups: dict[tuple[str, str], list[Candidate]] = {}
        for one in came:
            if one.answer.grade.reward is not None and one.answer.completion.text.strip():
                groups.setdefault(one.problem_key, []).append(one)
        kept = [group for group in groups.values() if len(group) >= self.at_least]
        left_out = len(came) - sum(map(len, kept))
        rank_zero_only(print)(
            f"{split}: {len(kept):,} problems with {self.at_least} graded candidates or more; "
            f"{left_out:,} of {len(came):,} candidates are left out"
        )
        if not kept:
            raise InputError(
                f"no problem of split {split!r} has {self.at_least} graded candidates with a text; draw more, or "
                "lower at_least"
            )
        return [_row(group) for group in kept]

    def fingerprint(self, split: str) -> str:
        """Changes with the files of the pool."""
        return f"{split} {self.held_out_share} {self.at_least} {self._pool.state()}"

    @property
    def _pool(self) -> Pool:
        return Pool(self.path, [], self.held_out_share)


def _row(group: list[Candidate]) -> RankedRow:
    prompt = [dict(message) for message in group[0].answer.problem.messages]
    texts = [[{"role": "assistant", "content": one.answer.completion.text}] for one in group]
    return RankedRow(prompt, texts, [float(one.answer.grade.reward or 0.0) for one in group])
