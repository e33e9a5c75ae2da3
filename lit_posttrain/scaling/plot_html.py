"""The page: the same curves, to zoom, hover and switch; one file that needs no network."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lit_posttrain.scaling.fit import SigmoidFit
from lit_posttrain.scaling.report import AXIS_UNITS, compact
from lit_posttrain.scaling.runs import Series
from lit_posttrain.scaling.sigmoid import Array
from lit_posttrain.scaling.trace import Axis, Trace, axis_for, ticks_of, traces

if TYPE_CHECKING:
    from plotly.graph_objects import Figure


def draw_html(
    curves: Sequence[tuple[Series, SigmoidFit]], axis: str, quantity: str, title: str, path: Path
) -> None:
    """Write the page to `path`, plotly's script included (about 5 MB)."""
    from plotly.graph_objects import Figure

    scale = axis_for(curves)
    figure = Figure()
    for trace in traces(curves, scale):
        _bands(figure, trace)
        _lines(figure, trace)
        _points(figure, trace, scale)
    _layout(figure, scale, AXIS_UNITS.get(axis, axis), quantity, title)
    path.write_text(figure.to_html(include_plotlyjs=True, full_html=True), encoding="utf-8")


def _bands(figure: Figure, trace: Trace) -> None:
    for pair, alpha, name in ((trace.predictive, 0.10, "new evaluation"), (trace.band, 0.25, "curve")):
        if pair is None:
            continue
        around = np.concatenate([trace.compute, trace.compute[::-1]])
        figure.add_scatter(
            x=around.tolist(),
            y=np.concatenate([pair[0], pair[1][::-1]]).tolist(),
            fill="toself",
            fillcolor=_translucent(trace.colour, alpha),
            line={"width": 0},
            hoverinfo="skip",
            showlegend=False,
            legendgroup=trace.name,
            name=f"{escape(trace.name)}: {name}",
        )


def _lines(figure: Figure, trace: Trace) -> None:
    if trace.median is None or trace.band is None:
        return
    for part, dash in ((trace.compute <= trace.end, "solid"), (trace.compute >= trace.end, "dash")):
        figure.add_scatter(
            x=trace.compute[part].tolist(),
            y=trace.median[part].tolist(),
            customdata=np.column_stack([side[part] for side in trace.band]).tolist(),
            mode="lines",
            line={"color": trace.colour, "width": 2.2, "dash": dash},
            legendgroup=trace.name,
            showlegend=False,
            name=escape(trace.name),
            hovertemplate="C %{x:.3g}<br>%{y:.3f} (%{customdata[0]:.3f} to %{customdata[1]:.3f})",
        )


def _points(figure: Figure, trace: Trace, scale: Axis) -> None:
    place, accuracy, error = trace.points
    figure.add_scatter(
        x=place.tolist(),
        customdata=np.where(place < scale.gap, 0.0, place).tolist(),
        y=accuracy.tolist(),
        error_y=_error_bars(error),
        mode="markers",
        marker={"color": trace.colour, "size": 7, "line": {"color": "white", "width": 0.8}},
        legendgroup=trace.name,
        name=escape("   ".join(trace.legend)),
        hovertemplate="C %{customdata:.3g}<br>measured %{y:.3f}<extra></extra>",
    )


def _error_bars(error: Array) -> dict[str, Any]:
    return {"type": "data", "array": error.tolist(), "thickness": 1, "width": 0}


def _layout(figure: Figure, scale: Axis, unit: str, quantity: str, title: str) -> None:
    ticks = ticks_of(scale)
    base = [scale.base] if scale.broken else []
    figure.update_layout(
        title={"text": escape(title), "x": 0.06},
        template="simple_white",
        height=720,
        hovermode="closest",
        legend={"orientation": "v", "yanchor": "top", "y": -0.16, "xanchor": "left", "x": 0},
        margin={"l": 70, "r": 30, "t": 60, "b": 60},
    )
    figure.update_xaxes(
        type="log",
        title=f"training compute, {unit} (0 = untrained model)",
        tickmode="array",
        tickvals=[*base, *ticks],
        ticktext=[*("0" for _ in base), *(compact(tick) for tick in ticks)],
        showgrid=True,
        gridcolor="#e6e6e6",
    )
    figure.update_yaxes(title=quantity.replace("_", " "), showgrid=True, gridcolor="#e6e6e6")
    if scale.broken:
        figure.add_vline(x=scale.gap, line={"color": "#999999", "width": 1, "dash": "dot"})


def _translucent(colour: str, alpha: float) -> str:
    red, green, blue = (int(colour[start : start + 2], 16) for start in (1, 3, 5))
    return f"rgba({red},{green},{blue},{alpha})"
