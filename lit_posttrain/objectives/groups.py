"""Groups of completions of the same problem, as rows of a table, where they are not all of one size."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Places = tuple[Tensor, Tensor]
"""Row and column of each sequence in the table."""


def by_group(
    values: Float[Tensor, " S"], graded: Bool[Tensor, " S"], group: Int[Tensor, " S"]
) -> tuple[Float[Tensor, "P G"], Bool[Tensor, "P G"], Places]:
    """Values and `graded` as tables with a row for each group, in the order of their numbers, and the places.

    G is the size of the largest group; what is missing in smaller ones is 0 and not graded. `table[places]` has the
    values in their first order again.
    """
    _, row = torch.unique(group, return_inverse=True)
    rows = int(row.max()) + 1 if len(row) else 0
    earlier = (row[:, None] == row[None]).tril(-1)
    column = earlier.sum(dim=1)
    columns = int(column.max()) + 1 if len(column) else 0
    table = values.new_zeros(rows, columns)
    marks = torch.zeros(rows, columns, dtype=torch.bool, device=values.device)
    table[row, column], marks[row, column] = values, graded
    return table, marks, (row, column)
