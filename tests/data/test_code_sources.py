import gzip
import json

import pytest

from lit_posttrain.data.sources import MBPP, CodeProblems, HumanEval
from lit_posttrain.errors import InputError

FUNCTION = {"prompt": "Double n.", "kind": "function", "entry": "f", "tests": [{"args": [1], "expected": 2}]}


def write(path, rows):
    with gzip.open(path, "wt") if path.suffix == ".gz" else path.open("w") as stream:
        stream.writelines(json.dumps(row) + "\n" for row in rows)
    return str(path)


def mbpp_row(number, **fields):
    tests = ["assert double(1) == 2", "assert double(2) == 4"]
    code = "import math\r\ndef helper(n): return n\r\ndef double(n): return helper(2 * n)"
    return {"task_id": number, "text": f"Double {number}.", "code": code, "test_list": tests} | fields


def test_mbpp_splits_by_task_number(tmp_path):
    path = write(tmp_path / "mbpp.jsonl.gz", [mbpp_row(n) for n in (974, 1, 10, 11, 510, 511, 600, 601, 975)])
    found = {split: [p.uid for p in MBPP(path).problems(split)] for split in ("train", "validation", "test")}
    assert found == {
        "train": ["mbpp/601", "mbpp/974"],
        "validation": ["mbpp/511", "mbpp/600"],
        "test": ["mbpp/11", "mbpp/510"],
    }
    assert [problem.uid for problem, _ in MBPP(path).few_shot()] == ["mbpp/1", "mbpp/10"]


def test_mbpp_shows_some_tests_and_all_decide(tmp_path):
    source = MBPP(write(tmp_path / "mbpp.jsonl", [mbpp_row(700)]))
    (problem,) = source.problems("train")
    assert problem.reference == {
        "kind": "asserts",
        "setup": "",
        "tests": ["assert double(1) == 2", "assert double(2) == 4"],
        "public": ["assert double(1) == 2"],
        "entry": "double",
    }
    assert "assert double(1) == 2" in problem.messages[0]["content"]
    assert "assert double(2) == 4" not in problem.messages[0]["content"]
    (chat,) = source.chats("train")
    assert chat[-1]["content"].startswith("```python\nimport math\ndef helper")


def test_sanitized_mbpp_has_its_imports(tmp_path):
    row = mbpp_row(700, prompt="Double it.", test_imports=["import math"])
    del row["text"]
    (problem,) = MBPP(write(tmp_path / "sanitized.jsonl", [row])).problems("train")
    assert problem.reference["setup"] == "import math"
    assert problem.messages[0]["content"].startswith("Double it.\n")


def test_humaneval_is_a_test_split(tmp_path):
    row = {
        "task_id": "HumanEval/0",
        "prompt": "def f(n):\n",
        "entry_point": "f",
        "canonical_solution": "    return n\n",
    }
    path = write(
        tmp_path / "h.jsonl", [row | {"test": "def check(candidate):\n    assert candidate(1) == 1\n"}]
    )
    (problem,) = HumanEval(path).problems("test")
    assert problem.reference["kind"] == "check"
    assert problem.uid == "HumanEval/0"
    assert (
        next(iter(HumanEval(path).chats("test")))[-1]["content"] == "```python\ndef f(n):\n    return n\n```"
    )
    with pytest.raises(InputError, match="only the split test"):
        HumanEval(path).problems("train")


def test_own_files_hold_references(tmp_path):
    rows = [FUNCTION | {"prompt": f"Double {n}."} for n in range(40)]
    rows.append(
        {
            "prompt": "Echo.",
            "id": "e",
            "reference": {"kind": "stdin", "tests": [{"stdin": "1", "stdout": "1"}]},
        }
    )
    source = CodeProblems(write(tmp_path / "p.jsonl", rows), held_out_share=0.2)
    found = [source.problems(split) for split in ("train", "validation", "test")]
    problems = [problem for part in found for problem in part]
    assert len({problem.uid for problem in problems}) == 41
    references = [problem.reference for problem in problems]
    assert references.count({key: FUNCTION[key] for key in ("kind", "entry", "tests")}) == 40
    assert next(p for p in problems if p.uid == "e").reference["kind"] == "stdin"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (FUNCTION | {"prompt": ""}, "needs a text as prompt"),
        (FUNCTION | {"kind": "magic"}, "needs a kind"),
        (FUNCTION | {"tests": []}, "needs a kind"),
    ],
)
def test_broken_rows_are_named(tmp_path, row, message):
    source = CodeProblems(write(tmp_path / "p.jsonl", [row] * 3), held_out_share=0.01)
    with pytest.raises(InputError, match=f"row 0 .*{message}"):
        source.problems("train")


def test_a_split_without_rows_says_so(tmp_path):
    with pytest.raises(InputError, match="no task from 511 to 600"):
        MBPP(write(tmp_path / "mbpp.jsonl", [mbpp_row(700)])).problems("validation")
    with pytest.raises(InputError, match="no number as task_id"):
        MBPP(write(tmp_path / "x.jsonl", [{"prompt": "a"}])).problems("train")


@pytest.mark.parametrize("wrong", [{"shown_tests": 0}, {"prompt": "{text}"}])
def test_settings_of_mbpp(wrong):
    with pytest.raises(InputError):
        MBPP("x", **wrong)
