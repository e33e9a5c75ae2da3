"""A real model on real data: SFT on instructions, GRPO on a verifiable text constraint, and what came of both.

    python tools/real_model.py DATA_DIR [--output runs/tinystories]

DATA_DIR holds `tinystories-llama/` (stories260K.bin, tok512.bin) and `rasbt_instruct/`
(instruction_data.jsonl.gz). Both trainings start from the converted model, run through the command line, and
are not run again where their exported model is there already. All figures are of the test split, whose
instructions and words are in neither training nor validation.
"""

import argparse
import json
import shutil
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml
from tinystories_to_hf import convert
from torch import Tensor

from lit_posttrain.batches import Answer, Problem, PromptBatch, Sampling, TokenBatch
from lit_posttrain.cli import main as lit_posttrain
from lit_posttrain.contracts import ProblemSource
from lit_posttrain.data import ChatData
from lit_posttrain.data.sources import Table, WordPrompts
from lit_posttrain.graders import MustContain
from lit_posttrain.ledger import Ledger
from lit_posttrain.networks import NetworkConfig, build, token_logprobs
from lit_posttrain.rollouts import TorchEngine, draw, to_experience
from lit_posttrain.rollouts.collect import rewards
from lit_posttrain.text import ChatText, load_text

CONFIGS = Path(__file__).parents[1] / "configs"
INSTRUCTIONS = Path("rasbt_instruct", "instruction_data.jsonl.gz")
STORY = Sampling(temperature=1.0, max_new_tokens=60)
ANSWER = Sampling(temperature=0.0, max_new_tokens=60)


@dataclass(frozen=True)
class Said:
    """A policy's answers to P prompts, G each, and tensors (P, G): reward, and nats per token under two models.

    `start_nats` is the mean log-likelihood of the answer's tokens under the starting model, `own_nats` under the
    policy that drew them; the mean of `own_nats - start_nats` estimates the KL to the start per token.
    """

    answers: list[list[Answer]]
    rewards: Tensor
    start_nats: Tensor
    own_nats: Tensor

    def mentions(self) -> float:
        """How often answers that mention their word say it; a policy that babbles says it again and again."""
        counts = [a.completion.text.lower().count(a.problem.reference[0]) for g in self.answers for a in g]
        return sum(counts) / max(1, sum(count > 0 for count in counts))

    def variety(self) -> float:
        """The share of an answer's words that are different from each other, mean over answers."""
        words = [answer.completion.text.lower().split() for group in self.answers for answer in group]
        return sum(len(set(each)) / max(1, len(each)) for each in words) / len(words)


def say(model: Path, start: Path, text: ChatText, problems: Sequence[Problem], how: Sampling, n: int) -> Said:
    """`n` answers to each problem, drawn with the same keys whatever the model."""
    policy, origin = (build(NetworkConfig(path=str(path))).eval() for path in (model, start))
    ledger = Ledger()
    engine = TorchEngine(policy, text, ledger)
    prompts = PromptBatch(list(problems), [text.prompt_ids(problem.messages) for problem in problems])
    with torch.no_grad():
        answers = draw(engine, MustContain(), prompts, sampling=how, n=n, seed=0, ledger=ledger)
        nothing = torch.zeros(len(problems), n)
        batch = to_experience(
            answers, prompts.prompt_ids, nothing, temperature=1.0, policy_version=0, pad_id=text.pad_id
        )
        likelihoods = [token_logprobs(origin, batch), batch.sampled_logprobs]
    nats = [(each.sum(dim=1) / batch.mask.sum(dim=1)).view_as(nothing) for each in likelihoods]
    return Said(answers, rewards(answers)[0], *nats)


def answer_loss(model: Path, text: ChatText, source: ProblemSource) -> float:
    """Nats per token of the test answers, their end tokens included."""
    network = build(NetworkConfig(path=str(model))).eval()
    batches: list[TokenBatch] = list(ChatData(source, text=text, validation_split="test").val_dataloader())  # type: ignore[arg-type]
    with torch.no_grad():
        total = sum(float(token_logprobs(network, batch).sum()) for batch in batches)
    return -total / sum(int(batch.mask.sum()) for batch in batches)


def train(config: str, checkpoint: str, data: Path, output: Path) -> Path:
    """`fit` and `export` with this run's paths in the config, unless that is done; the exported folder."""
    name = Path(config).parent.name
    exported, written = output / f"{name}-model", output / f"{name}.yaml"
    if exported.exists():
        return exported
    content = json.dumps(yaml.safe_load((CONFIGS / config).read_text()))
    for old, new in (("runs/tinystories", output), ("data/rasbt_instruct", data / INSTRUCTIONS.parent)):
        content = content.replace(old, json.dumps(str(new))[1:-1])
    written.write_text(yaml.safe_dump(json.loads(content), sort_keys=False))
    shutil.rmtree(output / name, ignore_errors=True)  # what an interrupted run has left
    for command in (
        ["fit", "--config", str(written)],
        ["export", str(output / name / checkpoint), str(exported)],
    ):
        print("lit-posttrain", *command, flush=True)
        if status := lit_posttrain(command):
            sys.exit(status)
    return exported


def word_table(before: Said, after: Said) -> str:
    """Means over the held-out prompts; the standard errors are of the difference, over prompts and over words."""
    rise = (after.rewards - before.rewards).mean(dim=1)
    words = defaultdict(list)
    for group, value in zip(before.answers, rise.tolist(), strict=True):
        words[group[0].problem.reference[0]].append(value)
    per_word = torch.tensor([sum(values) / len(values) for values in words.values()])
    errors = [float(values.std() / len(values) ** 0.5) for values in (rise, per_word)]
    rows = [f"| mean reward | {before.rewards.mean():.3f} | {after.rewards.mean():.3f} |"]
    for label, name in (("the starting model", "start_nats"), ("the policy itself", "own_nats")):
        values = (getattr(said, name).mean() for said in (before, after))
        rows.append("| log-likelihood under " + label + ", nats/token | {:.3f} | {:.3f} |".format(*values))
    rows.append(f"| mentions per answer that has one | {before.mentions():.2f} | {after.mentions():.2f} |")
    rows.append(f"| different words / words | {before.variety():.3f} | {after.variety():.3f} |")
    rise_line = (
        f"Reward rises by {rise.mean():.3f}; standard error {errors[0]:.3f} over {len(rise)} prompts, "
        f"{errors[1]:.3f} over {len(per_word)} words."
    )
    return "\n".join(["| | before | after |", "|---|---|---|", *rows, "", rise_line])


def samples(before: Said, after: Said, count: int) -> str:
    """First answers of the first prompts: nats per token under the starting model, whether it holds the reference."""
    lines = []
    for index in range(count):
        lines.append(f"\n> {before.answers[index][0].problem.messages[-1]['content']!r}")
        for label, said in (("before", before), ("after", after)):
            answer, nats = said.answers[index][0], float(said.start_nats[index, 0])
            lines.append(f"{label:6} {nats:6.2f}  {answer.grade.verdict.value:9} {answer.completion.text!r}")
    return "\n".join(lines)


def report_sft(start: Path, taught: Path, source: ProblemSource, show: int) -> None:
    """Prints the held-out loss before and after, and greedy answers."""
    text = load_text(taught)
    losses = [answer_loss(model, text, source) for model in (start, taught)]
    problems = source.problems("test")
    before, after = (say(model, start, text, problems[:show], ANSWER, 1) for model in (start, taught))
    print(f"\n## SFT: answers to {len(problems)} held-out instructions\n")
    print("| | before | after | fall |\n|---|---|---|---|")
    print(f"| loss, nats/token | {losses[0]:.3f} | {losses[1]:.3f} | {1 - losses[1] / losses[0]:.1%} |")
    print(samples(before, after, show))


def report_grpo(start: Path, improved: Path, n: int, show: int) -> None:
    """Prints reward and likelihood before and after, on words that no training prompt has."""
    problems, text = WordPrompts().problems("test"), load_text(start)
    before, after = (say(model, start, text, problems, STORY, n) for model in (start, improved))
    print(f"\n## GRPO: {len(problems)} held-out prompts, {n} samples of each\n")
    print(word_table(before, after))
    print(samples(before, after, show))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="SFT and GRPO of a real pretrained model, with figures before and after."
    )
    parser.add_argument(
        "data", type=Path, metavar="DATA_DIR", help="has tinystories-llama/ and rasbt_instruct/"
    )
    parser.add_argument("--output", type=Path, default=Path("runs/tinystories"), help="default: %(default)s")
    parser.add_argument(
        "--samples", type=int, default=4, help="of each held-out prompt (default: %(default)s)"
    )
    parser.add_argument(
        "--show", type=int, default=6, help="prompts whose answers are shown (default: %(default)s)"
    )
    chosen = parser.parse_args()
    start = chosen.output / "model"
    if not start.exists():
        convert(chosen.data / "tinystories-llama", start)
    taught = train("sft/tinystories_instruct.yaml", "best.ckpt", chosen.data, chosen.output)
    improved = train("grpo/tinystories_words.yaml", "last.ckpt", chosen.data, chosen.output)
    table = Table(str(chosen.data / INSTRUCTIONS), held_out_share=0.1)
    report_sft(start, taught, table, chosen.show)
    report_grpo(start, improved, chosen.samples, chosen.show)


if __name__ == "__main__":
    main()
