"""An outcome reward model as a grader: the score of a whole answer, from an exported folder."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from lit_posttrain.batches import Completion, Grade, Problem, Verdict
from lit_posttrain.contracts import Grader
from lit_posttrain.errors import InputError
from lit_posttrain.graders.score_reader import ScoreReader
from lit_posttrain.graders.single import failed, ungraded
from lit_posttrain.ledger import Spent
from lit_posttrain.networks import stored_head


class EnsembleScore(ABC):
    """How the scores of an ensemble become one."""

    @abstractmethod
    def __call__(self, scores: Tensor) -> float:
        """One score from those of the members (K,)."""


@dataclass(frozen=True)
class EnsembleMean(EnsembleScore):
    """The mean score."""

    def __call__(self, scores: Tensor) -> float:
        """The mean."""
        return float(scores.mean())


@dataclass(frozen=True)
class EnsembleMinimum(EnsembleScore):
    """The lowest score: an answer must please every member.

    Source: worst-case optimisation, Coste et al. 2023, arXiv:2310.02743, section 4.
    """

    def __call__(self, scores: Tensor) -> float:
        """The minimum."""
        return float(scores.min())


@dataclass(frozen=True)
class MeanLessSpread(EnsembleScore):
    """The mean score less what the members disagree by.

    Source: Coste et al. 2023, arXiv:2310.02743, section 4, with the standard deviation for the variance.

    Args:
        factor: Weight of the standard deviation of the scores.
    """

    factor: float = 1.0

    def __post_init__(self) -> None:
        if self.factor < 0:
            raise InputError(f"factor is {self.factor}; below 0 it would reward disagreement")

    def __call__(self, scores: Tensor) -> float:
        """Mean minus weighted standard deviation."""
        return float(scores.mean() - self.factor * scores.std(correction=0))


MEAN = EnsembleMean()


@dataclass(frozen=True)
class RewardModel(Grader):
    """Rewards a completion by the score that a reward model gives it; does not say what is correct.

    The model reads prompt and answer as its own tokenizer and template write them, with one end token, as in its
    training; an answer that was cut at the length limit is read as if it ended there. It is loaded with the first
    completion.

    Args:
        path: Folder of an exported reward model.
        ensemble: How the scores of an ensemble become one: EnsembleMean, EnsembleMinimum or MeanLessSpread.
        offset: Subtracted from every score, such as the mean score of the reference's answers.
        lowest: Reward of an answer that is empty or cannot be read; set it below usual scores.
        batch_tokens: Padded tokens of one forward; a single longer sequence is read by itself.
        device: Where the network runs, such as cpu or cuda:0.

    Raises:
        InputError: for a folder without a head.
    """

    path: str
    ensemble: EnsembleScore = MEAN
    offset: float = 0.0
    lowest: float = -10.0
    batch_tokens: int = 16_384
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.batch_tokens < 1:
            raise InputError(f"batch_tokens is {self.batch_tokens}; a forward takes at least 1 token")
        stored_head(self.path)

    @cached_property
    def _reader(self) -> ScoreReader:
        return ScoreReader(self.path, self.batch_tokens, self.device)

    def grade(self, items: Sequence[tuple[Problem, Completion]]) -> list[Grade]:
        """One grade per item, in order; parts are the mean of the ensemble's scores and their spread.

        An answer that is longer than the network can read could not be graded.
        """
        read = [self._read(problem, completion) for problem, completion in items]
        fit = [ids for ids in read if isinstance(ids, list)]
        scores = iter(self._reader(fit, [[len(ids) - 1] for ids in fit]) if fit else [])
        return [ids if isinstance(ids, Grade) else self._graded(next(scores)[0]) for ids in read]

    def take_spent(self) -> Spent:
        """Of the reward model's forwards."""
        return self._reader.take_spent()

    def _graded(self, scores: Tensor) -> Grade:
        parts = {"score_mean": float(scores.mean()), "score_spread": float(scores.std(correction=0))}
        return Grade(self.ensemble(scores) - self.offset, None, Verdict.PARTIAL, parts)

    def _read(self, problem: Problem, completion: Completion) -> list[int] | Grade:
        """The ids of prompt and answer; a grade where there are none to score."""
        text, messages = self._reader.text, [dict(message) for message in problem.messages]
        try:
            text.prompt_ids(messages)
        except InputError as error:
            return ungraded(Verdict.GOLD_UNPARSEABLE, f"the prompt cannot be read: {error}")
        if not completion.text.strip():
            return failed(Verdict.NO_ANSWER, "empty", self.lowest)
        try:
            ids = text.example([*messages, {"role": "assistant", "content": completion.text}]).ids
        except InputError as error:
            return failed(Verdict.MALFORMED, str(error), self.lowest)
        limit = self._reader.network.max_positions
        if len(ids) > limit:
            note = f"{len(ids)} tokens exceed the {limit} positions of {self.path}; draw shorter answers"
            return ungraded(Verdict.GRADER_ERROR, note)
        return list(ids)
