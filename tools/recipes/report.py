"""What came of the runs: a table with intervals, and the S-curves in one plot."""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import mean, stdev

import numpy as np
from curve_runs import CurveRun
from scipy.stats import t

from lit_posttrain.scaling.estimates import Estimate
from lit_posttrain.scaling.fit import SigmoidFit, fit
from lit_posttrain.scaling.points import Points, make_points, pooled

Runs = Mapping[str, Sequence[CurveRun]]
LINES = ("-", "--", ":", "-.")


def table(runs: Runs) -> str:
    """For each name: start and end with intervals, how many errors apart, and what a curve through all seeds says."""
    lines = [
        "| | start | end, 95 % over seeds | least gain in s.e. | FLOPs to one half | A, 90 % | C_mid, 90 % | steps |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, group in runs.items():
        told = [run.points() for run in group]
        ends = [points[-1]["scurve/accuracy"] for points in told]
        gains = [gain_in_errors(points) for points in told]
        curve = fitted(told)
        half = [half_way(points) for points in told]
        lines.append(
            f"| {name} | {told[0][0]['scurve/accuracy']:.3f} | {interval(ends)} | {min(gains):.1f} | "
            f"{interval(half, '.2e')} | {of(curve.a, '.3f')} | {of(curve.c_mid, '.2e')} | "
            f"{mean(points[-1]['step'] for points in told):.0f} |"
        )
    return "\n".join(lines)


def gain_in_errors(points: Sequence[Mapping[str, float]]) -> float:
    """Last accuracy less the first, in units of the error that the difference of two independent exams has."""
    first, last = points[0], points[-1]
    error = math.hypot(first["scurve/standard_error"], last["scurve/standard_error"])
    return (last["scurve/accuracy"] - first["scurve/accuracy"]) / error


def half_way(points: Sequence[Mapping[str, float]], level: float = 0.5) -> float:
    """FLOPs at which the accuracy first reaches a level, between probes on a line; infinite where it never does."""
    for before, after in pairwise(points):
        low, high = before["scurve/accuracy"], after["scurve/accuracy"]
        if low < level <= high:
            share = (level - low) / (high - low)
            return before["scurve/flops"] + share * (after["scurve/flops"] - before["scurve/flops"])
    return math.inf


def interval(values: Sequence[float], form: str = ".3f") -> str:
    """The mean and the half-width of its 95 % interval over seeds, by Student's t."""
    if not all(map(math.isfinite, values)):
        return "not reached by all"
    if len(values) < 2:
        return format(values[0], form)
    width = t.ppf(0.975, len(values) - 1) * stdev(values) / math.sqrt(len(values))
    return f"{mean(values):{form}} ± {width:{form}}"


def of(estimate: Estimate | None, form: str) -> str:
    """Median and limits."""
    return (
        "—"
        if estimate is None
        else f"{estimate.median:{form}} [{estimate.low:{form}}, {estimate.high:{form}}]"
    )


def fitted(told: Sequence[Sequence[Mapping[str, float]]]) -> SigmoidFit:
    """One curve through the probes of all seeds."""
    return fit(pooled([as_points(points) for points in told]))


def as_points(points: Sequence[Mapping[str, float]]) -> Points:
    """Probes as the fitter takes them."""
    names = ("flops", "accuracy", "within_variance", "problems", "samples_per_problem")
    compute, accuracy, variance, problems, samples = (
        [point[f"scurve/{name}"] for point in points] for name in names
    )
    return make_points(compute, accuracy, variance, problems, samples)


def versions(runs: Runs) -> str:
    """How far behind the policy that drew was when a rollout was first learned from, as logged."""
    lines = ["| | versions behind, mean after the start | most |", "|---|---|---|"]
    for name, group in runs.items():
        logged = group[0].metrics("policy/staleness_versions")
        later = [v for step, v in sorted(logged.items()) if step > 20]
        behind = [v["policy/staleness_versions"] for v in later]
        most = max(v["policy/staleness_versions_max"] for v in later)
        lines.append(f"| {name} | {mean(behind):.3f} | {most:.0f} |")
    return "\n".join(lines)


def plot(runs: Runs, path: Path) -> None:
    """Held-out accuracy against FLOPs: the mean of the seeds as a line, their range as a band."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 5), layout="constrained")
    colours = pyplot.get_cmap("tab10")
    for number, (name, group) in enumerate(runs.items()):
        told = [run.points() for run in group]
        grid = np.linspace(0, min(points[-1]["scurve/flops"] for points in told), 200)
        lines = [
            np.interp(grid, [p["scurve/flops"] for p in points], [p["scurve/accuracy"] for p in points])
            for points in told
        ]
        colour, style = colours(number % 10), LINES[number // 10]
        axes.plot(grid, np.mean(lines, axis=0), style, color=colour, lw=1.5, label=name)
        axes.fill_between(grid, np.min(lines, axis=0), np.max(lines, axis=0), color=colour, alpha=0.1, lw=0)
    axes.set(
        xlabel="training FLOPs, rollouts and scoring included",
        ylabel="pass@1 on held-out sums (mean and range of seeds)",
    )
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    print(f"plot: {path}")
