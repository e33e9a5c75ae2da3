"""How far a long preparation is, on the screen of the first process."""

import sys
import time

from lightning.pytorch.utilities.rank_zero import rank_zero_only

QUIET_S = 2.0
"""What is done within this time is not worth a line."""
LINE_EVERY_S = 10.0
REDRAW_EVERY_S = 0.2


class Progress:
    """How far the tokenising is, on the screen of the first process, once it takes longer than a moment.

    Args:
        name: What is tokenised.
        total: Its rows, where that is known.
    """

    def __init__(self, name: str, total: int | None) -> None:
        self.name, self.total, self.rows = name, total, 0
        self.live = sys.stderr.isatty()
        self.began = time.monotonic()
        self.next = self.began + QUIET_S
        self.shown = False

    def add(self, rows: int) -> None:
        """Counts rows, and shows the state now and then."""
        self.rows += rows
        now = time.monotonic()
        if now >= self.next:
            self.next = now + (REDRAW_EVERY_S if self.live else LINE_EVERY_S)
            self._show(now - self.began)

    def close(self) -> None:
        """Ends the line."""
        if self.shown and self.live:
            _print("\n")

    def _show(self, seconds: float) -> None:
        self.shown = True
        rate = self.rows / seconds
        text = f"{self.name}: tokenising, {self.rows:,} rows, {rate:,.0f} a second"
        if self.total:
            left = (self.total - self.rows) / rate
            share = self.rows / self.total
            text = f"{self.name}: tokenising, {self.rows:,} of {self.total:,} rows ({share:.0%}), {left:,.0f} s left"
        _print(f"\r{text:<79}" if self.live else f"{text}\n")


@rank_zero_only
def _print(text: str) -> None:
    sys.stderr.write(text)
    sys.stderr.flush()
