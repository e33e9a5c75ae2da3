"""Shows what the model writes: prompts, completions and grades, in every logger that takes tables."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import Logger

from lit_posttrain.batches import Answer
from lit_posttrain.errors import InputError

Groups = Sequence[Sequence[Answer]]


class Transcripts(Callback):
    """Logs some completions of every k-th rollout and of every probe.

    The best and the worst answer of each problem come first, problem by problem, so that a few rows show what
    the reward tells apart. Columns: step, uid, source, prompt, completion, reward, `reward/<part>`,
    advantage, verdict, correct, note, stop, length_tokens, logprob_mean_nats.

    Args:
        rows: Most completions of one rollout or probe.
        every_n_rollouts: Log each k-th rollout, from the first on; probes are always logged.
    """

    def __init__(self, rows: int = 8, every_n_rollouts: int = 10) -> None:
        if rows < 1 or every_n_rollouts < 1:
            raise InputError(
                f"rows and every_n_rollouts must be 1 or more, got {rows} and {every_n_rollouts}; "
                "leave the callback out to log no transcripts"
            )
        self.rows, self.every_n_rollouts = rows, every_n_rollouts
        self._rollouts = 0
        self._parts: list[str] = []

    def on_experience(self, trainer: Trainer, module: LightningModule, answers: Groups) -> None:
        """Takes the groups of a rollout: P lists of G answers."""
        if self._rollouts % self.every_n_rollouts == 0:
            self._log(trainer, answers, "transcripts/rollouts.json")
        self._rollouts += 1

    def on_probe(self, trainer: Trainer, module: LightningModule, point: Any, answers: Groups) -> None:
        """Takes the answers of a probe: n lists of k answers."""
        self._log(trainer, answers, "transcripts/probes.json")

    def state_dict(self) -> dict[str, Any]:
        """The count of rollouts, so that a resumed run logs the same ones, and the columns of the tables."""
        return {"rollouts": self._rollouts, "parts": list(self._parts)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self._rollouts, self._parts = state_dict["rollouts"], list(state_dict["parts"])

    def _log(self, trainer: Trainer, answers: Groups, artifact_file: str) -> None:
        loggers = [logger for logger in trainer.loggers if takes_tables(logger)]
        chosen = telling(answers, self.rows)
        if not loggers or not chosen:
            return
        new = {part for answer in chosen for part in answer.grade.parts} - set(self._parts)
        self._parts += sorted(new)
        columns = as_columns(chosen, trainer.global_step, self._parts)
        for logger in loggers:
            logger.log_table(columns, artifact_file)  # type: ignore[attr-defined]


def takes_tables(logger: Logger) -> bool:
    """Whether it has our `log_table(columns, artifact_file)`; other loggers' methods of that name differ."""
    method = getattr(type(logger), "log_table", None)
    return method is not None and "artifact_file" in inspect.signature(method).parameters


def telling(answers: Groups, rows: int) -> list[Answer]:
    """At most `rows` answers: best and worst of each group first, the others after them."""
    ranked = [sorted(group, key=_reward, reverse=True) for group in answers if group]
    ends = [answer for group in ranked for answer in (group[:1] + group[1:][-1:])]
    others = [answer for group in ranked for answer in group[1:-1]]
    return (ends + others)[:rows]


def as_columns(answers: Sequence[Answer], step: int, parts: Sequence[str]) -> Mapping[str, list[Any]]:
    """One list of cells per column; a part that a grade lacks is None."""
    rows = [_row(answer, step, parts) for answer in answers]
    return {name: [row[name] for row in rows] for name in rows[0]}


def _row(answer: Answer, step: int, parts: Sequence[str]) -> dict[str, Any]:
    problem, completion, grade = answer.problem, answer.completion, answer.grade
    tokens = len(completion.tokens)
    return {
        "step": step,
        "uid": problem.uid,
        "source": problem.source,
        "prompt": "\n".join(f"{message['role']}: {message['content']}" for message in problem.messages),
        "completion": completion.text,
        "reward": grade.reward,
        **{f"reward/{part}": grade.parts.get(part) for part in parts},
        "advantage": answer.advantage,
        "verdict": grade.verdict.value,
        "correct": grade.correct,
        "note": grade.note,
        "stop": completion.stop.value,
        "length_tokens": tokens,
        "logprob_mean_nats": float(completion.logprobs.mean()) if tokens else None,
    }


def _reward(answer: Answer) -> float:
    """Ungraded answers rank last: there is nothing to learn from them."""
    return float("-inf") if answer.grade.reward is None else answer.grade.reward
