"""A training run without a network: each step makes a scripted policy right a little more often."""

import warnings
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import Logger

from lit_posttrain.batches import Completion, Grade, Problem, PromptBatch, Sampling, StopReason, Verdict
from lit_posttrain.contracts import Grader, PromptSource, RolloutEngine
from lit_posttrain.keys import digest
from lit_posttrain.ledger import Ledger

LEARNING = 0.125
FLOPS_OF_A_STEP = 1000.0
FLOPS_OF_A_TOKEN = 10.0


class Policy(torch.nn.Module):
    """`skill` is the chance of a right answer."""

    def __init__(self) -> None:
        super().__init__()
        self.skill = torch.nn.Parameter(torch.zeros(()))
        self.dropout = torch.nn.Dropout(0.5)
        self.frozen = torch.nn.Dropout(0.5).eval()


class ScriptedEngine(RolloutEngine):
    """Answers `yes` where a number fixed by (problem, sample) is below the policy's skill."""

    def __init__(self, policy: Policy, ledger: Ledger) -> None:
        self.policy, self.ledger = policy, ledger
        self.modes: list[bool] = []
        self.calls: list[int] = []

    def generate(self, requests, finished=None):
        self.modes.append(self.policy.dropout.training or torch.is_grad_enabled())
        self.calls.append(len(requests))
        return [[self._answer(request, i) for i in range(request.n)] for request in requests]

    def _answer(self, request, sample):
        self.ledger.add(flops=FLOPS_OF_A_TOKEN, generated_tokens=1, positions=1)
        is_right = threshold(request.key.uid, sample) < float(self.policy.skill)
        text = "yes" if is_right else "no"
        return Completion(torch.tensor([int(is_right)]), torch.tensor([-0.5]), StopReason.EOS, text)


def threshold(uid: str, sample: int) -> float:
    """In [0, 1), fixed for a sample of a problem."""
    return (digest(uid, sample) % 10_000) / 10_000


class YesGrader(Grader):
    """`yes` is right; the answers to problems named `broken…` cannot be graded."""

    def grade(self, items):
        return [self._one(problem, completion) for problem, completion in items]

    def _one(self, problem, completion):
        if problem.uid.startswith("broken"):
            return Grade(None, None, Verdict.GRADER_ERROR)
        is_right = completion.text == "yes"
        verdict = Verdict.CORRECT if is_right else Verdict.INCORRECT
        return Grade(float(is_right), is_right, verdict, answer_key=completion.text)


class Questions(PromptSource):
    """Prompts of given uids, in batches of 3."""

    def __init__(self, uids: list[str]) -> None:
        self.uids = uids
        self.seen_text: Any = None

    def setup_probe(self, text, split):
        self.seen_text = text

    def probe_batches(self, split):
        for start in range(0, len(self.uids), 3):
            uids = self.uids[start : start + 3]
            problems = [Problem(({"role": "user", "content": uid},), "yes", uid, "test") for uid in uids]
            yield PromptBatch(problems, [[1, 2, len(uid)] for uid in uids])


class Steps:
    """A sized loader that can be resumed; yields the number of the batch."""

    def __init__(self, length: int, on_fetch=None) -> None:
        self.length, self.position, self.on_fetch = length, 0, on_fetch
        self.given: list[int] = []

    def __len__(self) -> int:
        return self.length

    def __iter__(self):
        if self.position >= self.length:
            self.position = 0
        while self.position < self.length:
            self.position += 1
            if self.on_fetch is not None:
                self.on_fetch()
            self.given.append(self.position)
            yield torch.tensor(self.position)

    def state_dict(self):
        return {"position": self.position}

    def load_state_dict(self, state):
        self.position = state["position"]


class ScriptedMethod(pl.LightningModule):
    """Raises the skill by `LEARNING` a step."""

    def __init__(self, batches: int = 8, *, accumulate: int = 1, fail_at: int | None = None) -> None:
        super().__init__()
        self.policy = Policy()
        self.ledger = Ledger()
        self.engine = ScriptedEngine(self.policy, self.ledger)
        self.text = "the text"
        self.grader, self.sampling = YesGrader(), Sampling(max_new_tokens=1)
        self.steps = Steps(batches)
        self.fail_at = fail_at
        self.trained: list[int] = []
        self.accumulate = accumulate

    def training_step(self, batch, batch_idx):
        if self.fail_at is not None and int(batch) == self.fail_at:
            raise KeyboardInterrupt
        self.trained.append(int(batch))
        self.ledger.add(flops=FLOPS_OF_A_STEP, positions=4, trained_tokens=2)
        return -self.policy.skill

    def train_dataloader(self):
        return self.steps

    def configure_optimizers(self):
        return torch.optim.SGD([self.policy.skill], lr=LEARNING)


class SaveAt(pl.callbacks.Checkpoint):
    """Writes a checkpoint after an optimiser step, as a run that is then killed leaves behind."""

    def __init__(self, step: int, path) -> None:
        self.step, self.path = step, path

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step == self.step and not self.path.exists():
            trainer.save_checkpoint(self.path)


class MemoryLogger(Logger):
    """Keeps what it is given."""

    name, version = "memory", "0"

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[int, dict[str, float]]] = []
        self.texts: dict[str, str] = {}
        self.parameters: dict[str, Any] = {}

    def log_metrics(self, metrics, step=None):
        self.calls.append((step, dict(metrics)))

    def log_hyperparams(self, params, *_, **__):
        self.parameters |= params

    def log_text(self, text, path):
        self.texts[path] = text

    def of(self, name: str) -> list[tuple[int, float]]:
        """(step, value) of a metric."""
        return [(step, metrics[name]) for step, metrics in self.calls if name in metrics]


def fit(method, callbacks, *, logger=None, ckpt_path=None, **settings):
    """Runs a method on the CPU and returns the trainer."""
    settings = {"max_epochs": 1, "log_every_n_steps": 1} | settings
    with warnings.catch_warnings():
        for harmless in ("LeafSpec", "in eval mode at the start", "num_workers", "exists and is not empty"):
            warnings.filterwarnings("ignore", f".*{harmless}.*")
        trainer = pl.Trainer(
            accelerator="cpu",
            devices=1,
            callbacks=callbacks,
            logger=logger or False,
            accumulate_grad_batches=method.accumulate,
            enable_progress_bar=any(isinstance(c, pl.callbacks.ProgressBar) for c in callbacks),
            enable_model_summary=False,
            enable_checkpointing=any(isinstance(c, pl.callbacks.Checkpoint) for c in callbacks),
            **settings,
        )
        trainer.fit(method, ckpt_path=ckpt_path)
    return trainer
