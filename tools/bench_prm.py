"""What a process reward model and labels from rollouts find of planted errors; minutes on one CPU core.

    python tools/bench_prm.py                    # all of it
    python tools/bench_prm.py --experiments planted --seeds 3

`planted` trains a policy on right derivations of three lines, then a reward model from it on derivations with
planted first errors, exports it, and reads held-out ones through the grader. `rollouts` labels planted derivations
without looking at their labels, by rollouts of that policy. The figures are in docs/process_rewards.md.
"""

import argparse
import logging
import math
import shutil
import time
import warnings
from pathlib import Path

from prm import rollouts, training

from lit_posttrain.data import StepLabels
from lit_posttrain.graders import ProcessRewardModel
from lit_posttrain.metrics import StepScores

EXPERIMENTS = ("planted", "rollouts")


def main() -> None:
    """Runs the experiments asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--experiments", nargs="*", default=EXPERIMENTS, choices=EXPERIMENTS)
    parser.add_argument("--work", type=Path, default=Path("runs/prm"), help="default: %(default)s")
    parser.add_argument("--seeds", type=int, default=1, help="reward models (default: %(default)s)")
    parser.add_argument("--policy-steps", type=int, default=250, help="default: %(default)s")
    parser.add_argument("--steps", type=int, default=2500, help="of a reward model (default: %(default)s)")
    parser.add_argument(
        "--solutions", type=int, default=256, help="labelled by rollouts (default: %(default)s)"
    )
    parser.add_argument(
        "--samples", type=int, default=8, help="rollouts behind a step (default: %(default)s)"
    )
    chosen = parser.parse_args()
    warnings.simplefilter("ignore")
    for noisy in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    if "planted" in chosen.experiments:
        shutil.rmtree(chosen.work, ignore_errors=True)
        for seed in range(chosen.seeds):
            planted(chosen.work / f"seed-{seed}", seed, chosen.policy_steps, chosen.steps)
    if "rollouts" in chosen.experiments:
        rollouts.label(chosen.work / "seed-0" / "policy", solutions=chosen.solutions, samples=chosen.samples)


def planted(work: Path, seed: int, policy_steps: int, steps: int) -> None:
    """Trains a policy and a reward model, and prints what the latter finds in the test split."""
    work.mkdir(parents=True)
    began = time.monotonic()
    training.train_policy(work / "policy", steps=policy_steps, seed=seed)
    middle = time.monotonic()
    training.train_reward_model(work / "prm", work / "policy", steps=steps, seed=seed)
    print(f"seed {seed}: policy {middle - began:.0f} s, reward model {time.monotonic() - middle:.0f} s")
    found = measured(work / "prm")
    print("  " + ", ".join(f"{name} {value:.3f}" for name, value in found.items()), flush=True)


def measured(folder: Path) -> dict[str, float]:
    """The measures of an exported reward model on the test split, read by the grader."""
    given = training.source()
    rows = given.rows("test")
    problems = given.problems("test")
    metric = StepScores()
    scores = ProcessRewardModel(str(folder)).score(
        [(problem, row.steps) for problem, row in zip(problems, rows, strict=True)]
    )
    until_first_error = StepLabels(until_first_error=True)
    known = [[None if math.isnan(one) else one for one in until_first_error(row.labels)] for row in rows]
    metric.update(scores, known)
    return {name: float(value) for name, value in metric.compute().items()}


if __name__ == "__main__":
    main()
