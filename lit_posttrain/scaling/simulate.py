"""Simulated runs with a known S-curve, to check intervals against the truth."""

from dataclasses import dataclass

import numpy as np
from scipy.special import betaincinv

from lit_posttrain.scaling.points import Points, make_points
from lit_posttrain.scaling.sigmoid import Array, sigmoid


@dataclass(frozen=True)
class Truth:
    """A curve and the evaluation that samples it.

    Attributes:
        r_0: accuracy of the untrained model.
        a: asymptote.
        c_mid: compute at half of the gain.
        b: exponent.
        problems: held-out problems n.
        samples: samples k of each.
        correlation: intra-class, > 0; near 0 problems are alike, near 1 each is always or never solved.
        wander: standard deviation of autocorrelated training noise, in accuracy.
        memory: its lag-1 correlation.
    """

    r_0: float
    a: float
    c_mid: float
    b: float
    problems: int = 500
    samples: int = 4
    correlation: float = 0.5
    wander: float = 0.0
    memory: float = 0.6

    def accuracy(self, compute: Array | float) -> Array:
        """The curve itself, of the fixed set of problems, without training noise."""
        return sigmoid(compute, self.r_0, self.a, self.c_mid, self.b)


def evaluate(accuracy: float, truth: Truth, rng: np.random.Generator) -> tuple[int, float]:
    """Correct samples and within-problem variance of one evaluation, drawn problem by problem.

    Problems keep their rank of difficulty, and their mean is the accuracy exactly, so the set is a fixed one.
    """
    n, k = truth.problems, truth.samples
    accuracy = float(np.clip(accuracy, 1e-4, 1 - 1e-4))
    size = 1 / truth.correlation - 1
    solved = betaincinv(accuracy * size, (1 - accuracy) * size, (np.arange(n) + 0.5) / n)
    counts = rng.binomial(k, np.clip(solved, 0, 1))
    share = counts / k
    return int(counts.sum()), float((share * (1 - share)).sum() / (k - 1) / n**2)


def simulated_run(truth: Truth, compute: Array, seed: int) -> Points:
    """Probes of one run of that truth at each compute (include 0 for the untrained model)."""
    rng = np.random.default_rng(seed)
    wander = 0.0
    correct, variance = [], []
    for c, mean in zip(compute, truth.accuracy(compute), strict=True):
        step = rng.standard_normal() * truth.wander
        wander = truth.memory * wander + np.sqrt(1 - truth.memory**2) * step
        count, within = evaluate(mean + (wander if c > 0 else 0.0), truth, rng)
        correct.append(count)
        variance.append(within)
    count = truth.problems * truth.samples
    return make_points(compute, np.array(correct) / count, variance, truth.problems, truth.samples)
