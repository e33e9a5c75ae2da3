"""What the command prints: a table, the flags, and a verdict on more compute."""

from collections.abc import Callable, Sequence
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.padding import Padding
from rich.table import Table

from lit_posttrain.scaling.estimates import Estimate
from lit_posttrain.scaling.fit import SigmoidFit
from lit_posttrain.scaling.flags import Kind
from lit_posttrain.scaling.runs import Series

CONFIDENT = 0.8
AXIS_UNITS = {
    "device_hours": "device-hours",
    "device_seconds": "device-seconds",
    "flops": "FLOPs",
    "train_flops": "training FLOPs",
    "generation_flops": "generation FLOPs",
    "tokens": "tokens",
    "tokens_generated": "generated tokens",
    "tokens_trained": "trained tokens",
}


def show(
    curves: Sequence[tuple[Series, SigmoidFit]],
    skipped: Sequence[tuple[str, str]],
    axis: str,
    quantity: str,
    files: Sequence[Path],
    console: Console | None = None,
) -> None:
    """Print the table of parameters, then flags, fit quality and verdict of each curve, then the files."""
    if console is None:
        console = Console(highlight=False)
    console.print(table(curves, axis, quantity))
    for series, fitted in curves:
        console.print(f"\n[bold]{_escaped(series.name)}[/bold]: {_quality(fitted)}")
        for flag in fitted.flags:
            console.print(_indented(f"[yellow]flag[/yellow] {_escaped(str(flag))}"))
        console.print(_indented(f"[bold]more compute?[/bold] {verdict(fitted)}"))
    for name, reason in skipped:
        console.print(f"skipped {_escaped(name)}: {_escaped(reason)}")
    console.print(f"\n{_caveat(curves)}")
    for path in files:
        console.print(f"wrote {_escaped(str(path))}", soft_wrap=True)


def table(curves: Sequence[tuple[Series, SigmoidFit]], axis: str, quantity: str) -> Table:
    """One row per curve, each cell a median above its interval; an A in brackets is not identified."""
    title = f"{quantity} against {AXIS_UNITS.get(axis, axis)}: median, {curves[0][1].level:.0%} interval"
    made = Table(title=title, box=SIMPLE_HEAD, show_lines=True, padding=(0, 1))
    made.add_column("run", overflow="fold")
    for head in ("R_0", "A", "C_mid", "B", "R(2x)"):
        made.add_column(head, justify="center", no_wrap=True)
    for series, fitted in curves:
        made.add_row(_escaped(series.name), *_cells(fitted))
    return made


def _cells(fitted: SigmoidFit) -> list[str]:
    if fitted.forecast is None:
        return ["no fit"] * 5
    identified = not fitted.has(Kind.A_NOT_IDENTIFIED)
    return [
        _cell(fitted.r_0, share),
        _cell(fitted.a, share) if identified else f"[yellow]({_cell(fitted.a, share)})[/yellow]",
        _cell(fitted.c_mid, compact),
        _cell(fitted.b, "{:.2f}".format),
        _cell(fitted.forecast.at_double, share),
    ]


def _cell(estimate: Estimate | None, form: Callable[[float], str]) -> str:
    if estimate is None:
        return "-"
    return f"{form(estimate.median)}\n{form(estimate.low)}-{form(estimate.high)}"


def share(value: float) -> str:
    """Three decimals without the leading zero: .612."""
    return f"{value:.3f}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:.3f}"


def compact(value: float) -> str:
    """Three digits, with an exponent where the plain number would be long: 12.3, 1.23e18."""
    return f"{value:.3g}".replace("e+", "e")


def _quality(fitted: SigmoidFit) -> str:
    band = fitted.band
    if band is None or fitted.over_dispersion is None:
        return "no fit"
    inside = (
        f"{int(band.inside.sum())} of {len(band.inside)} points inside the {fitted.level:.0%} predictive band"
    )
    return (
        f"{inside} (in-sample), {band.width[-1]:.3f} wide at the last point; R² {fitted.r_squared:.3f}; "
        f"noise {fitted.over_dispersion.median**0.5:.2f} x the sampling error"
    )


def verdict(fitted: SigmoidFit) -> str:
    """Whether twice the compute is expected to bring a point, in one sentence; undecided is an answer."""
    forecast = fitted.forecast
    if forecast is None:
        return "cannot say: there is no fit"
    if fitted.has(Kind.NO_TREND):
        return "not supported by these points: no learning shown so far"
    if fitted.has(Kind.LATE_DROP):
        return "no: find out first why accuracy drops at the end"
    gain, chance = forecast.gain, forecast.gain_probability
    detail = (
        f"doubling to {compact(2 * forecast.compute_end)} brings {100 * gain.median:+.1f} points "
        f"({100 * gain.low:+.1f} to {100 * gain.high:+.1f}); P(at least 1 point) = {chance:.2f}"
    )
    if chance >= CONFIDENT:
        return f"yes: {detail}"
    return f"no: {detail}" if chance <= 1 - CONFIDENT else f"undecided: {detail}"


def _caveat(curves: Sequence[tuple[Series, SigmoidFit]]) -> str:
    spread = [fitted.points.between_variance for _, fitted in curves if fitted.points.between_variance >= 0]
    new = f" (s.d. {max(spread) ** 0.5:.3f} more for new problems)" if spread else ""
    return (
        f"Intervals speak of this fixed set of problems{new}, one seed, a sigmoid and white noise; "
        "training noise that wanders by .3 to 1 point lowers the coverage of 90 % intervals to about 80 %."
    )


def _indented(text: str) -> Padding:
    return Padding(text, (0, 0, 0, 2))


def _escaped(text: str) -> str:
    return text.replace("[", "\\[")
