"""Whether a reward model is as sure as it is right: calibration error of pairs, and the temperature that mends it."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

BINS = 10
COLDEST, HOTTEST = 1e-3, 1e3
"""Between these the temperature is looked for; an end is reached where no wrong pair, or no right one, is there."""


def calibration_error(margins: Tensor, *, bins: int = BINS) -> Tensor:
    """Expected calibration error () of pairs whose better side is scored higher by `margins` (P,); nan for none.

    Each pair predicts that its higher side wins, with probability sigmoid(|margin|) in [1/2, 1]; bins of equal
    width hold predictions that are alike, and the error is the mean over pairs of |share that came true - mean
    prediction| of their bin. A tie predicts 1/2 and comes true by half.

    Source: Naeini et al. 2015, "Obtaining well calibrated probabilities using Bayesian binning".
    """
    sure = torch.sigmoid(margins.double().abs())
    right = (margins.double().sign() + 1) / 2
    place = ((sure - 0.5) * 2 * bins).long().clamp(max=bins - 1)
    gaps = torch.zeros(bins, dtype=torch.float64, device=margins.device).index_add(0, place, right - sure)
    return gaps.abs().sum() / len(margins)


def fitted_temperature(margins: Tensor) -> Tensor:
    """The temperature t () at which sigmoid(margins / t) makes the preferences likeliest; nan for none.

    The log-likelihood is concave in 1/t; its derivative is halved into, in log t, to 1e-9. It lies at the end
    of the range where all pairs are right, or as many wrong as right.

    Source: Guo et al. 2017, arXiv:1706.04599, section 4.2.
    """
    if not len(margins):
        return torch.full((), torch.nan, dtype=torch.float64, device=margins.device)
    margins = margins.double()
    right, wrong = margins[margins > 0], margins[margins < 0]
    low, high = torch.tensor([COLDEST, HOTTEST], dtype=torch.float64, device=margins.device).log()
    for _ in range(50):
        middle = (low + high) / 2
        too_hot = _pull(right, middle) > _pull(wrong, middle)  # the likelihood rises with 1/t
        low, high = torch.where(too_hot, low, middle), torch.where(too_hot, middle, high)
    return ((low + high) / 2).exp()


def _pull(margins: Tensor, log_temperature: Tensor) -> Tensor:
    """The logarithm of sum |m| sigmoid(-m/t): what these pairs add to the derivative by 1/t."""
    return (margins.abs().log() + logsigmoid(-margins / log_temperature.exp())).logsumexp(0)


class CalibrationError(Metric):
    """Calibration error of pairs as scored, and after the scores are divided by the temperature fitted to them.

    Margins of all pairs are kept. A fitted error says how much of the error is one factor; the fit is on the same
    pairs.

    Args:
        bins: Of equal width between 1/2 and 1.
    """

    full_state_update = False
    is_differentiable = False
    higher_is_better = False

    def __init__(self, bins: int = BINS, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.bins = bins
        self.add_state("margins", [], dist_reduce_fx="cat")
        self.margins: list[Tensor]

    def update(self, margins: Tensor) -> None:
        """Adds pairs by how much higher the better side is scored, (P,)."""
        self.margins.append(margins.detach().float())

    def compute(self) -> dict[str, Tensor]:
        """`error`, `fitted_error` and `temperature`."""
        margins = dim_zero_cat(self.margins)
        temperature = fitted_temperature(margins)
        return {
            "error": calibration_error(margins, bins=self.bins),
            "fitted_error": calibration_error(margins / temperature, bins=self.bins),
            "temperature": temperature,
        }
