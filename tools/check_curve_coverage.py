"""Coverage and error of the curve fit on simulated runs with known truth.

    python tools/check_curve_coverage.py --runs 200

Prints one line per length of run (C_end / C_mid): coverage of the 90 % intervals of A, R(2x) and the
gain, the median absolute errors, how often A was called identified, and the 90th percentile of |A err|
where it was. White noise is what the fit assumes; the second table adds autocorrelated training noise,
which it does not model.
"""

import argparse
import time
from dataclasses import dataclass

import numpy as np

from lit_posttrain.scaling.fit import SigmoidFit, fit
from lit_posttrain.scaling.flags import Kind
from lit_posttrain.scaling.simulate import Truth, simulated_run

LENGTHS = (0.5, 1.0, 2.0, 4.0, 8.0)
EVALUATIONS = ((200, 4), (500, 4), (1000, 16))


@dataclass(frozen=True)
class Score:
    """One simulated run: which intervals held the truth, how far the medians were off."""

    covered: tuple[bool, bool, bool]  # A, R(2x), gain
    error_a: float
    error_double: float
    width_a: float
    identified: bool
    brier: float


def random_truth(rng: np.random.Generator, wander: bool) -> Truth:
    """A run as a small laboratory may have it; C_mid is 1."""
    problems, samples = EVALUATIONS[rng.integers(len(EVALUATIONS))]
    r_0 = rng.uniform(0.02, 0.45)
    return Truth(
        r_0=r_0,
        a=min(r_0 + rng.uniform(0.1, 0.5), 0.97),
        c_mid=1.0,
        b=float(rng.lognormal(np.log(1.6), 0.3)),
        problems=problems,
        samples=samples,
        wander=rng.uniform(0.003, 0.01) if wander else 0.0,
        memory=rng.uniform(0.3, 0.8),
    )


def probes(rng: np.random.Generator, end: float) -> np.ndarray:
    """12 to 40 probes, even or by log, the untrained model included."""
    count = int(rng.integers(12, 41))
    if rng.random() < 0.5:
        return np.linspace(0, end, count)
    return np.append(0.0, np.geomspace(end / 50, end, count - 1))


def score(fitted: SigmoidFit, truth: Truth, end: float) -> Score | None:
    """Compare a fit with its truth; None if there is no fit."""
    if fitted.a is None or fitted.forecast is None:
        return None
    double = float(truth.accuracy(2 * end))
    gain = double - float(truth.accuracy(end))
    forecast = fitted.forecast
    pairs = ((fitted.a, truth.a), (forecast.at_double, double), (forecast.gain, gain))
    first, second, third = (estimate.low <= value <= estimate.high for estimate, value in pairs)
    return Score(
        covered=(first, second, third),
        error_a=abs(fitted.a.median - truth.a),
        error_double=abs(forecast.at_double.median - double),
        width_a=fitted.a.high - fitted.a.low,
        identified=not fitted.has(Kind.A_NOT_IDENTIFIED),
        brier=(forecast.gain_probability - (gain >= 0.01)) ** 2,
    )


def table(runs: int, wander: bool, seed: int) -> None:
    """Simulate, fit and print one table."""
    rng = np.random.default_rng(seed)
    print(f"\n{'with training noise of .3 to 1 point' if wander else 'white noise'}")
    print("C_end/C_mid  runs  no fit   A    R(2x)  gain   |A err|  |R err|  A width  identified  p90   Brier")
    scores: dict[float, list[Score]] = {length: [] for length in LENGTHS}
    failed = dict.fromkeys(LENGTHS, 0)
    for index in range(runs):
        end = LENGTHS[index % len(LENGTHS)]
        truth = random_truth(rng, wander)
        points = simulated_run(truth, probes(rng, end), int(rng.integers(2**31)))
        one = score(fit(points), truth, end)
        if one is None:
            failed[end] += 1
        else:
            scores[end].append(one)
    for length in LENGTHS:
        print_row(f"{length:g}", scores[length], failed[length])
    print_row("all", [one for row in scores.values() for one in row], sum(failed.values()))


def print_row(name: str, scores: list[Score], failed: int) -> None:
    """One line of the table."""
    a, double, gain = np.mean([one.covered for one in scores], axis=0)
    error_a = np.median([one.error_a for one in scores])
    error_double = np.median([one.error_double for one in scores])
    width = np.mean([one.width_a for one in scores])
    claimed = np.mean([one.identified for one in scores])
    p90 = np.quantile([one.error_a for one in scores if one.identified] or [np.nan], 0.9)
    brier = np.mean([one.brier for one in scores])
    print(
        f"{name:>11}  {len(scores):4d}  {failed:6d}  {a:.2f}   {double:.2f}   {gain:.2f}    {error_a:.3f}    "
        f"{error_double:.3f}    {width:.3f}      {claimed:.2f}    {p90:.3f}  {brier:.3f}"
    )


def main() -> None:
    """Both tables and the time of a fit."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--runs", type=int, default=150, help="simulated runs of each table (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the simulation (default: %(default)s)")
    args = parser.parse_args()
    start = time.perf_counter()
    for wander in (False, True):
        table(args.runs, wander, args.seed)
    print(f"\n{(time.perf_counter() - start) / (2 * args.runs):.3f} s a run, simulation included")


if __name__ == "__main__":
    main()
