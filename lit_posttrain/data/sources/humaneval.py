"""HumanEval: functions to be completed from their docstrings."""

from collections.abc import Iterator
from dataclasses import dataclass

from lit_posttrain.batches import Problem
from lit_posttrain.contracts import ProblemSource
from lit_posttrain.data.formats import Chat
from lit_posttrain.data.sources.code_problems import Row, answer_with, problem, rows_for
from lit_posttrain.data.sources.splitting import check_split
from lit_posttrain.errors import InputError

INSTRUCTION = """Complete this Python function. Answer with the whole function in a fenced block.

```python
{prompt}```"""
FIELDS = ("task_id", "prompt", "entry_point", "test")


@dataclass(frozen=True)
class HumanEval(ProblemSource):
    """Problems with the reference `{"kind": "check", ...}`, all of them in the split `test`: it is a benchmark.

    Args:
        path: Hub name, or a local file of JSON lines.
        instruction: The prompt, with `{prompt}` for the start of the function; base models get just that with
            `{prompt}`, and a grader with `continues_prompt`.

    Source: Chen et al. 2021, arXiv:2107.03374.
    """

    path: str = "openai/openai_humaneval"
    instruction: str = INSTRUCTION

    def __post_init__(self) -> None:
        if "{prompt}" not in self.instruction:
            raise InputError(f"the instruction must hold {{prompt}}; got {self.instruction!r}")

    def problems(self, split: str) -> list[Problem]:
        """The problems.

        Raises:
            InputError: for another split than `test`, or rows without their fields.
        """
        return [self._problem(row) for row in self._rows(split)]

    def chats(self, split: str) -> Iterator[Chat]:
        """The problems with their solutions."""
        for row in self._rows(split):
            yield [
                *map(dict, self._problem(row).messages),
                answer_with(row["prompt"] + row["canonical_solution"]),
            ]

    def _rows(self, split: str) -> list[Row]:
        check_split(split)
        if split != "test":
            raise InputError(f"HumanEval has only the split test (asked for {split!r}); train on other data")
        return rows_for(self.path, split)[1]

    def _problem(self, row: Row) -> Problem:
        missing = [name for name in FIELDS if not isinstance(row.get(name), str)]
        if missing:
            raise InputError(f"a row of {self.path} has no text in {', '.join(missing)}; is it HumanEval?")
        reference = {
            "kind": "check",
            "prompt": row["prompt"],
            "tests": row["test"],
            "entry": row["entry_point"],
        }
        text = self.instruction.replace("{prompt}", row["prompt"])
        return problem(text, reference, row["task_id"], "humaneval")
