"""Kills training at random moments and shows that resuming it gives what no kill would have given.

    python tools/check_kill_resume.py --trials 20

Each method runs once undisturbed. Then every trial starts the same `lit-posttrain fit` in a fresh folder, kills
the process with signal 9 in a chosen phase (every third trial twice), resumes with `--ckpt_path last`, and
compares what is left with the undisturbed run: every tensor and number of the final checkpoint bit by bit,
every batch that was learned from, every point in MLflow, the seconds, and leftovers. By default the processes
are forks of this one, which saves the imports; `--console` starts the installed command and kills it at any
moment. The exit code is 1 if anything differs.
"""

import argparse
import importlib
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):  # before torch; threads do not survive a fork
    os.environ[variable] = "1"
os.environ["PYTHONPATH"] = os.pathsep.join(
    [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
)  # where grading processes find the reward

from kill_resume import compare, trials  # noqa: E402
from kill_resume.announce import Target  # noqa: E402
from kill_resume.experiments import METHODS  # noqa: E402
from kill_resume.plans import Plan, plans  # noqa: E402
from kill_resume.processes import adopt_orphans, forked, wait_for  # noqa: E402

SHOWN = 6
IMPORTED_BEFORE_FORKS = (
    "lit_posttrain.training_cli",
    "lit_posttrain.tracking.sync",
    "mlflow.store.tracking.sqlalchemy_store",
    "transformers.models.llama.modeling_llama",
    "kill_resume.rewards",
)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--methods", default="sft,grpo", help=f"out of {','.join(METHODS)} (default: %(default)s)"
    )
    parser.add_argument("--trials", type=int, default=20, help="trials per method (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the kills (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=1, help="trials at the same time (default: %(default)s)")
    parser.add_argument("--keep", type=Path, help="keep all folders here (default: only those that differ)")
    parser.add_argument("--console", action="store_true", help="run the installed command, not forks")
    parser.add_argument("--no-upload", action="store_true", help="leave MLflow to the sync at the end")
    given = parser.parse_args()
    if unknown := set(given.methods.split(",")) - METHODS.keys():
        parser.error(f"unknown methods {', '.join(sorted(unknown))}; choose out of {', '.join(METHODS)}")
    return given


def empty_store(folder: Path) -> Path:
    """An MLflow store with its tables, made once."""

    def work() -> int:
        from lit_posttrain.tracking.store import Store

        Store("sqlite:///mlflow.db")
        return 0

    if wait_for(forked(work, folder, "store.log")):
        raise RuntimeError((folder / "store.log").read_text())
    return folder / "mlflow.db"


def trial(work: tuple[Plan, Path, Path, bool, trials.Undisturbed]) -> trials.Result:
    """One trial, in a process that is single-threaded."""
    plan, folder, store, upload, truth = work
    adopt_orphans()
    trials.prepare(folder, plan.method, store, upload=upload)
    return trials.run(plan, folder, truth)


def all_trials(given: argparse.Namespace, folder: Path) -> list[trials.Result]:
    """The undisturbed runs, then everything else."""
    store, upload = empty_store(folder), not given.no_upload
    draw, work = random.Random(given.seed), []
    for method in given.methods.split(","):
        home = folder / method
        trials.prepare(home / "undisturbed", method, store, upload=upload)
        truth = trials.undisturbed(home / "undisturbed", method, console=given.console)
        print(f"{method}: undisturbed in {truth.timing.run_s:.1f} s; to be equal: {size(truth)}", flush=True)
        if again := compare.repeated(truth.tracked):
            print(f"      logged more than once at a step, undisturbed: {', '.join(again)}")
        for plan in plans(method, given.trials, truth.timing, draw):
            work.append((plan, home / f"{plan.number:03d}", store, upload, truth))
    results = []
    with multiprocessing.get_context("fork").Pool(given.jobs) as pool:
        for result in pool.imap_unordered(trial, work):
            results.append(result)
            tell(result)
    return results


def size(truth: trials.Undisturbed) -> str:
    """How much is compared in each trial."""
    tensors, points = compare.tensors_in(truth.checkpoint), sum(map(len, truth.tracked.points.values()))
    batches, files = len(truth.segment.batches), len(truth.tracked.texts)
    return f"{tensors} tensors, {points} points, {batches} batches, {files} files in MLflow"


def tell(result: trials.Result) -> None:
    """One line while the trials go on, and what differs."""
    plan, found = result.plan, result.differences
    kills = ", ".join(
        f"{k.phase} {k.occurrence} +{k.delay_s * 1000:.0f} ms" if isinstance(k, Target) else f"{k:.1f} s"
        for k in plan.kills
    )
    verdict = "equal" if not found else f"{len(found)} DIFFERENCES in {result.folder}"
    resumed = f"from step {result.resumed_steps}" if result.resumed_steps else ""
    print(
        f"{plan.method} {plan.number:3d}  {result.kills} kills: {kills}  {resumed}  {verdict}  {result.seconds:.1f} s"
    )
    for line in found[:SHOWN]:
        print(f"      {line}")
    sys.stdout.flush()


def table(results: Sequence[trials.Result]) -> None:
    """Method x phase of the first kill: trials, kills that met a living process, equal, batches done again."""
    print(f"\n{'method':8} {'phase':24} {'trials':>6} {'kills':>6} {'equal':>6} {'redone':>7}")
    rows = sorted({(r.plan.method, r.plan.title) for r in results})
    for method, phase in [*rows, *((m, "all") for m in sorted({m for m, _ in rows}))]:
        mine = [r for r in results if r.plan.method == method and phase in (r.plan.title, "all")]
        equal, redone = sum(not r.differences for r in mine), sum(r.redone for r in mine)
        print(f"{method:8} {phase:24} {len(mine):6d} {sum(r.kills for r in mine):6d} {equal:6d} {redone:7d}")
    off = max((abs(r.clock_error_s) for r in results), default=0.0)
    print(f"\nlargest error of the wall seconds carried over: {off:.3f} s")


def main() -> int:
    """Everything; 1 if a run differs."""
    given, began = arguments(), time.monotonic()
    folder = (given.keep or Path(tempfile.mkdtemp(prefix="kill-resume-"))).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    for module in IMPORTED_BEFORE_FORKS:
        importlib.import_module(module)
    adopt_orphans()
    results = all_trials(given, folder)
    table(results)
    differing = [result.folder for result in results if result.differences]
    if given.keep is None:
        tidy(folder, results)
    kept = f", in {folder}" if given.keep or differing else ""
    print(f"\n{len(results)} trials in {time.monotonic() - began:.0f} s{kept}")
    return int(bool(differing))


def tidy(folder: Path, results: Sequence[trials.Result]) -> None:
    """Removes what nobody will look into: runs that are equal, and everything if all are."""
    equal = [Path(result.folder) for result in results if not result.differences]
    for path in equal if len(equal) < len(results) else [folder]:
        shutil.rmtree(path)


if __name__ == "__main__":
    sys.exit(main())
