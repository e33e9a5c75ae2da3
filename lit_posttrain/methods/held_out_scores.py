"""What held-out pairs, completions and steps say of a reward model: metrics over a whole validation."""

from torch import Tensor, nn
from torchmetrics import MeanMetric

from lit_posttrain.batches import PreferenceBatch, RankedBatch, StepBatch, TokenBatch
from lit_posttrain.methods.ensemble import completion_tokens, spreads
from lit_posttrain.metrics import CalibrationError, LengthCorrelation, PairAccuracy
from lit_posttrain.metrics.step_scores import StepScores
from lit_posttrain.objectives.rankings import beaten

STEP_MEASURES = ("step_f1", "first_error_accuracy", "processbench_f1")


class HeldOutScores(nn.Module):
    """Adds up over batches and ranks; `results` gives the values by metric name and begins anew.

    Graded completions are compared in pairs of one prompt with different grades.
    """

    def __init__(self) -> None:
        super().__init__()
        self.accuracy, self.calibration, self.length = PairAccuracy(), CalibrationError(), LengthCorrelation()
        self.mean, self.spread, self.steps = MeanMetric(), MeanMetric(), StepScores()
        self.sees_steps = False

    def update(self, scores: Tensor, batch: TokenBatch) -> None:
        """Adds the scores (S or steps, K) of a batch; what has no weight is left out."""
        self.sees_steps = isinstance(batch, StepBatch)
        if isinstance(batch, StepBatch):
            live = batch.weights[batch.step_ends] != 0
            self.steps.update(*by_solution(scores.mean(1), batch))
        else:
            assert isinstance(batch, PreferenceBatch | RankedBatch)
            live = batch.share != 0
            self._update_pairs(scores.mean(1), batch)
        self.mean.update(scores.mean(1)[live])
        self.spread.update(spreads(scores)[live])

    def results(self) -> dict[str, Tensor]:
        """The values of what was seen since the last time, but those that are unknown; collective."""
        values = {"val/score_mean": self.mean.compute(), "val/score_spread": self.spread.compute()}
        values |= self._of_steps() if self.sees_steps else self._of_pairs()
        for metric in (self.accuracy, self.calibration, self.length, self.mean, self.spread, self.steps):
            metric.reset()
        return {name: value.float() for name, value in values.items() if not value.isnan()}

    def _of_steps(self) -> dict[str, Tensor]:
        found = self.steps.compute()
        return {f"val/{name}": found[name] for name in STEP_MEASURES}

    def _of_pairs(self) -> dict[str, Tensor]:
        calibration = self.calibration.compute()
        return {
            "val/preference_accuracy": self.accuracy.compute()["mean"],
            "val/calibration_error": calibration["error"],
            "val/calibration_error_fitted": calibration["fitted_error"],
            "val/calibration_temperature": calibration["temperature"],
            "val/length_correlation": self.length.compute(),
        }

    def _update_pairs(self, scores: Tensor, batch: PreferenceBatch | RankedBatch) -> None:
        chosen, rejected = compared(batch)
        margins = scores[chosen] - scores[rejected]
        tokens = completion_tokens(batch)
        self.accuracy.update(margins)
        self.calibration.update(margins)
        self.length.update(margins, tokens[chosen] - tokens[rejected])


def compared(batch: PreferenceBatch | RankedBatch) -> tuple[Tensor, Tensor]:
    """The better and the worse sequence of each comparison, as places from 0; what has no share is left out."""
    live = batch.share != 0
    if isinstance(batch, PreferenceBatch):
        chosen, rejected = batch.sides()
        counts = live[chosen]
        return chosen[counts], rejected[counts]
    wins = beaten(batch.target, batch.group) & live[:, None] & live[None, :]
    chosen, rejected = wins.nonzero(as_tuple=True)
    return chosen, rejected


def by_solution(scores: Tensor, batch: StepBatch) -> tuple[list[list[float]], list[list[float | None]]]:
    """Chances and labels of the steps of each solution with a weight, from the scores (N,) of all steps."""
    owners, known = batch.segments[batch.step_ends], batch.mask[batch.step_ends]
    labels, chances = batch.step_labels[batch.step_ends], scores.sigmoid()
    counted = batch.segments[batch.weights != 0].unique().tolist()
    solutions = [(owners == owner).nonzero().flatten().tolist() for owner in counted]
    return (
        [[float(chances[i]) for i in steps] for steps in solutions],
        [[float(labels[i]) if known[i] else None for i in steps] for steps in solutions],
    )
