"""Our losses of preferences beside those of TRL: `python tools/compare_preferences_with_trl.py [--trl FOLDER]`.

Installs TRL in a temporary folder (on the path of one child process only), lets the loss methods of its trainers and
our classes work on the same log-probs and scores in float32, and prints both losses, their difference and the largest
difference of any entry of the gradient by the tensors, relative to its largest entry. Exit code 1 where they differ by
more than 1e-5, but for the cases that differ on purpose, which come last, with the reason.
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
from trl_preferences.cases import CASES, DIFFERENT, Case, tensors


def computed(case: Case, by: str) -> tuple[float, torch.Tensor]:
    """Loss of one side, and its gradient by the tensor."""
    given = tensors(case.even)
    leaf = given[case.leaf].requires_grad_()
    loss = (case.theirs if by == "trl" else case.ours)(
        given | {"logprobs": given["logprobs"] * given["mask"]}
    )
    return float(loss), torch.autograd.grad(loss, leaf)[0]


def child(folder: Path) -> None:
    """Runs all cases in TRL and keeps what they gave."""
    every = CASES | DIFFERENT
    torch.save({name: computed(case, "trl") for name, case in every.items()}, folder / "trl.pt")


def compare(folder: Path, site: Path) -> bool:
    """Prints the table; whether all is as expected."""
    paths = os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])
    quiet = {"PYTHONPATH": paths, "TRANSFORMERS_VERBOSITY": "error", "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, __file__, "--child", str(folder)]
    subprocess.run(command, check=True, env=os.environ | quiet, stdout=subprocess.DEVNULL)
    results, good = torch.load(folder / "trl.pt"), True
    print(f"| {TRL.replace('==', ' ')} beside | TRL | ours | loss | gradient |\n|---|---|---|---|---|")
    for name, case in (CASES | DIFFERENT).items():
        loss, gradient = results[name]
        own_loss, own_gradient = computed(case, "ours")
        largest = float(gradient.abs().max())
        apart = abs(loss - own_loss), float((gradient - own_gradient).abs().max()) / largest
        print(f"| `{name}` | {loss:.6f} | {own_loss:.6f} | {apart[0]:.1e} | {apart[1]:.1e} |")
        good &= (max(apart) <= TOLERANCE) != (name in DIFFERENT)
    for name, case in DIFFERENT.items():
        print(f"\n`{name}`: {case.why}")
    return good


def main() -> int:
    """Installs, runs both, prints."""
    warnings.filterwarnings("ignore")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trl", type=Path, help="a folder with TRL, instead of installing it")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.child:
        child(chosen.child)
        return 0
    with tempfile.TemporaryDirectory() as name:
        return int(not compare(Path(name), chosen.trl or install(Path(name))))


if __name__ == "__main__":
    sys.exit(main())
