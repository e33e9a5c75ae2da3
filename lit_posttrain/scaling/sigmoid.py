"""The S-curve: accuracy as a logistic function of log compute."""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit

Array = NDArray[np.float64]


def log_compute(compute: ArrayLike) -> Array:
    """Natural logarithm of compute; 0 (the untrained model) becomes minus infinity, without a warning."""
    with np.errstate(divide="ignore"):
        return np.log(np.asarray(compute, dtype=np.float64))


def rise(log_c: ArrayLike, log_c_mid: ArrayLike, b: ArrayLike) -> Array:
    """Share of the gain reached, f = 1 / (1 + (C_mid/C)^B), from logarithms; f = 0 at C = 0.

    Arguments broadcast. Computed as a logistic function of B (log C - log C_mid), so that no power overflows.
    """
    difference = np.asarray(log_c, dtype=np.float64) - np.asarray(log_c_mid, dtype=np.float64)
    return expit(np.asarray(b, dtype=np.float64) * difference)


def sigmoid(compute: ArrayLike, r_0: ArrayLike, a: ArrayLike, c_mid: ArrayLike, b: ArrayLike) -> Array:
    """Accuracy after training compute C: R_0 + (A - R_0) / (1 + (C_mid/C)^B).

    Args:
        compute: C >= 0 in any unit; 0 gives R_0 exactly.
        r_0: accuracy of the untrained model.
        a: asymptote.
        c_mid: compute at which half of A - R_0 is gained, in the unit of `compute`.
        b: exponent, > 0.

    Source: Khatri et al. 2025, arXiv:2510.13786, eq. 1.
    """
    share = rise(log_compute(compute), log_compute(c_mid), b)
    return np.asarray(r_0) * (1.0 - share) + np.asarray(a) * share
