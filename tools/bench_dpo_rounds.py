"""Iterative and online DPO against one-shot DPO, at the same samples and steps, from the quickstart's SFT policy.

    python tools/bench_dpo_rounds.py                  # three seeds of each kind, then the plot; needs `make quickstart`
    python tools/bench_dpo_rounds.py --kinds one-shot iterative --seeds 1
    python tools/bench_dpo_rounds.py --kinds killed   # killed in round 2 and resumed: the same run as iterative, seed 0

All kinds draw the same number of completions and take the same number of steps, of as many pairs, with the same
decaying rate: `one-shot` draws all at the start, `iterative` in three rounds, `online` before every step; the last
two compare with the policy of the beginning of each third. Kinds that end in `-plain` do so without the likelihood of
the chosen sides and at a constant rate. A run that is there already is not repeated; one that was stopped goes on from
its last checkpoint. The figures are in docs/preferences.md.
"""

import argparse
import os
import signal
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from curve_runs import CurveRun

from lit_posttrain.checkpoints import folder, recovery

CONFIG = "configs/dpo/rounds.yaml"
ROUNDS, STEPS, PROBLEMS = 3, 100, 4096
PAIRS = 19
"""Of each step: what one-shot drawing gives, so that better policies, which solve more, do not train on more."""
COLOURS = {"one-shot": "tab:blue", "iterative": "tab:orange", "online": "tab:green"}
EVERY = ("one-shot", "iterative", "online", "one-shot-plain", "iterative-plain", "online-plain")


@dataclass(frozen=True)
class Run:
    """One run: of which kind, with which seed, and the settings that all share."""

    kind: str
    seed: int
    scale: float
    policy: Path
    work: Path
    name: str = ""

    @property
    def label(self) -> str:
        """The run's folder."""
        return self.name or f"{self.kind}-{self.seed}"

    @property
    def steps(self) -> int:
        """Of each third of the run."""
        return max(1, round(STEPS * self.scale))

    @property
    def curve(self) -> CurveRun:
        """The run as a process."""
        kind = self.kind.removesuffix("-plain")
        rounds, between = {
            "one-shot": (1, 1),
            "iterative": (ROUNDS, 1),
            "online": (ROUNDS * self.steps, self.steps),
        }[kind]
        problems = round(PROBLEMS * self.scale) * ROUNDS
        options = {
            "seed_everything": self.seed,
            "model.network.path": self.policy,
            "model.reference.rounds": between,
            "model.schedule.total_steps": ROUNDS * self.steps,
            "data.seed": self.seed,
            "data.rounds.count": rounds,
            "data.rounds.problems": problems // rounds,
            "data.rounds.batch_pairs": PAIRS,
            "data.rounds.steps": ROUNDS * self.steps // rounds,
            "trainer.max_steps": ROUNDS * self.steps,
            "checkpoint.every_n_train_steps": max(1, self.steps // 2),
        }
        if self.kind.endswith("-plain"):
            options |= {"model.schedule.shape": "constant", "model.loss": "Sigmoid"}
        return CurveRun(self.label, self.work, [CONFIG], options, ("step", ROUNDS * self.steps))

    def points(self) -> list[dict[str, float]]:
        """The probes by step."""
        return self.curve.points()

    def weights(self) -> dict[str, torch.Tensor]:
        """Those of the last checkpoint, of the reference too."""
        return folder.read(recovery.usable(self.work / self.label / "last.ckpt"))["state_dict"]


def told(run: Run) -> str:
    """pass@1 after each probe."""
    each = (f"{p['scurve/accuracy']:.3f} ± {p['scurve/standard_error']:.3f}" for p in run.points())
    flops = run.points()[-1]["scurve/flops"]
    return f"{run.label}: {', '.join(each)}; {flops:.2e} FLOPs"


def sanity(run: Run) -> str:
    """Whether each round rises, and by how much altogether."""
    values = [point["scurve/accuracy"] for point in run.points()]
    rises = all(later > earlier for earlier, later in pairwise(values))
    return (
        f"{run.label}: each round {'rises' if rises else 'DOES NOT rise'}, gain {values[-1] - values[0]:.3f}"
    )


def killed(run: Run) -> None:
    """Kills a run in round 2, resumes it, and compares it with the whole one.

    Raises:
        SystemExit: if they differ.
    """
    whole = Run("iterative", run.seed, run.scale, run.policy, run.work)
    whole.curve.finish()
    wanted, last = f"step-{3 * run.steps // 2:08d}.ckpt", run.work / run.label / "last.ckpt"
    process = run.curve.start()
    while last.resolve().name != wanted and process.poll() is None:
        time.sleep(0.05)
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    print(f"killed after the checkpoint {wanted}")
    run.curve.finish()
    left, right = whole.weights(), run.weights()
    equal = left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)
    print(f"weights of policy and reference at the end: {'equal in every bit' if equal else 'DIFFERENT'}")
    if not equal:
        raise SystemExit(1)


def plot(runs: list[Run], path: Path) -> None:
    """Held-out accuracy against FLOPs: a line for each run, the interval of two standard errors, the mean last."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.2), layout="constrained")
    named = set()
    for run in runs:
        kind, points = run.kind.removesuffix("-plain"), run.points()
        flops = [point["scurve/flops"] for point in points]
        mean = [point["scurve/accuracy"] for point in points]
        error = [2 * point["scurve/standard_error"] for point in points]
        label = None if run.kind in named else run.kind
        named.add(run.kind)
        style = ":" if run.kind.endswith("-plain") else "-"
        axes.errorbar(
            flops, mean, error, color=COLOURS[kind], ls=style, marker=".", capsize=3, lw=1, label=label
        )
    axes.set(
        xlabel="training FLOPs, rollouts included", ylabel="pass@1 on held-out sums (± 2 standard errors)"
    )
    axes.legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    print(f"plot: {path}")


def main() -> None:
    """Runs what is asked for and is not there yet."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kinds", nargs="+", default=EVERY[:3], help=f"of {', '.join(EVERY)}, killed")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--scale", type=float, default=1.0, help="of samples and steps (default: %(default)s)"
    )
    parser.add_argument("--work", type=Path, default=Path("runs/dpo_rounds"), help="default: %(default)s")
    parser.add_argument("--policy", type=Path, default=Path("runs/quickstart/seed-0/model"))
    parser.add_argument("--plot", type=Path, default=Path("docs/images/dpo_rounds.png"))
    chosen = parser.parse_args()
    if not chosen.policy.is_dir():
        raise SystemExit(f"there is no network {chosen.policy}; run `make quickstart`, or give --policy")
    common = (chosen.scale, chosen.policy.absolute(), chosen.work.absolute())
    if "killed" in chosen.kinds:
        killed(Run("iterative", 0, *common, name="killed"))
    runs = [
        Run(kind, seed, *common) for seed in range(chosen.seeds) for kind in chosen.kinds if kind != "killed"
    ]
    for run in runs:
        run.curve.finish()
        print(told(run), flush=True)
    for run in runs:
        if run.kind == "iterative":
            print(sanity(run))
    if runs:
        plot(runs, chosen.plot)


if __name__ == "__main__":
    main()
