"""The picture: points with error bars, median curves, bands, and the forecast to twice the compute."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lit_posttrain.scaling.fit import SigmoidFit
from lit_posttrain.scaling.report import AXIS_UNITS
from lit_posttrain.scaling.runs import Series
from lit_posttrain.scaling.trace import Axis, Trace, axis_for, ticks_of, traces

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, HEIGHT, BELOW, LEGEND_ROW = 9.0, 5.2, 1.0, 0.21  # inches
LEGEND_COLUMNS = 5
CHARACTER = 0.0079
"""Width of a character of the legend, in widths of the figure."""
MOST_BANDS = 4
"""With more curves than this the predictive bands are left to the page and the record."""
INK, FAINT = "#222222", "#dddddd"


def draw_png(
    curves: Sequence[tuple[Series, SigmoidFit]], axis: str, quantity: str, title: str, path: Path
) -> None:
    """Write the picture to `path`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    scale = axis_for(curves)
    drawn = traces(curves, scale)
    predictive = len(drawn) <= MOST_BANDS
    below = BELOW + LEGEND_ROW * len(drawn)
    height = HEIGHT + below
    figure = Figure(figsize=(WIDTH, height), dpi=150, facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.085, below / height, 0.885, (HEIGHT - 0.45) / height))
    for trace in drawn:
        _curve(axes, trace, predictive)
    _decorate(axes, scale, drawn, AXIS_UNITS.get(axis, axis), quantity)
    axes.set_title(title.replace("$", r"\$"), loc="left", fontsize=13, color=INK, pad=10)
    _legend(figure, drawn)
    _note(figure, curves[0][1].level, predictive)
    figure.savefig(path)


def _curve(axes: Axes, trace: Trace, predictive: bool) -> None:
    place, accuracy, error = trace.points
    colour = trace.colour
    axes.errorbar(
        place,
        accuracy,
        error,
        fmt="o",
        markersize=4,
        color=colour,
        elinewidth=0.9,
        markeredgecolor="white",
        markeredgewidth=0.5,
        zorder=4,
    )
    if trace.median is None or trace.band is None or trace.predictive is None:
        return
    if predictive:
        axes.fill_between(trace.compute, *trace.predictive, color=colour, alpha=0.09, linewidth=0, zorder=1)
    axes.fill_between(trace.compute, *trace.band, color=colour, alpha=0.24, linewidth=0, zorder=2)
    seen, ahead = trace.compute <= trace.end, trace.compute >= trace.end
    axes.plot(trace.compute[seen], trace.median[seen], color=colour, linewidth=1.8, zorder=3)
    axes.plot(
        trace.compute[ahead],
        trace.median[ahead],
        color=colour,
        linewidth=1.8,
        linestyle=(0, (3, 1.6)),
        zorder=3,
    )


def _decorate(axes: Axes, scale: Axis, drawn: Sequence[Trace], unit: str, quantity: str) -> None:
    axes.set_ylim(*_limits(drawn))
    axes.set_xlabel(
        f"training compute, {unit}" + ("; 0 = untrained model" if scale.broken else ""), color=INK
    )
    axes.set_ylabel(quantity.replace("_", " "), color=INK)
    axes.grid(color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, length=3)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    _compute_axis(axes, scale)
    if scale.broken:
        _break(axes, scale.gap)


def _compute_axis(axes: Axes, scale: Axis) -> None:
    """Logarithmic, with a tick for the untrained model left of the break."""
    from matplotlib.ticker import FixedLocator, FuncFormatter

    ticks = ticks_of(scale)
    left = scale.base / (scale.gap / scale.base) ** 0.7 if scale.broken else scale.gap
    axes.set_xscale("log")
    axes.set_xlim(left, scale.right * (scale.left / scale.gap) ** 0.5)
    axes.xaxis.set_major_locator(FixedLocator([scale.base, *ticks] if scale.broken else ticks))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: "0" if x < scale.gap else tick_label(x)))
    axes.xaxis.set_minor_locator(FixedLocator([]))


def _break(axes: Axes, place: float) -> None:
    axes.axvline(place, color="#aaaaaa", linewidth=0.9, linestyle=(0, (1, 2)))
    axes.text(
        place,
        0,
        "//",
        transform=axes.get_xaxis_transform(),
        ha="center",
        va="center",
        color=INK,
        fontsize=11,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.0},
        zorder=6,
    )


def _limits(drawn: Sequence[Trace]) -> tuple[float, float]:
    """Limits of y from points and curve bands, so that one wild error bar does not flatten the rest."""
    values = [value for trace in drawn for value in trace.points[1]]
    values += [value for trace in drawn if trace.band for side in trace.band for value in side]
    low, high = min(values, default=0.0), max(values, default=1.0)
    margin = max(0.06 * (high - low), 0.01)
    return low - margin, high + margin


def tick_label(value: float) -> str:
    """A short number: 0.5, 20, 1e+18 written as 10^18."""
    if 1e-3 <= value < 1e5:
        return f"{value:g}"
    mantissa, exponent = f"{value:.0e}".split("e")
    power = rf"10^{{{int(exponent)}}}"
    return f"${power}$" if mantissa == "1" else rf"${mantissa}\!\cdot\!{power}$"


def _legend(figure: Figure, drawn: Sequence[Trace]) -> None:
    """A table under the axes, one row per curve: mark, name, A, B, C_mid, remark."""
    from matplotlib.lines import Line2D

    height = figure.get_figheight()
    rows = [(shortened(trace.name), *trace.legend[1:]) for trace in drawn]
    columns = _places(rows)
    for row, (trace, texts) in enumerate(zip(drawn, rows, strict=True)):
        y = (BELOW + LEGEND_ROW * (len(drawn) - row) - 0.83) / height
        line = Line2D([0.085, 0.112], [y, y], color=trace.colour, linewidth=2, transform=figure.transFigure)
        figure.add_artist(line)
        for x, text in zip(columns, texts, strict=False):
            label = text.replace("$", r"\$").replace("C_mid ", "$C_{mid}$ ")
            figure.text(x, y, label, fontsize=8.5, color=INK, va="center")


def _places(rows: Sequence[tuple[str, ...]]) -> list[float]:
    """Left edges of the legend's columns, from the longest text of each."""
    fitted = [row for row in rows if len(row) == LEGEND_COLUMNS]
    places = [0.12]
    for column in range(LEGEND_COLUMNS - 1):
        longest = max((len(row[column]) for row in (rows if column == 0 else fitted)), default=0)
        places.append(places[-1] + longest * CHARACTER + 0.02)
    return places


def shortened(name: str, most: int = 30) -> str:
    """The name, or its two ends."""
    return name if len(name) <= most else f"{name[: most // 2 - 1]}…{name[-most // 2 :]}"


def _note(figure: Figure, level: float, predictive: bool) -> None:
    bands = "lighter band: a new evaluation; " if predictive else ""
    note = f"Medians and {level:.0%} intervals. Band: curve; {bands}dashed: forecast to twice the compute."
    figure.text(0.085, 0.1 / figure.get_figheight(), note, fontsize=7.5, color="#666666", va="bottom")
