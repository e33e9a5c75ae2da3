"""Measures accuracy on held-out problems as training goes: one point of the S-curve each time."""

import logging
import warnings
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from lit_posttrain.batches import Answer, Sampling
from lit_posttrain.contracts import Grader, PromptSource
from lit_posttrain.errors import InputError
from lit_posttrain.names import known
from lit_posttrain.networks import CausalNetwork
from lit_posttrain.ranks import Ranks
from lit_posttrain.tracking.compute import ComputeMeter
from lit_posttrain.tracking.drift import UNDEFINED, drift_metrics, is_defined, measure
from lit_posttrain.tracking.exam import Exam, load_prompts
from lit_posttrain.tracking.probe_point import ProblemResult, counts_record, point_metrics
from lit_posttrain.tracking.probe_settings import (
    LogSpaced,
    check_at_k,
    check_at_least,
    check_spacing,
    find_meter,
    part_of,
)

log = logging.getLogger(__name__)

Point = dict[str, float]


@runtime_checkable
class ProbeListener(Protocol):
    """A callback that wants to know of each point."""

    def on_probe(
        self, trainer: Trainer, pl_module: LightningModule, point: Point, answers: Sequence[Sequence[Answer]]
    ) -> None:
        """Called once a point is logged: its `step` and metrics, and this rank's answers by problem."""
        ...


@runtime_checkable
class TextLogger(Protocol):
    """A logger that keeps files."""

    def log_text(self, text: str, path: str) -> None:
        """Keeps a text under a path of the run."""
        ...


class AccuracyProbe(Callback):
    """Samples answers to held-out problems, grades them, and logs accuracy with the compute spent so far.

    The untrained policy is always the first point and the trained one the last, whatever the spacing. Every
    point draws with the same keys, (seed, problem, sample): two points of one policy are equal, and the noise
    between neighbouring points is less than that of independent draws. Training is not touched: no gradient,
    no global randomness, the policy's train or eval mode restored, the cost booked as evaluation.

    Args:
        data: Held-out prompts; the trainer's DataModule if not given.
        grader: Judges the answers; the method's own if not given.
        sampling: How answers are drawn; the method's own if not given.
        samples_per_problem: k, at least 2, so that the noise of a point is measured.
        problems: Only the first so many; all of the split if not given.
        split: Of the data.
        every_n_steps: A point every so many optimiser steps.
        log_spaced: Points evenly spaced in log-compute instead.
        pass_at: Also log pass@k for these k.
        majority_at: Also log majority@k for these k.
        batch_problems: Problems answered at the same time on each rank.
        seed: Of the samples.
        stop_at: Training ends once accuracy reaches this.
        at_end: Whether the trained policy is the last point.
        kl_to_start: Also log KL(policy || policy at the start of the run), whatever the training. Both read the
            samples once more. Adapters are turned off for it, which are taken to have started as no change; where
            all weights or virtual tokens are trained, a second network is loaded at each point from `network`, as it
            was at the start, and given up again: that takes the memory of its weights and the time to read them.

    Raises:
        InputError: if the settings cannot give a curve.
    """

    def __init__(
        self,
        data: PromptSource | None = None,
        grader: Grader | None = None,
        sampling: Sampling | None = None,
        samples_per_problem: int = 4,
        problems: int | None = None,
        split: str = "validation",
        every_n_steps: int | None = None,
        log_spaced: LogSpaced | None = None,
        pass_at: tuple[int, ...] = (),
        majority_at: tuple[int, ...] = (),
        batch_problems: int = 64,
        seed: int = 0,
        stop_at: float | None = None,
        at_end: bool = True,
        kl_to_start: bool = True,
    ) -> None:
        check_at_least(
            "samples_per_problem", samples_per_problem, 2, " so that the noise of a point is measured"
        )
        check_at_least("problems", problems, 1)
        check_at_least("every_n_steps", every_n_steps, 1)
        check_at_least("batch_problems", batch_problems, 1)
        check_spacing(every_n_steps, log_spaced)
        check_at_k((*pass_at, *majority_at), samples_per_problem)
        self.data, self.grader, self.sampling = data, grader, sampling
        self.samples_per_problem, self.problems, self.split = samples_per_problem, problems, split
        self.every_n_steps, self.log_spaced = every_n_steps, log_spaced
        self.pass_at, self.majority_at = tuple(pass_at), tuple(majority_at)
        self.batch_problems, self.seed, self.stop_at, self.at_end = batch_problems, seed, stop_at, at_end
        self.kl_to_start, self._has_kl = kl_to_start, kl_to_start
        self.points: list[Point] = []
        self.exam: Exam | None = None
        self._meter = ComputeMeter()
        self._seen_step = -1

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Loads the prompts and settles grader and sampling, before any training.

        Raises:
            InputError: without prompts, grader, sampling or ComputeMeter, or if a problem stands twice.
        """
        if stage != "fit":
            return
        self._meter = find_meter(trainer)
        source = self.data or trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]
        if not isinstance(source, PromptSource):
            raise InputError(
                f"AccuracyProbe has no held-out prompts: the DataModule ({type(source).__name__}) is no "
                "PromptSource; give the probe its own `data`."
            )
        source.setup_probe(pl_module.text, self.split)
        self.exam = Exam(
            prompts=load_prompts(source, self.split, self.problems),
            grader=part_of(pl_module, "grader", self.grader),
            sampling=part_of(pl_module, "sampling", self.sampling),
            samples=self.samples_per_problem,
            batch_problems=self.batch_problems,
            seed=self.seed,
        )
        self._has_kl = self.kl_to_start and is_defined(self.exam.sampling)
        if self.kl_to_start and not self._has_kl and trainer.is_global_zero:
            log.warning("%s", UNDEFINED)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Evaluates the untrained policy; in a resumed run first a point that was due and cut off."""
        if trainer.is_global_zero:
            for logger in trainer.loggers:
                logger.log_hyperparams({"probe": self._settings()})
        is_resumed = self._seen_step >= 0
        if is_resumed:
            self._meter.start(trainer)
        if is_resumed and self.points and self._is_good_enough(self.points[-1]):
            trainer.should_stop = True
        is_first = trainer.global_step == 0 and not self.points
        is_owed = is_resumed and self._seen_step < trainer.global_step and self._is_due(trainer.global_step)
        if is_first or is_owed:
            self._probe(trainer, pl_module)
        self._seen_step = trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Probes after an optimiser step, when it is time."""
        if trainer.global_step != self._seen_step and self._is_due(trainer.global_step):
            self._probe(trainer, pl_module)
        self._seen_step = trainer.global_step

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Evaluates the trained policy, unless the last point is of it."""
        if self.at_end and (not self.points or self.points[-1]["step"] != trainer.global_step):
            self._probe(trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        """The points so far, which prompts they are of, and the last step at which a point was taken or not due."""
        points = [dict(point) for point in self.points]
        return {"points": points, "prompt_set": self._prompt_set(), "seen_step": self._seen_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on with the points of the checkpoint.

        Raises:
            InputError: if the held-out prompts are others now: the curve would be of two exams.
        """
        before, now = state_dict["prompt_set"], self._prompt_set()
        if before and now and before != now:
            raise InputError(
                f"the probe's prompts changed since the checkpoint (set {before}, now {now}): its points are "
                "not one curve. Keep split, problems and template as they were, or start a new run."
            )
        self.points = [dict(point) for point in state_dict["points"]]
        self._seen_step = state_dict["seen_step"]

    def _probe(self, trainer: Trainer, module: LightningModule) -> None:
        """One point: draws, grades, logs, tells who listens."""
        assert self.exam is not None
        axes = self._meter.axes()
        with trainer.precision_plugin.forward_context():
            answers, results = self.exam.take(module, Ranks.of(trainer))
        metrics = point_metrics(results, pass_at=self.pass_at, majority_at=self.majority_at)
        if not self._says_something(metrics):
            return
        metrics |= self._drift(module, answers)
        metrics = {known(name): value for name, value in (metrics | axes).items()}
        point: Point = {"step": trainer.global_step, **metrics}
        self.points.append(point)
        self._publish(trainer, metrics, results)
        for callback in trainer.callbacks:  # pyright: ignore[reportAttributeAccessIssue]
            if isinstance(callback, ProbeListener):
                callback.on_probe(trainer, module, point, answers)
        if self._is_good_enough(metrics):
            trainer.should_stop = True

    def _drift(self, module: LightningModule, answers: Sequence[Sequence[Answer]]) -> Point:
        """How far the policy is from its start; nothing for what is no network of ours."""
        assert self.exam is not None
        if not self._has_kl or not isinstance(module.policy, CausalNetwork):
            return {}
        ids = Ranks.of(module.trainer).share(self.exam.prompts.prompt_ids)
        return drift_metrics(measure(module, answers, ids, self.exam.sampling.temperature))

    def _is_good_enough(self, metrics: Point) -> bool:
        return self.stop_at is not None and metrics.get("scurve/accuracy", -1.0) >= self.stop_at

    def _says_something(self, metrics: Point) -> bool:
        """Whether enough could be graded for a point; an error if not even for the first one."""
        if "scurve/accuracy" in metrics or ("scurve/reward" in metrics and self.stop_at is None):
            return True
        message = (
            f"none of the {self.samples_per_problem} samples of any problem could be told right or wrong, so "
            "the probe has no accuracy; check the grader and the problems' reference answers"
        )
        if not self.points:
            raise InputError(message)
        warnings.warn(message, stacklevel=2)
        return False

    def _publish(self, trainer: Trainer, metrics: Point, results: list[ProblemResult]) -> None:
        """Logs the point in one call per logger, and leaves it for checkpoints and early stopping."""
        trainer.callback_metrics.update({name: torch.tensor(float(value)) for name, value in metrics.items()})
        if not trainer.is_global_zero:
            return
        step = trainer.global_step
        record = counts_record(results, step=step, **self._settings())
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step=step)
            if isinstance(logger, TextLogger):
                logger.log_text(record, f"scurve/counts_step_{step:06d}.json")

    def _is_due(self, step: int) -> bool:
        if self.every_n_steps is not None:
            return step % self.every_n_steps == 0
        if self.log_spaced is None or step < self.log_spaced.first_step:
            return False
        axis = f"scurve/{self.log_spaced.axis}"
        before = self.points[-1][axis] if self.points else 0.0
        return self._meter.axes()[axis] >= self.log_spaced.factor * before

    def _settings(self) -> dict[str, Any]:
        assert self.exam is not None
        return {"split": self.split, **self.exam.settings()}

    def _prompt_set(self) -> str:
        return "" if self.exam is None else self.exam.settings()["prompt_set"]
