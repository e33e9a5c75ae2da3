"""Sources made of other sources: several by weights, and one beside another."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, cycle, islice
from typing import Any, Literal, TypeVar

from lit_posttrain.batches import Problem
from lit_posttrain.contracts import ProblemSource
from lit_posttrain.errors import InputError

Item = TypeVar("Item")


@dataclass(frozen=True)
class Mixture(ProblemSource):
    """Rows of several sources in given proportions.

    An epoch of supervised training takes so many rows of each that the proportions hold. Where it does not take
    all, the next epochs go on with the others; where it takes more than there are, rows come again, but none a
    second time before all have come once. In held-out splits every row of every source stands once.

    Args:
        sources: What is mixed.
        weights: The proportions of rows, one positive number for each source; without them all rows of all sources.
        stop: When an epoch is over. `first_exhausted`: no source gives a row twice, so the scarcest one (for its
            weight) sets the length. `all_exhausted`: every source gives all its rows at least once.

    Raises:
        InputError: if there is no source, one is a mixture itself, or the weights are not one positive number each.
    """

    sources: list[ProblemSource]
    weights: list[float] | None = None
    stop: Literal["first_exhausted", "all_exhausted"] = "first_exhausted"

    def __post_init__(self) -> None:
        if not self.sources or any(isinstance(s, Mixture | WithReplay) for s in self.sources):
            raise InputError(
                "a mixture needs at least one source, and none that is mixed itself; list all sources in one mixture"
            )
        if self.stop not in ("first_exhausted", "all_exhausted"):
            raise InputError(f"stop must be first_exhausted or all_exhausted; got {self.stop!r}")
        if self.weights is None:
            return
        if len(self.weights) != len(self.sources):
            raise InputError(
                f"a mixture of {len(self.sources)} sources needs as many weights; got {len(self.weights)}"
            )
        wrong = [(i, w) for i, w in enumerate(self.weights) if not 0 < w < float("inf")]
        if wrong:
            raise InputError(
                f"the weight of source {wrong[0][0]} of a mixture is {wrong[0][1]}; weights must be above 0, so leave "
                "out a source that is not to be used"
            )

    def draws(self, rows: Sequence[int]) -> list[int]:
        """How many rows an epoch takes of each source, given how many each has.

        Raises:
            InputError: if a source has so little weight that it would give none.
        """
        if self.weights is None:
            return list(rows)
        whole = [have / weight for have, weight in zip(rows, self.weights, strict=True)]
        length = min(whole) if self.stop == "first_exhausted" else max(whole)
        draws = [round(length * weight) for weight in self.weights]
        for number, drawn in enumerate(draws):
            if not drawn:
                raise InputError(
                    f"source {number} of the mixture has weight {self.weights[number]} of {sum(self.weights)}, and an "
                    f"epoch of {sum(draws)} rows takes none of it; raise it, or set stop to all_exhausted"
                )
        return draws

    def problems(self, split: str) -> list[Problem]:
        """The problems of all sources, in proportion; a number before each uid says of which source it is."""
        found = [self._named(number, source.problems(split)) for number, source in enumerate(self.sources)]
        sizes = [len(problems) for problems in found]
        draws = self.draws(sizes) if split == "train" else sizes
        return list(_in_turn([_again(f, n) for f, n in zip(found, draws, strict=True)], draws))

    def chats(self, split: str) -> Iterable[Any]:
        """The conversations of all sources, read as they are asked for, those of the training split in turn."""
        if split != "train" or self.weights is None:
            return chain.from_iterable(source.chats(split) for source in self.sources)
        return self._interleaved(split, self.weights)

    def _interleaved(self, split: str, weights: Sequence[float]) -> Iterator[Any]:
        rows = [iter(source.chats(split)) for source in self.sources]
        ended: set[int] = set()
        for number in _turns(weights):
            row = next(rows[number], None)
            if row is None:
                ended.add(number)
                if self.stop == "first_exhausted" or len(ended) == len(rows):
                    return
                rows[number] = iter(self.sources[number].chats(split))
                row = next(rows[number], None)
            if row is None:
                raise InputError(f"source {number} of the mixture has no rows in split {split!r}")
            yield row

    @staticmethod
    def _named(number: int, problems: Sequence[Problem]) -> list[Problem]:
        return [replace(problem, uid=f"{number}:{problem.uid}") for problem in problems]


@dataclass(frozen=True)
class WithReplay(ProblemSource):
    """A source, and another whose rows join every optimiser step of supervised training, against forgetting.

    What is replayed counts towards the size of a step and weighs as much as the rest. Epochs, and the validation
    loss, are those of the source alone.

    Args:
        source: What is learned.
        replay: What is not to be forgotten, such as a sample of what the network was trained on before.
        share: Share of each step's sequences (or tokens, where a step is so many tokens) that is replayed.
        replay_validation: Also report the loss on the held-out rows of `replay`, as `val/replay_loss`.

    Raises:
        InputError: if the share is not above 0 and below 1, or `replay` is itself made of several.
    """

    source: ProblemSource
    replay: ProblemSource
    share: float = 0.1
    replay_validation: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise InputError(f"the share to replay must be above 0 and below 1; got {self.share}")
        if isinstance(self.source, WithReplay) or isinstance(self.replay, Mixture | WithReplay):
            raise InputError("one plain source can be replayed; mix beforehand what is to be replayed")

    def problems(self, split: str) -> Sequence[Problem]:
        """Those of the source.

        Raises:
            InputError: always, as answers that are drawn are not replayed.
        """
        raise InputError(
            "replay joins the steps of supervised training; give online methods the source itself"
        )

    def chats(self, split: str) -> Iterable[Any]:
        """Those of the source."""
        return self.source.chats(split)


def _turns(weights: Sequence[float]) -> Iterator[int]:
    """Whose turn it is: always the one that is furthest behind its share; endless."""
    total, ahead = sum(weights), [0.0] * len(weights)
    while True:
        for number, weight in enumerate(weights):
            ahead[number] += weight / total
        chosen = max(range(len(weights)), key=lambda i: ahead[i])
        ahead[chosen] -= 1
        yield chosen


def _in_turn(lists: Sequence[Iterator[Item]], sizes: Sequence[int]) -> Iterator[Item]:
    """All items of several lists of these sizes, spread evenly."""
    for number in islice(_turns(sizes), sum(sizes)):
        yield next(lists[number])


def _again(problems: Sequence[Problem], count: int) -> Iterator[Problem]:
    """`count` problems, from the start again where there are fewer, then with the pass in their uid."""
    for index, problem in enumerate(islice(cycle(problems), count)):
        turn = index // len(problems)
        yield replace(problem, uid=f"{problem.uid}~{turn}") if turn else problem
