"""Reinforcement learning on programs, end to end: what it brings, what grading costs, and what killed servers change.

    python tools/bench_code_rl.py                          # two seeds, each also with servers killed every 10 s
    python tools/bench_code_rl.py --seeds 3 --kill-every 2

A random network is taught to write one-line functions (configs/sft/tiny_programs.yaml) and goes on by GRPO on hidden
tests (configs/grpo/tiny_programs.yaml). Then the GRPO run is repeated while its fork servers are killed: all of it
but the clocks is deterministic, so one lost or zeroed sample would give other numbers.
"""

import argparse
import shutil
import time
from pathlib import Path
from statistics import mean

import torch
from code_rl.fits import GRPO, SFT, Fit, Values, export
from code_rl.kills import kill_servers_of

ACCURACY, ERROR = "scurve/accuracy", "scurve/standard_error"
PHASES = ("rollout", "grading", "update")
LOST = ("grading/sandbox_error_fraction", "grading/grader_error_fraction", "grading/grader_timeout_fraction")


def main() -> None:
    """Runs all seeds and prints a few lines on each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, default=Path("runs/code_rl"), help="default: %(default)s")
    parser.add_argument("--seeds", type=int, default=2, help="default: %(default)s")
    parser.add_argument("--kill-every", type=float, default=10.0, help="seconds; 0 for no such runs")
    parser.add_argument("--steps", type=int, help="of GRPO; default: those of the config")
    chosen = parser.parse_args()
    shutil.rmtree(chosen.work, ignore_errors=True)
    chosen.work.mkdir(parents=True)
    gains = [one_seed(chosen.work.absolute(), seed, chosen) for seed in range(chosen.seeds)]
    print(f"gain over {len(gains)} seeds: mean {mean(gains):.3f}, least {min(gains):.3f}")


def one_seed(work: Path, seed: int, chosen: argparse.Namespace) -> float:
    """SFT, GRPO, and GRPO with kills; returns what GRPO brought on held-out tasks."""
    seeds = ["--seed_everything", str(seed), "--data.seed", str(seed)]
    sft = Fit(work, f"sft-{seed}", SFT, [*seeds, "--model.network.seed", str(seed)])
    sft.check(sft.start())
    model = work / f"model-{seed}"
    export(sft, model)
    settings = [*seeds, "--model.seed", str(seed), "--model.network.path", str(model)]
    if chosen.steps:
        settings += ["--trainer.max_steps", str(chosen.steps)]
    whole = Fit(work, f"grpo-{seed}", GRPO, settings)
    began = time.monotonic()
    whole.check(whole.start())
    gain = tell(whole, seed, time.monotonic() - began)
    if chosen.kill_every:
        disturb(whole, Fit(work, f"killed-{seed}", GRPO, settings), chosen.kill_every)
    return gain


def tell(run: Fit, seed: int, seconds: float) -> float:
    """Prints accuracy before and after, the cost of a step and the verdicts; returns the gain in accuracy."""
    probes = [values for _, values in run.with_metric(ACCURACY)]
    first, last = probes[0], probes[-1]
    gain = last[ACCURACY] - first[ACCURACY]
    error = (first[ERROR] ** 2 + last[ERROR] ** 2) ** 0.5
    print(
        f"seed {seed}: held-out pass@1 {first[ACCURACY]:.3f} ± {first[ERROR]:.3f} → "
        f"{last[ACCURACY]:.3f} ± {last[ERROR]:.3f}, gain {gain:.3f} = {gain / error:.1f} standard errors",
        flush=True,
    )
    step, clocks = run.with_metric("time/device_seconds")[-1]
    share = {name: clocks[f"time/{name}_seconds"] / clocks["time/device_seconds"] for name in PHASES}
    print(
        f"  {step} steps, {clocks['time/device_seconds'] / step:.2f} s each; "
        + ", ".join(f"{name} {value:.1%}" for name, value in share.items())
        + f"; {seconds:.0f} s with start and probes"
    )
    rollouts = [values for _, values in run.with_metric("grading/sandbox_error_fraction")]
    print(f"  verdicts of the first rollouts: {verdicts(rollouts[:10])}")
    print(f"  verdicts of the last rollouts:  {verdicts(rollouts[-10:])}", flush=True)
    return gain


def verdicts(rollouts: list[Values]) -> str:
    """Their mean shares, largest first."""
    names = {name for values in rollouts for name in values if name.startswith("grading/")}
    shares = {name: mean(values.get(name, 0.0) for values in rollouts) for name in names}
    told = sorted((name for name in names if shares[name]), key=lambda name: -shares[name])
    return ", ".join(f"{n.removeprefix('grading/').removesuffix('_fraction')} {shares[n]:.3f}" for n in told)


def disturb(whole: Fit, killed: Fit, every_s: float) -> None:
    """The same run while its servers are killed; prints whether anything came out differently.

    Raises:
        SystemExit: if so.
    """
    process = killed.start()
    kills = kill_servers_of(process, every_s)
    killed.check(process)
    rollouts = [values for _, values in killed.with_metric(LOST[0])]
    lost = max(max(values[name] for name in LOST) for values in rollouts)
    left, right = whole.weights(), killed.weights()
    same_weights = left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)
    same_numbers = whole.numbers() == killed.numbers()
    print(
        f"  killed {kills.rounds} times ({kills.servers} servers, {kills.with_program} of them with a program "
        f"running): largest share of lost samples {lost:g}; weights {said(same_weights)}; "
        f"logged numbers {said(same_numbers)}",
        flush=True,
    )
    if lost or not same_weights or not same_numbers or not kills.rounds:
        raise SystemExit(1)


def said(is_equal: bool) -> str:
    """For people."""
    return "equal bit for bit" if is_equal else "DIFFERENT"


if __name__ == "__main__":
    main()
