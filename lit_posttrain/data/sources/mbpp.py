"""MBPP: short functions, described in a sentence and tested by assertions."""

import ast
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from lit_posttrain.batches import Problem
from lit_posttrain.contracts import ProblemSource
from lit_posttrain.data.formats import Chat, Unreadable
from lit_posttrain.data.sources.code_problems import Row, answer_with, problem
from lit_posttrain.data.sources.rows import read_splits, stamp_of
from lit_posttrain.data.sources.splitting import check_split
from lit_posttrain.errors import InputError

PROMPT = "{text}\nYour code should pass tests such as:\n{tests}\nAnswer with Python code in a fenced block."
TASKS = {"test": range(11, 511), "validation": range(511, 601), "train": range(601, 975)}
"""The data set's own splits."""
FEW_SHOT = range(1, 11)


@dataclass(frozen=True)
class MBPP(ProblemSource):
    """Problems with the reference `{"kind": "asserts", ...}`; the split follows from the task's number.

    All tests decide whether a program is right; those that the prompt shows are the public ones beside.

    Args:
        path: Hub name, or a local file of JSON lines; of the whole data set or of the sanitized one.
        shown_tests: How many tests the prompt shows, 1 or more: no other place says what the function is called.
        prompt: Text of the problem, with `{text}` and `{tests}`.

    Source: Austin et al. 2021, arXiv:2108.07732.
    """

    path: str = "google-research-datasets/mbpp"
    shown_tests: int = 1
    prompt: str = PROMPT

    def __post_init__(self) -> None:
        if self.shown_tests < 1:
            raise InputError(
                f"shown_tests must be 1 or more, for the function's name; got {self.shown_tests}"
            )
        if "{text}" not in self.prompt or "{tests}" not in self.prompt:
            raise InputError(f"the prompt must hold {{text}} and {{tests}}; got {self.prompt!r}")

    def problems(self, split: str) -> list[Problem]:
        """The problems of a split, by number.

        Raises:
            InputError: for rows that are not of MBPP, or a split without any.
        """
        return [self._problem(row) for row in self._rows(split)]

    def chats(self, split: str) -> Iterator[Chat]:
        """The problems with their solutions."""
        for row in self._rows(split):
            yield [*map(dict, self._problem(row).messages), answer_with(row["code"].replace("\r\n", "\n"))]

    def few_shot(self) -> list[tuple[Problem, Chat]]:
        """Tasks 1 to 10, which are in no split, each also with its solution."""
        problems = [(self._problem(row), row) for row in self._numbered(FEW_SHOT)]
        return [(p, [*map(dict, p.messages), answer_with(row["code"])]) for p, row in problems]

    def _rows(self, split: str) -> list[Row]:
        check_split(split)
        return self._numbered(TASKS[split])

    def _numbered(self, tasks: range) -> list[Row]:
        parts = read_splits(self.path, None, stamp_of(self.path)).values()
        rows = {
            _number(row, self.path): row for part in parts for row in part if not isinstance(row, Unreadable)
        }
        found = [rows[number] for number in sorted(rows) if number in tasks]
        if not found:
            raise InputError(f"{self.path} has no task from {tasks[0]} to {tasks[-1]}; ask for another split")
        return found

    def _problem(self, row: Row) -> Problem:
        text, tests = row.get("text") or row.get("prompt"), row.get("test_list")
        if not isinstance(text, str) or not isinstance(row.get("code"), str) or not tests:
            raise InputError(f"task {row['task_id']} of {self.path} needs text or prompt, code and test_list")
        setup = row.get("test_setup_code") or "\n".join(row.get("test_imports") or [])
        shown = list(tests[: self.shown_tests])
        reference: dict[str, Any] = {"kind": "asserts", "setup": setup, "tests": list(tests), "public": shown}
        entry = entry_of(row["code"], tests)
        if entry is not None:
            reference["entry"] = entry
        prompt = self.prompt.replace("{text}", text.strip()).replace("{tests}", "\n".join(shown))
        return problem(prompt, reference, f"mbpp/{row['task_id']}", "mbpp")


def entry_of(code: str, tests: list[str]) -> str | None:
    """The function of a worked answer that all tests call, or None."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of escapes in the texts of the data
        defined = {node.name for node in ast.parse(code).body if isinstance(node, ast.FunctionDef)}
        called = [_called(ast.parse(test.strip())) for test in tests]
    common = defined.intersection(*called)
    return min(common) if common else None


def _called(tree: ast.AST) -> set[str]:
    calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return {function.id for function in calls if isinstance(function, ast.Name)}


def _number(row: Row, path: str) -> int:
    number = row.get("task_id")
    if not isinstance(number, int):
        raise InputError(f"a row of {path} has no number as task_id (got {number!r}); is it MBPP?")
    return number
