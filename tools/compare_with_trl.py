"""Our SFT beside TRL's on the same rows and weights: `python tools/compare_with_trl.py [--trl FOLDER]`.

Installs TRL in a temporary folder (on the path of one child process only, so that nothing of ours changes), lets its
SFTTrainer and our SFTModule each take the gradient of one optimiser step of a small random Llama, and prints the loss
of both, and the largest difference of any entry of the gradient relative to the largest entry. The step holds all rows,
so that order does not matter. Exit code 1 where they differ by more than 1e-5, but for the cases that differ on
purpose, which come last, with the reason.
"""

import argparse
import contextlib
import io
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
import transformers
from trl_comparison.cases import CASES, DIFFERENT, make_models
from trl_comparison.sides import ours, predicted, theirs

TRL = "trl==1.16.0"
TOLERANCE = 1e-5


def child(models: Path, folder: Path) -> None:
    """Runs all cases in TRL and keeps what they gave."""
    every = CASES | DIFFERENT
    torch.save(
        {name: theirs(case, models, folder / "trl") for name, case in every.items()}, folder / "trl.pt"
    )


def difference(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> float:
    """The largest difference of any entry, relative to the largest entry."""
    names = one.keys() & other.keys()
    assert len(names) >= len(one) - 1, "the two have parameters of other names"
    largest = max(float(one[name].abs().max()) for name in names)
    return max(float((one[name] - other[name]).abs().max()) for name in names) / largest


def install(folder: Path) -> Path:
    """TRL without what it depends on, which is here already."""
    place = folder / "site"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*command, "--target", str(place), TRL], check=True)
    return place


def compare(models: Path, folder: Path, site: Path) -> bool:
    """Prints the table; whether all is as expected."""
    paths = os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])
    quiet = {"PYTHONPATH": paths, "TRANSFORMERS_VERBOSITY": "error", "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, __file__, "--child", str(models), str(folder)]
    subprocess.run(command, check=True, env=os.environ | quiet, stdout=subprocess.DEVNULL)
    results = torch.load(folder / "trl.pt")
    good = True
    print(f"{'case':<32}{'TRL':>10}{'ours':>10}{'loss':>10}{'gradient':>10}{'tokens TRL / ours':>20}")
    for name, case in (CASES | DIFFERENT).items():
        loss, gradients, divisor = results[name]
        with contextlib.redirect_stdout(io.StringIO()):
            own_loss, own_gradients = ours(case, models, folder)
        apart = abs(loss - own_loss), difference(own_gradients, gradients)
        tokens = f"{divisor} / {predicted(case, models)}"
        print(f"{name:<32}{loss:>10.6f}{own_loss:>10.6f}{apart[0]:>10.1e}{apart[1]:>10.1e}{tokens:>20}")
        good &= max(apart) <= TOLERANCE or name in DIFFERENT
    for name, case in DIFFERENT.items():
        print(f"{name}: {case['why']}")
    return good


def main() -> int:
    """Installs, runs both, prints."""
    warnings.filterwarnings("ignore")
    transformers.utils.logging.disable_progress_bar()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trl", type=Path, help="a folder with TRL, instead of installing it")
    parser.add_argument("--child", nargs=2, type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.child:
        child(*chosen.child)
        return 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_models(folder / "models")
        return int(not compare(folder / "models", folder, chosen.trl or install(folder)))


if __name__ == "__main__":
    sys.exit(main())
