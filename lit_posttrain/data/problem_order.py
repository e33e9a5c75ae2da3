"""The order in which problems are drawn for training."""

from collections.abc import Container, Sequence

import torch

from lit_posttrain.batches import Problem
from lit_posttrain.keys import digest


class ProblemOrder:
    """An endless row of problems: each pass over them is in a new random order.

    Args:
        problems: All of them.
        seed: Of the orders.
    """

    def __init__(self, problems: Sequence[Problem], seed: int) -> None:
        self.problems, self.seed = problems, seed
        self._pass: int | None = None
        self._permutation: list[int] = []

    def at(self, place: int) -> Problem:
        """The problem at a place of the row, from 0; a function of the place alone."""
        number, within = divmod(place, len(self.problems))
        if self._pass != number:
            generator = torch.Generator().manual_seed(digest(self.seed, "problems", number))
            self._permutation = torch.randperm(len(self.problems), generator=generator).tolist()
            self._pass = number
        return self.problems[self._permutation[within]]

    def after(self, place: int, count: int, left: Container[str] = ()) -> tuple[list[Problem], int]:
        """The next `count` problems from `place` on, and the place behind them.

        Those whose uid is in `left` are passed over; where all are, there is none.
        """
        chosen: list[Problem] = []
        passed_over, most = 0, 2 * len(self.problems)  # so many places in a row hold every problem
        while len(chosen) < count and passed_over < most:
            problem, place = self.at(place), place + 1
            if problem.uid in left:
                passed_over += 1
            else:
                passed_over = 0
                chosen.append(problem)
        return chosen, place
