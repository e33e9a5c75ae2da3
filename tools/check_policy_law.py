"""PPO and GRPO on a problem that can be listed: do they reach the policy that theory says they must?

    python tools/check_policy_law.py                      # every case below, three seeds each; then the two tables
    python tools/check_policy_law.py --cases grpo-reward-k1 --betas 0.5 --seeds 1
    python tools/check_policy_law.py --tables             # exact against Monte-Carlo gradients alone, seconds

A random network writes sequences of at most three of four tokens (85 of them), each with a fixed random reward. With a
KL to the start of weight beta the best policy is pi* = pi_ref exp(r / beta) / Z. The real modules learn through the
real loop; at the end the probability of every sequence is computed, and its total variation to pi* printed. Exit code
1 where a case that must reach pi* stays 0.02 or more away, or the reference has changed.

Cases are METHOD-PLACE-ESTIMATOR. k1 in the reward and k2 over the sequence in the loss must reach pi*; k3 over the
sequence in the loss must reach its own optimum beta pi_ref / (lambda - r) instead; k1 in the loss feels no pull.
`grpo-reward-k1-constant` keeps beta at its value from the start, where others come down to it from 2 in the first 70 %
of the steps.
What has been run is kept in the work folder and not run again.
"""

import argparse
import json
import sys
import time
import warnings
from pathlib import Path

import torch
from policy_law import gradients
from policy_law.learning import CASES, Law, Outcome, learn

MUST_REACH = ("grpo-reward-k1", "ppo-reward-k1", "grpo-loss-k2", "ppo-loss-k2")
LIMIT = 0.02


def main() -> None:
    """Runs what is asked for and not there yet."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES), metavar="CASE")
    parser.add_argument("--betas", nargs="+", type=float, default=[0.5, 0.1])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=1000, help="rollouts of each run (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=1024, help="completions a step (default: %(default)s)")
    parser.add_argument("--work", type=Path, default=Path("runs/policy_law"), help="default: %(default)s")
    parser.add_argument("--tables", action="store_true", help="only the gradients")
    chosen = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    print(gradients.table(), flush=True)
    if chosen.tables:
        return
    chosen.work.mkdir(parents=True, exist_ok=True)
    failed = False
    for case in chosen.cases:
        for beta in chosen.betas:
            found = [
                kept(Law(case, beta, seed, chosen.steps, chosen.batch), chosen.work)
                for seed in range(chosen.seeds)
            ]
            told = ", ".join(f"{one.to_best:.4f}" for one in found)
            other = ", ".join(f"{one.to_forward:.4f}" for one in found)
            print(
                f"{case:24} beta {beta}: TV to pi* {told}; to beta pi_ref/(lambda - r) {other}; start "
                f"{found[0].start:.3f}; {sum(one.seconds for one in found):.0f} s",
                flush=True,
            )
            late = case in MUST_REACH and max(one.to_best for one in found) >= LIMIT
            failed |= late or not all(one.reference_untouched for one in found)
    sys.exit(int(failed))


def kept(law: Law, work: Path) -> Outcome:
    """The outcome of a run, made once."""
    path = work / f"{law.label}.json"
    if not path.exists():
        began = time.perf_counter()
        outcome = learn(law)
        path.write_text(json.dumps(vars(outcome) | {"seconds": time.perf_counter() - began}))
    return Outcome(**json.loads(path.read_text()))


if __name__ == "__main__":
    main()
