"""The tables that a split consists of, one for each source that it is made from."""

from dataclasses import dataclass

from lightning.pytorch.utilities.rank_zero import rank_zero_only

from lit_posttrain.contracts import ProblemSource
from lit_posttrain.data.order import Portion
from lit_posttrain.data.preparation import Preparation, prepared
from lit_posttrain.data.report import entry, report
from lit_posttrain.data.sources.mixture import Mixture, WithReplay
from lit_posttrain.data.sources.streaming import Streaming
from lit_posttrain.data.token_table import JoinedTable, TokenTable
from lit_posttrain.data.tokenising import Work


@dataclass(frozen=True)
class PreparedSplit:
    """A split as tokens.

    `table` holds the rows of all its sources, `portions` says what an epoch takes of each; the rows from number
    `replayed` on are those of another source, which join its steps. `entries` are what a tracked run is told.
    """

    table: JoinedTable
    portions: list[Portion]
    replayed: int
    entries: list[dict[str, str]]

    @property
    def replays(self) -> bool:
        """Whether there are rows to replay."""
        return self.replayed < len(self.table)


class Preparer:
    """Prepares what a source consists of, and reports on each part.

    Args:
        work: What becomes of a row.
        settings: How rows become tokens.
    """

    def __init__(self, work: Work, settings: Preparation) -> None:
        self.work, self.settings = work, settings
        self.entries: list[dict[str, str]] = []

    def split(self, source: ProblemSource, split: str) -> PreparedSplit:
        """All parts of a split; the training split with what it replays.

        Raises:
            InputError: if one is empty, cannot be tokenised, or does not fit and may not be left out.
        """
        replay = source.replay if isinstance(source, WithReplay) and split == "train" else None
        mixed = plain(source)
        own = mixed.sources if isinstance(mixed, Mixture) else [mixed]
        many = len(own) > 1
        tables = [self._table(one, split, f" of source {i}" if many else "") for i, one in enumerate(own)]
        portions = _portions(tables, mixed if split == "train" else None)
        if many:
            _say_mixture(own, portions, split)
        rows = sum(map(len, tables))
        if replay is not None:
            tables.append(self._table(replay, split, " that is replayed"))
        return PreparedSplit(JoinedTable(tables), portions, rows, self.entries)

    def _table(self, source: ProblemSource, split: str, which: str) -> TokenTable:
        work = self.work.named(f"{split}{which}")
        table, told = prepared(source, split, work, self.settings)
        report(told)
        self.entries.append(entry(source, split, table.digest, told))
        return table


def plain(source: ProblemSource) -> ProblemSource:
    """The source without what is replayed beside it, and without its streaming."""
    while isinstance(source, WithReplay | Streaming):
        source = source.source
    return source


def _portions(tables: list[TokenTable], mixed: ProblemSource | None) -> list[Portion]:
    rows = [len(table) for table in tables]
    draws = mixed.draws(rows) if isinstance(mixed, Mixture) else rows
    firsts = [sum(rows[:number]) for number in range(len(rows))]
    return [Portion(*one) for one in zip(firsts, rows, draws, strict=True)]


@rank_zero_only
def _say_mixture(sources: list[ProblemSource], portions: list[Portion], split: str) -> None:
    each = ", ".join(
        f"{portion.draws:,} of {portion.rows:,} rows of source {number} ({type(source).__name__})"
        for number, (source, portion) in enumerate(zip(sources, portions, strict=True))
    )
    print(f"{split}: an epoch takes {each}")
