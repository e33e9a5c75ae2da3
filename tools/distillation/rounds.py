"""Expert iteration of the quickstart's network: what three rounds bring, and that a killed run goes on as itself."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch

from lit_posttrain.checkpoints import folder, recovery

CONFIG = "configs/sft/expert_iteration.yaml"
PATIENCE_S = 3600.0


def fit(work: Path, name: str, policy: Path, *more: str) -> subprocess.Popen[bytes]:
    """Starts the shipped experiment as a process of its own, with checkpoints every 50 steps."""
    command = [sys.executable, "-m", "lit_posttrain", "fit", "--config", CONFIG]
    command += ["--model.network.path", str(policy), "--checkpoint.dirpath", str(work / name)]
    command += [
        "--checkpoint.every_n_train_steps",
        "50",
        "--trainer.logger.init_args.root",
        str(work / "runs"),
    ]
    command += [
        "--trainer.logger.init_args.run_name",
        name,
        "--trainer.logger.init_args.upload",
        "false",
        *more,
    ]
    with (work / f"{name}.log").open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)


def points(work: Path, name: str) -> list[dict[str, float]]:
    """The probes of a run, by step."""
    (journal,) = (work / "runs").glob(f"*/{name}/journal.jsonl")
    records = [json.loads(line) for line in journal.read_text().splitlines()]
    found = {r["step"]: r["values"] for r in records if "scurve/accuracy" in r.get("values", {})}
    return [{"step": step, **found[step]} for step in sorted(found)]


def finished(process: subprocess.Popen[bytes], work: Path, name: str) -> None:
    """Waits for the end of a run that should succeed."""
    if process.wait(PATIENCE_S) != 0:
        raise RuntimeError(f"the run {name} failed; see {work / name}.log")


def weights(work: Path, name: str) -> dict[str, torch.Tensor]:
    """Those of the last checkpoint of a run."""
    return folder.read(recovery.usable(work / name / "last.ckpt"))["state_dict"]


def improvement(work: Path, policy: Path) -> None:
    """Runs it whole and prints pass@1 before and after each round."""
    finished(fit(work, "whole", policy), work, "whole")
    told = points(work, "whole")
    for point in told:
        print(
            f"step {point['step']}: pass@1 {point['scurve/accuracy']:.4f} ± {point['scurve/standard_error']:.4f}"
        )
    first, last = told[0], told[-1]
    gain = last["scurve/accuracy"] - first["scurve/accuracy"]
    error = (first["scurve/standard_error"] ** 2 + last["scurve/standard_error"] ** 2) ** 0.5
    print(f"gain {gain:.4f} = {gain / error:.1f} standard errors (taken as independent)")


def kill_and_resume(work: Path, policy: Path, at_step: int = 200) -> None:
    """Kills a run in round 2 as soon as the checkpoint of `at_step` is there, resumes it, compares with `whole`."""
    process = fit(work, "killed", policy)
    wanted, deadline = work / "killed" / f"step-{at_step:08d}.ckpt", time.monotonic() + PATIENCE_S
    while not (wanted / "manifest.json").exists():
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"the run ended before step {at_step}; see {work / 'killed'}.log")
        time.sleep(0.05)
    time.sleep(1.0)  # into the steps after the checkpoint
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    print(f"killed after the checkpoint of step {at_step}, in round {at_step // 150 + 1}")
    finished(fit(work, "killed", policy, "--ckpt_path", "last"), work, "killed")
    left, right = weights(work, "whole"), weights(work, "killed")
    equal = left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)
    names = (
        "step",
        "scurve/accuracy",
        "scurve/standard_error",
        "scurve/tokens_trained",
        "scurve/tokens_generated",
    )
    told = [[[point[name] for name in names] for point in points(work, run)] for run in ("whole", "killed")]
    print(f"weights of the last step: {'equal in every bit' if equal else 'DIFFERENT'}")
    print(f"probes, tokens drawn and trained: {'equal' if told[0] == told[1] else f'DIFFERENT: {told}'}")
    if not equal or told[0] != told[1]:
        raise SystemExit(1)
