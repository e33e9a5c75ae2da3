"""What needs no network: the longer reply, and a logistic regression on its words."""

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from lit_posttrain.data.formats import Chat, PreferenceRow

WORD = re.compile(r"[a-z']+|[0-9]+|[^\sa-z0-9]")
ROUNDS = 100


def longer_reply(rows: Sequence[PreferenceRow]) -> Tensor:
    """By how many characters the better reply is longer, (P,) float64."""
    gaps = [len(_said(row.chosen)) - len(_said(row.rejected)) for row in rows]
    return torch.tensor(gaps, dtype=torch.float64)


@dataclass(frozen=True)
class BagOfWords:
    """Scores a whole, uncut reply by the words in it: the sum of log(1 + count) times the word's weight.

    Args:
        places: The words, and the place of each in the weights.
        weights: (words,) float64.
    """

    places: dict[str, int]
    weights: Tensor

    @classmethod
    def fitted(cls, rows: Sequence[PreferenceRow], *, penalty: float, least: int = 5) -> "BagOfWords":
        """Bradley-Terry on the differences of counts: mean loss and `penalty`/2 times the squared weights.

        Args:
            rows: Pairs to learn from.
            penalty: Weight of the squares.
            least: Words in fewer replies than this are not looked at.
        """
        found = Counter(word for row in rows for said in sides(row) for word in set(words(said)))
        places = {word: i for i, word in enumerate(sorted(w for w, n in found.items() if n >= least))}
        gaps = gaps_of(rows, places)
        weights = torch.zeros(len(places), dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.LBFGS([weights], max_iter=ROUNDS, line_search_fn="strong_wolfe")

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = functional.softplus(-(gaps @ weights)).mean() + penalty / 2 * weights.square().sum()
            loss.backward()
            return loss

        optimizer.step(closure)  # type: ignore[arg-type]
        return cls(places, weights.detach())

    def margins(self, rows: Sequence[PreferenceRow]) -> Tensor:
        """By how much the better reply is scored higher, (P,) float64."""
        return gaps_of(rows, self.places) @ self.weights


def gaps_of(rows: Sequence[PreferenceRow], places: dict[str, int]) -> Tensor:
    """Differences of log(1 + count) within pairs, sparse (P, words) float64."""
    entries = [
        (number, places[word], sign * math.log1p(count))
        for number, row in enumerate(rows)
        for sign, said in zip((1.0, -1.0), sides(row), strict=True)
        for word, count in words(said).items()
        if word in places
    ]
    numbers, columns, values = zip(*entries, strict=True)
    shape = (len(rows), len(places))
    found = torch.tensor(values, dtype=torch.float64)
    at = torch.tensor([numbers, columns])
    return torch.sparse_coo_tensor(at, found, shape, check_invariants=True).coalesce()


def words(text: str) -> Counter[str]:
    """The words, numbers and signs of a reply with their counts."""
    return Counter(WORD.findall(text.lower()))


def sides(row: PreferenceRow) -> tuple[str, str]:
    """The texts of the better and the worse reply."""
    return _said(row.chosen), _said(row.rejected)


def _said(reply: Chat) -> str:
    return "\n".join(message["content"] for message in reply)
