"""A user's own reward, as a plain function."""

import importlib
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from operator import attrgetter

from lit_posttrain.batches import Completion, Grade, Problem, Verdict
from lit_posttrain.contracts import Grader
from lit_posttrain.errors import InputError
from lit_posttrain.graders.single import ungraded
from lit_posttrain.graders.worker_pool import WorkerPool
from lit_posttrain.graders.worker_process import Outcome


@dataclass(frozen=True)
class PythonFunction(Grader):
    """Grades by a function, called as `function(completion=text, reference=..., messages=[...])`.

    It returns the reward (a float), a bool (1 or 0, and whether it is correct), None (could not be graded),
    or a dict with `reward` and any of `correct`, `parts`, `answer_key`, `note`. It runs in worker processes:
    whatever it raises, exits or hangs in leaves the one completion ungraded, and costs no time beyond the
    deadline. A worker killed from outside is replaced and the call made again.

    Args:
        function: A function of an importable module; in YAML its dotted path.
        deadline_s: Seconds that one call may take before its process is killed.
        workers: Worker processes.
        correct_at: Rewards of at least this count as correct, where the function does not say; null for none.
        lowest: The function's reward for a wrong answer.
    """

    function: Callable[..., object]
    deadline_s: float = 10.0
    workers: int = 1
    correct_at: float | None = None
    lowest: float = 0.0
    _pool: WorkerPool = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.deadline_s <= 0 or self.workers < 1:
            raise InputError(f"got deadline_s={self.deadline_s}, workers={self.workers}; set > 0 and >= 1.")
        options = _where(self.function)
        pool = WorkerPool("function_worker.py", self.workers, self.deadline_s, options=options, quiet=False)
        object.__setattr__(self, "_pool", pool)

    def grade(self, items: Sequence[tuple[Problem, Completion]]) -> list[Grade]:
        """One grade per item, in order."""
        if self.workers == 1 or len(items) < 2:
            return [self._grade_one(item) for item in items]
        with ThreadPoolExecutor(self.workers) as threads:
            return list(threads.map(self._grade_one, items))

    def close(self) -> None:
        """Ends the worker processes."""
        self._pool.close()

    def _grade_one(self, item: tuple[Problem, Completion]) -> Grade:
        problem, completion = item
        messages = [dict(message) for message in problem.messages]
        reply = self._pool.ask(
            {"completion": completion.text, "reference": problem.reference, "messages": messages}
        )
        if reply.outcome is Outcome.OVER_WALL:
            return ungraded(Verdict.GRADER_TIMEOUT, f"no result after {self.deadline_s} s")
        if reply.outcome is not Outcome.ANSWERED:
            return ungraded(
                Verdict.GRADER_ERROR, f"the function ended its process (exit code {reply.exit_code})"
            )
        if "error" in reply.value:
            return ungraded(Verdict.GRADER_ERROR, reply.value["error"])
        return self._judged(**reply.value)

    def _judged(
        self,
        reward: float | None,
        correct: bool | None,
        parts: dict[str, float],
        answer_key: str | None,
        note: str,
    ) -> Grade:
        if reward is None:
            return ungraded(Verdict.GRADER_ERROR, note or "the function returned None")
        if not all(map(math.isfinite, (reward, *parts.values()))):
            return ungraded(Verdict.GRADER_ERROR, f"the function returned {reward} with parts {parts}")
        if correct is None and self.correct_at is not None:
            correct = reward >= self.correct_at
        right = Verdict.CORRECT if reward > self.lowest else Verdict.INCORRECT
        verdict = right if correct is None else Verdict.CORRECT if correct else Verdict.INCORRECT
        return Grade(reward, correct, verdict, parts, answer_key, note)


def _where(function: Callable[..., object]) -> dict[str, str]:
    """Module and qualified name under which a worker process finds the function.

    Raises:
        InputError: if it is not there: a lambda, an inner function, or one of the program's main file.
    """
    module, qualname = getattr(function, "__module__", None), getattr(function, "__qualname__", None)
    found = None
    if module and qualname and module != "__main__" and "<" not in qualname:
        with suppress(ImportError, AttributeError):
            found = attrgetter(qualname)(importlib.import_module(module))
    if found != function or not module or not qualname:
        raise InputError(
            f"{function!r} cannot be imported by name in a worker process; give a plain function at the top "
            "level of an importable module (not a lambda, an inner function, or one of the main script)."
        )
    return {"module": module, "qualname": qualname}
