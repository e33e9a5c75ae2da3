"""A fit as plain data: everything needed to draw it again or to check a forecast later."""

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import lit_posttrain
from lit_posttrain.scaling import least_squares, posterior
from lit_posttrain.scaling.estimates import WORTHWHILE, Estimate
from lit_posttrain.scaling.fit import DRAWS, SigmoidFit
from lit_posttrain.scaling.runs import Series

FORMAT = 1


def record(
    curves: Sequence[tuple[Series, SigmoidFit]], axis: str, quantity: str, context: dict[str, Any]
) -> dict[str, Any]:
    """The JSON document of one command: format, code version, settings, and one entry per curve."""
    return _clean(
        {
            "format": FORMAT,
            "lit_posttrain": lit_posttrain.__version__,
            "axis": f"scurve/{axis}",
            "quantity": f"scurve/{quantity}",
            **context,
            "model": {
                "family": "R_0 + (A - R_0) / (1 + (C_mid/C)^B)",
                "noise": "white: sigma^2 times the sampling variance of each point",
                "claims_about": "this fixed set of problems",
                "draws": DRAWS,
                "grid": [posterior.GRID, posterior.GRID, posterior.REFINEMENTS],
                "least_squares_steps": least_squares.STEPS,
                "prior_b_log_normal": [posterior.B_CENTRE, posterior.B_SPREAD],
                "prior_c_mid_log_uniform": "first trained point / "
                f"{posterior.C_MID_BELOW:g} to last point x {posterior.C_MID_ABOVE:g}",
                "prior_sigma2_degrees_of_freedom": posterior.PRIOR_FREEDOM,
                "worthwhile_gain": WORTHWHILE,
            },
            "curves": [one_curve(series, fitted) for series, fitted in curves],
        }
    )


def one_curve(series: Series, fitted: SigmoidFit) -> dict[str, Any]:
    """One run: its points, flags and, if there is a fit, every number with its interval."""
    return {
        "name": series.name,
        "run_ids": list(series.run_ids),
        "device": series.device,
        "fitted": fitted.fitted,
        "flags": [{"kind": flag.kind.value, "fatal": flag.fatal, "text": flag.text} for flag in fitted.flags],
        "settings": {
            "level": fitted.level,
            "cap": fitted.bounds.cap,
            "floor": fitted.bounds.floor,
            "seed": fitted.seed,
        },
        "parameters": {
            "A": _estimate(fitted.a),
            "R_0": _estimate(fitted.r_0),
            "C_mid": _estimate(fitted.c_mid),
            "B": _estimate(fitted.b),
            "over_dispersion": _estimate(fitted.over_dispersion),
        },
        "least_squares": asdict(fitted.best) if fitted.best else None,
        "r_squared": fitted.r_squared,
        "forecast": asdict(fitted.forecast) if fitted.forecast else None,
        "new_problems_standard_deviation": math.sqrt(fitted.points.between_variance),
        "coverage": fitted.band.coverage if fitted.band else None,
        "points": _points(fitted),
        "dropped": [asdict(point) for point in fitted.points.dropped],
    }


def _estimate(estimate: Estimate | None) -> dict[str, float] | None:
    return asdict(estimate) if estimate else None


def _points(fitted: SigmoidFit) -> list[dict[str, Any]]:
    points, band = fitted.points, fitted.band
    rows = [
        {"step": step, "compute": c, "accuracy": y, "variance": v}
        for step, c, y, v in zip(
            points.steps.tolist(),
            points.compute.tolist(),
            points.accuracy.tolist(),
            points.variance.tolist(),
            strict=True,
        )
    ]
    if band is not None:
        for row, curve, low, high in zip(
            rows, band.curve.tolist(), band.low.tolist(), band.high.tolist(), strict=True
        ):
            row |= {"curve": curve, "predictive_low": low, "predictive_high": high}
            row["inside"] = low <= row["accuracy"] <= high
    return rows


def _clean(value: Any) -> Any:
    """The same with None for NaN and infinities, which JSON does not know."""
    if isinstance(value, dict):
        return {key: _clean(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
