"""Published process-reward data sets, each in columns of its own; the config names them."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from lit_posttrain.data.formats.cells import Cells, as_number
from lit_posttrain.data.formats.row_types import BrokenRow, Chat, RankedRow, StepwiseRow, shown
from lit_posttrain.data.formats.stepwise import checked

TAG = "ки"
SIGNS = {"+": 1.0, "-": 0.0}
FIRST_STEP = re.compile(r"Step 1\s*:")


def prm800k(cells: Cells, *, neutral: float | None) -> StepwiseRow:
    """Rows of PRM800K, or flat ones with `problem` and `steps` of `text` and `rating`.

    Of each step the completion counts that the solution went on with; at the end, where none was chosen, the
    first one. Its alternatives are not read. A step that a human wrote has no rating, so no label.

    Args:
        cells: The row: `question` and `label`, or `problem` and `steps`.
        neutral: The label of rating 0; None leaves such steps without a label.

    Source: Lightman et al. 2023, arXiv:2305.20050, which scores neutral steps as right.
    """
    if cells.has("problem"):
        problem, rated = cells.filled_text("problem"), cells.list("steps")
    else:
        problem = _inside(cells.value("question"), "problem", "question")
        rated = [_chosen(step) for step in _inside(cells.value("label"), "steps", "label")]
    rated = [step for step in rated if step is not None]
    texts = [_inside(step, "text", "a step") for step in rated]
    labels = [_rating(step.get("rating"), neutral) for step in rated]
    return StepwiseRow(_asked(problem), *checked(texts, labels))


def math_shepherd(cells: Cells) -> StepwiseRow:
    """`input`: a problem and steps that each end in the tag ки; `label`: the same with + or - for the tags.

    The problem ends where "Step 1:" begins. A step keeps its "Step n:".

    Source: Wang et al. 2023, arXiv:2312.08935.
    """
    *pieces, rest = cells.filled_text("input").split(TAG)
    signs = _signs(cells.filled_text("label"), [*pieces, rest])
    if rest.strip() or not pieces:
        raise BrokenRow(f"{cells.column('input')} must end in the tag {TAG}, but ends in {shown(rest[-40:])}")
    starts = [found.start() for found in FIRST_STEP.finditer(pieces[0])]
    problem = pieces[0][: starts[-1]].rstrip() if starts else ""
    if not problem.strip():
        raise BrokenRow("there is no problem before 'Step 1:' in " + shown(pieces[0]))
    steps = [pieces[0][starts[-1] :], *pieces[1:]]
    return StepwiseRow(_asked(problem), *checked([s.strip() for s in steps], [SIGNS[s] for s in signs]))


def processbench(cells: Cells) -> StepwiseRow:
    """`problem`, `steps` and `label`: the number of the first wrong step, from 0, or -1 where all are right.

    Nothing is known of the steps after the first wrong one, so they have no label.

    Source: Zheng et al. 2024, arXiv:2412.06559.
    """
    steps, first_wrong = cells.list("steps"), cells.number("label")
    if first_wrong not in range(-1, len(steps)):
        raise BrokenRow(f"label must be the number of a step of {len(steps)}, or -1, but is {first_wrong:g}")
    right = len(steps) if first_wrong < 0 else int(first_wrong)
    labels: list[float | None] = [1.0] * right
    if right < len(steps):
        labels += [0.0, *[None] * (len(steps) - right - 1)]
    return StepwiseRow(_asked(cells.filled_text("problem")), *checked(steps, labels))


def math_aps(cells: Cells) -> RankedRow:
    """`question` and `reasoning_steps` of `solution_prefix` and `mc_value`: the beginnings of a tree of solutions.

    Each beginning is a completion, and the share of rollouts behind it that were right its target. A prefix
    repeats the question; one that is the question alone is left out.

    Source: Luo et al. 2024, arXiv:2406.06592; the columns are those of OpenR.
    """
    question = cells.filled_text("question")
    found = []
    for number, step in enumerate(cells.list("reasoning_steps")):
        prefix = _inside(step, "solution_prefix", f"step {number}")
        value = as_number(_inside(step, "mc_value", f"step {number}"), f"mc_value of step {number}")
        if not isinstance(prefix, str) or not prefix.startswith(question) or not 0 <= value <= 1:
            raise BrokenRow(
                f"step {number} must go on from the question with a value in [0, 1], but is {shown(step)}"
            )
        found.append((prefix[len(question) :].strip(), value))
    kept = [([{"role": "assistant", "content": text}], value) for text, value in found if text]
    if not kept:
        raise BrokenRow("reasoning_steps has no beginning of a solution")
    return RankedRow(_asked(question), [chat for chat, _ in kept], [value for _, value in kept])


def _chosen(step: Any) -> Mapping[str, Any] | None:
    """The completion that the solution went on with; None where nobody wrote one."""
    completions = (step.get("completions") if isinstance(step, Mapping) else None) or []
    index = step.get("chosen_completion") if isinstance(step, Mapping) else None
    if index is not None:
        if index not in range(len(completions)):
            raise BrokenRow(f"chosen_completion is {index}, but there are {len(completions)} completions")
        return completions[index]
    human = step.get("human_completion") if isinstance(step, Mapping) else None
    return human or next(iter(completions), None)


def _rating(rating: Any, neutral: float | None) -> float | None:
    if rating is None:
        return None
    if isinstance(rating, bool) or rating not in (-1, 0, 1):
        raise BrokenRow(f"a rating must be 1, 0 or -1, but is {shown(rating)}")
    return neutral if rating == 0 else float(rating == 1)


def _signs(label: str, pieces: Sequence[str]) -> list[str]:
    """The characters of `label` that stand where `input` has its tags."""
    signs, position = [], 0
    for number, piece in enumerate(pieces):
        position += len(piece)
        sign = label[position : position + 1]
        is_last = number == len(pieces) - 1
        if not label.startswith(piece, position - len(piece)) or not (is_last or sign in SIGNS):
            raise BrokenRow(f"label must be input with + or - for the tags; it differs in step {number}")
        if not is_last:
            signs.append(sign)
            position += 1
    if label[position:].strip():
        raise BrokenRow(f"label goes on after input: {shown(label[position:])}")
    return signs


def _inside(value: Any, name: str, where: str) -> Any:
    if not isinstance(value, Mapping) or value.get(name) is None:
        raise BrokenRow(f"{where} must hold {name}, but is {shown(value)}")
    return value[name]


def _asked(problem: Any) -> Chat:
    if not isinstance(problem, str) or not problem.strip():
        raise BrokenRow(f"the problem must be a filled text, but is {shown(problem)}")
    return [{"role": "user", "content": problem}]
