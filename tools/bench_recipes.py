"""Every recipe of configs/grpo and configs/ppo at the same compute, from the quickstart's SFT policy: S-curves.

    python tools/bench_recipes.py                      # three seeds of each, table and plot; needs `make quickstart`
    python tools/bench_recipes.py --study parts        # one part changed at a time
    python tools/bench_recipes.py --study staleness    # rollouts 0, 1, 4 and 8 policy versions ahead
    python tools/bench_recipes.py --names cispo rloo --seeds 1 --flops 5e11

All runs end once they have spent so many FLOPs on training, rollouts and scoring included. A run that is there already
is not repeated; one that was stopped goes on. The figures are in docs/recipes.md.
"""

import argparse
from pathlib import Path

from curve_runs import finish_all
from recipes import report
from recipes.studies import STUDIES, runs_of


def main() -> None:
    """Runs what is not there yet, then prints the table and draws the plot."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--study", choices=sorted(STUDIES), default="recipes")
    parser.add_argument("--names", nargs="+", help="only these of the study")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--flops", type=float, default=1.5e12, help="of each run (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time (default: %(default)s)")
    parser.add_argument("--work", type=Path, default=Path("runs/recipes"), help="default: %(default)s")
    parser.add_argument("--policy", type=Path, default=Path("runs/quickstart/seed-0/model"))
    parser.add_argument("--plot", type=Path, help="default: docs/images/STUDY.png")
    chosen = parser.parse_args()
    if not chosen.policy.is_dir():
        raise SystemExit(f"there is no network {chosen.policy}; run `make quickstart`, or give --policy")
    study = STUDIES[chosen.study]
    names = chosen.names or list(study)
    unknown = sorted(set(names) - set(study))
    if unknown:
        raise SystemExit(f"the study {chosen.study} has no {', '.join(unknown)}; it has {', '.join(study)}")
    runs = {
        name: runs_of(
            study[name], name, chosen.seeds, chosen.flops, chosen.policy.absolute(), chosen.work.absolute()
        )
        for name in names
    }
    seed_by_seed = [run for row in zip(*runs.values(), strict=True) for run in row]
    finish_all(seed_by_seed, chosen.jobs)
    print(report.table(runs))
    if chosen.study == "staleness":
        print(report.versions(runs))
    report.plot(runs, chosen.plot or Path(f"docs/images/{chosen.study}.png"))


if __name__ == "__main__":
    main()
