"""What a pretrained network of 260 K parameters learns from real preferences, beside baselines; one CPU core.

    python tools/bench_preferences.py DATA_DIR [--output runs/preferences]

DATA_DIR holds `hh_rlhf/`, `rasbt_instruct/` and `tinystories-llama/`. Reward models from the pretrained network and
from random weights, and DPO of the pretrained network, learn from helpful dialogues; DPO learns from polite answers
too. All figures are of the test split. What a run has measured is kept in the output folder and not measured again
with the same settings. The figures are in docs/real_preferences.md.
"""

import argparse
import logging
import re
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from preferences import baselines, real_data, report, training
from preferences.held_out import HeldOut, by_likelihood, by_reward
from preferences.training import Plan
from tinystories_to_hf import convert
from torch import Tensor

from lit_posttrain.data.sources import Table
from lit_posttrain.networks import NetworkConfig, build

Margins = dict[str, Tensor]
"""By how much the better side of each held-out pair is scored higher, (P,), under the name of what scores."""
MODELS = ("reward", "dpo", "polite", "random")
PENALTIES = (0.0003, 0.001, 0.003, 0.01, 0.03)
BETA = 0.1


class Bench:
    """Measures a thing once.

    Args:
        model: Folder of the pretrained network.
        output: Where what was measured is kept.
    """

    def __init__(self, model: Path, output: Path) -> None:
        self.model, self.output, self.text = model, output, training.chat_text(model)

    def reward(self, name: str, network: NetworkConfig, table: Table, plan: Plan) -> Margins:
        """Of a reward model that starts from `network`."""

        def measured() -> Margins:
            module = training.reward_model(network, self.model, table, plan)
            return {name: self._held_out(table, plan).margins(by_reward(module))}

        return self.once(f"{name} {plan}", measured)

    def dpo(self, name: str, table: Table, plan: Plan) -> Margins:
        """The implicit rewards of a policy, and the likelihoods under the network that it started from."""

        def measured() -> Margins:
            policy = training.dpo_policy(self.model, table, plan, BETA).policy
            held = self._held_out(table, plan)
            start = held.margins(by_likelihood(build(NetworkConfig(path=str(self.model)))))
            after = held.margins(by_likelihood(policy))
            return {name: after - start, "likelihood before training": start}

        return self.once(f"{name} {plan}", measured)

    def baselines(self, name: str, table: Table) -> Margins:
        """Of the longer reply, and of the words with the penalty that is best on the validation split."""

        def measured() -> Margins:
            train, validation, test = (
                real_data.pairs(table, split) for split in ("train", "validation", "test")
            )
            fits = [baselines.BagOfWords.fitted(train, penalty=penalty) for penalty in PENALTIES]
            losses = [report.pair_loss(fit.margins(validation), 1.0) for fit in fits]
            best = min(range(len(fits)), key=losses.__getitem__)
            print(f"bag of words: {len(fits[best].places)} words, penalty {PENALTIES[best]}")
            return {"longer reply": baselines.longer_reply(test), "bag of words": fits[best].margins(test)}

        return self.once(f"{name} baselines", measured)

    def once(self, key: str, measured: Callable[[], Margins]) -> Margins:
        """What is kept under this key, or is measured now."""
        file = self.output / (re.sub(r"[^\w.]+", "_", key).strip("_") + ".pt")
        if not file.exists():
            began = time.process_time()
            torch.save(measured(), file)
            print(f"{key}: {time.process_time() - began:.0f} s of processor time", flush=True)
        return torch.load(file, weights_only=True)

    def _held_out(self, table: Table, plan: Plan) -> HeldOut:
        return HeldOut.of(real_data.pairs(table, "test"), self.text, plan.max_tokens)


def main() -> None:
    """The command line."""
    chosen = _arguments()
    warnings.simplefilter("ignore")
    for noisy in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    torch.set_num_threads(1)
    model = chosen.output / "model"
    if not model.exists():
        convert(chosen.data / "tinystories-llama", model)
    plan = Plan(chosen.steps, chosen.max_tokens, seed=chosen.seed)
    bench = Bench(model, chosen.output)
    helpful = real_data.helpful(chosen.data, chosen.output / "helpful")
    polite = real_data.polite(chosen.data, chosen.output / "polite")
    of_dpo = replace(plan, steps=chosen.dpo_steps, rate=chosen.dpo_rate)
    of_helpful(bench, helpful, plan, of_dpo, [name for name in chosen.models if name != "polite"])
    if "polite" in chosen.models:
        of_polite(bench, polite, replace(plan, steps=chosen.polite_steps))


def of_helpful(bench: Bench, table: Table, plan: Plan, of_dpo: Plan, models: Sequence[str]) -> None:
    """Baselines, reward models and DPO on the helpful dialogues; prints the table as it grows."""
    starts = {
        "reward": ("reward model, pretrained", training.pretrained(bench.model, plan.seed)),
        "random": ("reward model, random weights", training.random_weights(plan.seed)),
    }
    found = bench.baselines("helpful", table)
    for name in models:
        if name in starts:
            found |= bench.reward(*starts[name], table, plan)
        elif name == "dpo":
            found |= bench.dpo("DPO", table, of_dpo)
        report.show("helpful dialogues", found, table)
    if "dpo" in models:
        print(f"\nheld-out loss of DPO {report.pair_loss(found['DPO'], BETA):.3f}", flush=True)


def of_polite(bench: Bench, table: Table, plan: Plan) -> None:
    """Baselines and DPO on the polite answers."""
    found = bench.baselines("polite", table) | bench.dpo("polite DPO", table, plan)
    report.show("polite answers", found, table)
    print(f"\nheld-out loss of DPO {report.pair_loss(found['polite DPO'], BETA):.3f}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, metavar="DATA_DIR")
    parser.add_argument("--output", type=Path, default=Path("runs/preferences"), help="default: %(default)s")
    parser.add_argument("--models", nargs="*", default=MODELS, choices=MODELS)
    parser.add_argument("--seed", type=int, default=0)
    numbers = (
        ("--max-tokens", 256, "the longest sequence"),
        ("--steps", 137, "of reward models, of 32 pairs"),
        ("--dpo-steps", 137, "of DPO on helpful dialogues"),
        ("--polite-steps", 44, "of DPO on polite answers"),
    )
    for name, value, what in numbers:
        parser.add_argument(name, type=int, default=value, help=f"{what} (default: %(default)s)")
    parser.add_argument(
        "--dpo-rate", type=float, default=5e-4, help="on helpful dialogues (default: %(default)s)"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
