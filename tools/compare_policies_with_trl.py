"""Our policy losses beside those of TRL: `python tools/compare_policies_with_trl.py [--trl FOLDER] [--ppo FOLDER]`.

Installs TRL in a temporary folder (on the path of one child process only), and the last version that had a PPOTrainer
in another; lets its trainers and our parts go from the same rewards and log-probs to a loss in float32, and prints both
losses, their difference and the largest difference of any entry of the gradient by log-probs, entropies and values,
relative to the largest entry of its kind. Exit code 1 where they differ by more than 1e-5, but for the cases that
differ on purpose, which come last, with the reason.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import torch
from compare_with_trl import TOLERANCE, TRL, install
from trl_policies.cases import CASES, LAST_WITH_PPO, Case
from trl_policies.different import DIFFERENT
from trl_policies.tensors import tensors

EVERY = CASES | DIFFERENT


def computed(case: Case, by: str) -> tuple[float, torch.Tensor]:
    """Loss of one side, and its gradient (3, 24, 12) by log-probs, entropies and values."""
    given = tensors(**case.given)
    given["leaf"].requires_grad_()
    loss = (case.theirs if by == "trl" else case.ours)(given)
    return float(loss), torch.autograd.grad(loss, given["leaf"])[0]


def child(folder: Path, package: str) -> None:
    """Runs the cases of one version of TRL and keeps what they gave."""
    cases = {name: case for name, case in EVERY.items() if case.package == package}
    torch.save({name: computed(case, "trl") for name, case in cases.items()}, folder / f"{package}.pt")


def run(folder: Path, site: Path, package: str) -> dict[str, tuple[float, torch.Tensor]]:
    """What one version of TRL gives, with it on the path of a process of its own."""
    paths = os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])
    quiet = {"TRANSFORMERS_VERBOSITY": "error", "PYTHONWARNINGS": "ignore", "TRL_EXPERIMENTAL_SILENCE": "1"}
    command = [sys.executable, __file__, "--child", str(folder), package]
    environment = os.environ | quiet | {"PYTHONPATH": paths}
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
    return torch.load(folder / f"{package}.pt")


def apart(one: torch.Tensor, other: torch.Tensor, policy_only: bool) -> float:
    """The largest difference of any entry (3, 24, 12), relative to the largest entry of either in its kind."""
    largest = torch.maximum(one.abs(), other.abs()).amax(dim=(1, 2))
    relative = (one - other).abs().amax(dim=(1, 2)) / largest.clamp(min=1e-30)
    return float(relative[0] if policy_only else relative.max())


def compare(results: dict[str, tuple[float, torch.Tensor]]) -> bool:
    """Prints the table; whether all is as expected."""
    good = True
    versions = f"{TRL}, PPO {LAST_WITH_PPO}".replace("==", " ")
    print(f"| {versions}, beside ours | TRL | ours | loss | gradient |\n|---|---|---|---|---|")
    for name, case in EVERY.items():
        loss, gradient = results[name]
        own_loss, own_gradient = computed(case, "ours")
        gradients = apart(gradient, own_gradient, case.policy_only)
        losses = 0.0 if case.policy_only else abs(loss - own_loss)
        told = "-" if case.policy_only else f"{losses:.1e}"
        print(f"| `{name}` | {loss:.6f} | {own_loss:.6f} | {told} | {gradients:.1e} |")
        good &= (max(losses, gradients) <= TOLERANCE) != (name in DIFFERENT)
    for name, case in DIFFERENT.items():
        print(f"\n`{name}`: {case.why}")
    return good


def place_older(folder: Path) -> Path:
    """The last TRL with a PPOTrainer, without what it depends on, which is here already."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*command, "--target", str(folder / "older"), LAST_WITH_PPO], check=True)
    return folder / "older"


def main() -> int:
    """Installs, runs both, prints."""
    warnings.filterwarnings("ignore")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trl", type=Path, help="a folder with TRL, instead of installing it")
    parser.add_argument("--ppo", type=Path, help="a folder with the last TRL that had a PPOTrainer, the same")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.child:
        child(Path(chosen.child[0]), chosen.child[1])
        return 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        results = run(folder, chosen.trl or install(folder), TRL)
        results |= run(folder, chosen.ppo or place_older(folder), LAST_WITH_PPO)
        return int(not compare(results))


if __name__ == "__main__":
    sys.exit(main())
