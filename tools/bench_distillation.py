"""What distillation and expert iteration bring, in three small experiments on the CPU.

    python tools/bench_distillation.py                    # all of them; the last two need `make quickstart`
    python tools/bench_distillation.py reasoning          # a teacher's kept reasoning against answers only
    python tools/bench_distillation.py rounds             # three rounds of expert iteration
    python tools/bench_distillation.py killed             # killed in round 2, resumed: the same run

`killed` compares with the run that `rounds` leaves in the work folder. The figures are in docs/distillation.md.
"""

import argparse
import logging
import shutil
import time
import warnings
from pathlib import Path

from distillation import reasoning, rounds

EXPERIMENTS = ("reasoning", "rounds", "killed")


def main() -> None:
    """Runs the experiments asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("experiments", nargs="*", default=EXPERIMENTS, help=", ".join(EXPERIMENTS))
    parser.add_argument("--work", type=Path, default=Path("runs/distillation"), help="default: %(default)s")
    parser.add_argument("--policy", type=Path, default=Path("runs/quickstart/seed-0/model"))
    parser.add_argument("--seeds", type=int, default=3, help="students of each kind (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=1200, help="of a taught student (default: %(default)s)")
    chosen = parser.parse_args()
    warnings.simplefilter("ignore")
    for noisy in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    for name in chosen.experiments:
        began = time.monotonic()
        print(f"== {name}", flush=True)
        run(name, chosen)
        print(f"{time.monotonic() - began:.0f} s", flush=True)


def run(name: str, chosen: argparse.Namespace) -> None:
    """One experiment, in a folder that is emptied first."""
    if name not in EXPERIMENTS:
        raise SystemExit(f"there is no experiment {name!r}; choose from {', '.join(EXPERIMENTS)}")
    if name != "reasoning" and not chosen.policy.is_dir():
        print(f"left out: there is no network {chosen.policy}; run `make quickstart`, or give --policy")
        return
    work = (chosen.work / ("reasoning" if name == "reasoning" else "rounds")).absolute()
    if name != "killed":
        shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True, exist_ok=True)
    if name == "reasoning":
        reasoning.run(work, seeds=chosen.seeds, steps=chosen.steps)
    elif name == "rounds":
        rounds.improvement(work, chosen.policy.absolute())
    else:
        rounds.kill_and_resume(work, chosen.policy.absolute())


if __name__ == "__main__":
    main()
