"""The studies: recipes as they are shipped, and one recipe with one part changed."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from curve_runs import CurveRun

PROBES = 12
"""About so many in each run, evenly spaced in compute."""


@dataclass(frozen=True)
class Variant:
    """A config, and what is changed in it."""

    config: str
    options: Mapping[str, Any] = field(default_factory=dict)


BASE = "configs/grpo/cispo.yaml"
STUDIES: dict[str, dict[str, Variant]] = {
    "recipes": {
        name: Variant(f"configs/{folder}/{name}.yaml")
        for folder, names in {
            "grpo": ("grpo", "dapo", "dr_grpo", "gspo", "cispo", "rloo", "reinforce_pp", "scalerl"),
            "ppo": ("ppo", "ppo_shared"),
        }.items()
        for name in names
    },
    "parts": {
        "cispo": Variant(BASE),
        "clipped loss": Variant(BASE, {"model.loss": "Clipped"}),
        "plain REINFORCE": Variant(BASE, {"model.loss": "Reinforce"}),
        "sequence ratio": Variant(
            BASE,
            {"model.loss": "SequenceClipped", "model.loss.low": 4e-3, "model.loss.high": 5e-3},
        ),
        "no deviation": Variant(BASE, {"model.advantage.init_args.deviation": "none"}),
        "batch deviation": Variant(BASE, {"model.advantage.init_args.deviation": "batch"}),
        "leave-one-out": Variant(BASE, {"model.advantage": "LeaveOneOut"}),
        "sequence mean": Variant(BASE, {"model.weighting": "SequenceMean"}),
        "prompt mean": Variant(BASE, {"model.weighting": "PromptMean"}),
        "uniform groups kept": Variant(BASE, {"model.rollouts.uniform_groups": "keep"}),
        "temperature 1": Variant(BASE, {"model.rollouts.sampling.temperature": 1.0}),
        "groups of 16": Variant(BASE, {"model.rollouts.group_size": 16, "data.problems_per_rollout": 32}),
        "rate 1e-4": Variant(BASE, {"model.optimizer.init_args.lr": 1e-4}),
        "rate 6e-4": Variant(BASE, {"model.optimizer.init_args.lr": 6e-4}),
    },
    "staleness": {
        f"staleness {k}": Variant(BASE, {"data.staleness": k, "model.reuse.minibatches": 1})
        for k in (0, 1, 4, 8)
    },
}


def runs_of(
    variant: Variant, name: str, seeds: int, flops: float, policy: Path, work: Path
) -> list[CurveRun]:
    """One run for each seed."""
    label = name.replace(" ", "-")
    return [
        CurveRun(
            f"{label}_seed-{seed}",
            work,
            [variant.config],
            {
                "seed_everything": seed,
                "model.network.path": policy,
                "model.seed": seed,
                "data.seed": seed,
                "trainer.max_steps": 100_000,
                "trainer.callbacks+": "StopAtCompute",
                "trainer.callbacks.limit": flops,
                "checkpoint.every_n_train_steps": 100,
                **variant.options,
            },
            ("scurve/flops", flops),
        )
        for seed in range(seeds)
    ]
