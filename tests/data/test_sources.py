"""Sources: splits that no pattern and no problem crosses, answers that are right, and errors that help."""

import gzip
import json
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pytest
from pyarrow import parquet

from lit_posttrain.contracts import ProblemSource
from lit_posttrain.data.sources import GSM8K, Arithmetic, Countdown, Table, WordPrompts
from lit_posttrain.data.sources.arithmetic import canonical
from lit_posttrain.data.sources.rows import read_splits
from lit_posttrain.data.sources.splitting import split_of
from lit_posttrain.errors import InputError

SPLITS = ("train", "validation", "test")
SMALL = Arithmetic(digits=2, train_size=3000, held_out_size=200)
PROCEDURAL = [SMALL, Countdown(train_size=300, held_out_size=60)]


def content(problem: Any) -> str:
    return problem.messages[-1]["content"]


def sorted_operands(text: str) -> tuple[int, ...]:
    return tuple(sorted(map(int, text.removesuffix("=").split("+"))))


def write_jsonl(file: Path, rows: list[dict[str, Any]]) -> None:
    opened = gzip.open if file.suffix == ".gz" else open
    with opened(file, "wt", encoding="utf-8") as stream:
        stream.writelines(json.dumps(row) + "\n" for row in rows)


def test_arithmetic_answers_are_right() -> None:
    source = Arithmetic(operations="+-*", train_size=300)
    for problem, chat in zip(source.problems("train"), source.chats("train"), strict=True):
        text = content(problem)
        assert problem.reference == str(eval(text.removesuffix("=")))
        assert chat == [
            {"role": "user", "content": text},
            {"role": "assistant", "content": problem.reference},
        ]


def test_digit_counts_are_uniform() -> None:
    texts = [content(problem) for problem in Arithmetic(train_size=4500).problems("train")]
    counts = Counter(tuple(map(len, text.removesuffix("=").split("+"))) for text in texts)
    assert len(counts) == 9
    # 500 expected of each pair of digit counts, but a whole pair (a,b) of the few small ones is in or out
    assert all(400 < count < 600 for count in counts.values())


def test_zero_padding_keeps_columns_in_place() -> None:
    padded = Arithmetic(operations="+-*", train_size=300, zero_padded=True).problems("train")
    for problem, plain in zip(
        padded, Arithmetic(operations="+-*", train_size=300).problems("train"), strict=True
    ):
        text = content(problem)
        assert len(text) == 8
        assert int(problem.reference) == int(plain.reference)
        assert problem.uid == plain.uid
        width = {"+": 4, "-": 3, "*": 6}[text[3]]
        assert len(problem.reference.removeprefix("-")) == width


def test_twins_are_in_the_same_split() -> None:
    assert canonical(12, "+", 345) == canonical(345, "+", 12)
    assert canonical(12, "*", 345) == canonical(345, "*", 12)
    assert canonical(12, "-", 345) != canonical(345, "-", 12)


@pytest.mark.parametrize("source", PROCEDURAL, ids=lambda source: type(source).__name__)
def test_splits_are_disjoint_whatever_the_seed(source: Any) -> None:
    seeds = [source, type(source)(train_size=source.train_size, held_out_size=source.held_out_size, seed=1)]
    keys = {s: {p.uid.split("#")[0] for one in seeds for p in one.problems(s)} for s in SPLITS}
    assert not keys["train"] & (keys["validation"] | keys["test"])
    assert not keys["validation"] & keys["test"]


def test_disjoint_in_the_numbers_too() -> None:
    pairs = {split: {sorted_operands(content(p)) for p in SMALL.problems(split)} for split in SPLITS}
    assert len(pairs["test"]) > 100
    assert not pairs["train"] & (pairs["validation"] | pairs["test"])


def test_held_out_problems_are_as_hard_as_those_of_training() -> None:
    source = Arithmetic(train_size=4000, held_out_size=4000)
    digits = {s: sum(len(content(p)) for p in source.problems(s)) / 4000 for s in ("train", "test")}
    assert abs(digits["train"] - digits["test"]) < 0.1  # standard error .026; with distinct problems .5 apart
    assert {len(n) for p in Arithmetic(min_digits=2, train_size=200).problems("train")
            for n in content(p).removesuffix("=").split("+")} == {2, 3}  # fmt: skip


def features(a: int, b: int) -> dict[str, object]:
    total = a + b
    return {
        "last digits": (min(a % 10, b % 10), max(a % 10, b % 10)),
        "last digit of the sum": total % 10,
        "first digits": tuple(sorted((str(a)[0], str(b)[0]))),
        "first digit of the sum": str(total)[0],
        "parity": (total % 2, a * b % 2),
        "lengths": tuple(sorted((len(str(a)), len(str(b))))),
        "length of the sum": len(str(total)),
        "carry": (a % 10 + b % 10) > 9,
        "remainder by 7": total % 7,
        "difference": abs(a - b) % 10,
    }


def test_no_digit_pattern_is_held_out() -> None:
    share, groups = 0.2, Counter[tuple[str, object]]()
    held = Counter[tuple[str, object]]()
    for a in range(0, 1000, 3):
        for b in range(a, 1000, 2):
            out = split_of(canonical(a, "+", b), share / 2) != "train"
            for name, value in features(a, b).items():
                groups[name, value] += 1
                held[name, value] += out
    assert len(groups) > 120
    for group, count in groups.items():
        error = math.sqrt(share * (1 - share) / count)
        assert abs(held[group] / count - share) < 4.5 * error + 0.5 / count, group


@pytest.mark.parametrize("kind", [Arithmetic, Countdown])
def test_ten_million_problems_cost_nothing(kind: Callable[..., ProblemSource]) -> None:
    problems = kind(train_size=10_000_000).problems("train")
    assert len(problems) == 10_000_000
    assert problems[9_999_999] == problems[-1]
    assert problems[5:9][1] == problems[6]
    assert problems[3].uid.endswith("#3")
    with pytest.raises(IndexError):
        problems[10_000_000]


def test_problems_do_not_depend_on_size_but_on_seed() -> None:
    one, larger = Arithmetic(train_size=50).problems("train"), Arithmetic(train_size=500).problems("train")
    assert list(one) == list(larger[:50])
    other = Arithmetic(train_size=50, seed=1).problems("train")
    assert sum(content(a) == content(b) for a, b in zip(one, other, strict=True)) < 5


def test_countdown_is_solvable() -> None:
    source = Countdown(numbers=(3, 4), train_size=200)
    sizes = Counter[int]()
    for problem, chat in zip(source.problems("train"), source.chats("train"), strict=True):
        expression, numbers = chat[-1]["content"], problem.reference["numbers"]
        used = expression.translate(str.maketrans("+-*/()", "      ")).split()
        assert sorted(map(int, used)) == sorted(numbers)
        assert eval(expression) == problem.reference["target"]
        assert 10 <= problem.reference["target"] <= 100
        assert ", ".join(map(str, numbers)) in content(problem)
        sizes[len(numbers)] += 1
    assert min(sizes.values()) > 60


def test_countdown_prompt_is_free() -> None:
    source = Countdown(prompt="{numbers} -> {target}:", train_size=5, numbers=(2,), max_number=20)
    numbers, target = source.problems("train")[0].reference.values()
    assert content(source.problems("train")[0]) == f"{numbers[0]}, {numbers[1]} -> {target}:"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Arithmetic(digits=0), "at least one digit"),
        (lambda: Arithmetic(operations="+^"), "characters out of"),
        (lambda: Arithmetic(held_out_share=0.5), "held_out_share"),
        (lambda: Arithmetic(train_size=0), "at least 1"),
        (lambda: Countdown(held_out_size=0), "at least 1"),
        (lambda: Arithmetic().problems("dev"), "no split 'dev'"),
        (lambda: Arithmetic(min_digits=4), "min_digits <= digits"),
        (lambda: Countdown(numbers=(1,)), "two numbers or more"),
        (lambda: Countdown(min_target=5, max_target=4), "above max_target"),
        (lambda: Countdown(prompt="{numbers}"), "must hold"),
        (lambda: Countdown(max_number=1, numbers=(2,)).problems("train")[0], "hardly any problem"),
        (lambda: WordPrompts(test_words=("Ball",)), "more than once: ball"),
        (lambda: WordPrompts(templates=("A dog.",)), "must hold"),
        (lambda: WordPrompts().chats("train"), "no worked answers"),
    ],
)
def test_what_makes_no_sense_is_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_words_are_disjoint_and_many() -> None:
    source, words = WordPrompts(), {}
    for split, least in zip(SPLITS, (480, 256, 256), strict=True):
        problems = source.problems(split)
        words[split] = {word for problem in problems for word in problem.reference}
        assert len({problem.uid for problem in problems}) == len(problems) >= least
        assert all(f" {problem.reference[0]}" in content(problem) for problem in problems)
        assert len({problem.reference[0] for problem in problems[:64]}) > 20
    assert len(words["train"]) >= 60
    assert min(len(words["validation"]), len(words["test"])) >= 30
    assert not words["train"] & (words["validation"] | words["test"])
    assert not words["validation"] & words["test"]


GSM_ROWS = [
    {"question": f"What is {i} + 1?", "answer": f"{i}+1 = <<{i}+1={i + 1}>>{i + 1}\n#### {i + 1:,}"}
    for i in range(990, 1110)
]


def test_gsm8k(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "train.jsonl.gz", GSM_ROWS[:100])
    write_jsonl(tmp_path / "test.jsonl", GSM_ROWS[100:])
    source = GSM8K(str(tmp_path), validation_share=0.2)
    found = {split: source.problems(split) for split in SPLITS}
    assert len(found["test"]) == 20
    assert len(found["train"]) + len(found["validation"]) == 100
    assert 8 <= len(found["validation"]) <= 34  # 20 expected, standard deviation 4
    assert {content(p) for p in found["train"]}.isdisjoint(content(p) for p in found["validation"])
    assert found["test"][0].reference == "1091"
    assert next(iter(source.chats("test")))[1]["content"] == "1090+1 = 1091\n#### 1,091"
    kept = GSM8K(str(tmp_path), annotations=True)
    assert next(iter(kept.chats("test")))[1]["content"] == "1090+1 = <<1090+1=1091>>1091\n#### 1,091"


def test_gsm8k_without_a_final_number_is_refused(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "test.jsonl", [{"question": "?", "answer": "It is #### 5 apples"}])
    with pytest.raises(InputError, match="must end in '#### number', but ends in 'It is #### 5 apples'"):
        GSM8K(str(tmp_path)).problems("test")


def test_one_file_is_split_by_its_prompts(tmp_path: Path) -> None:
    rows = [{"prompt": f"p{i % 150}", "completion": f"c{i}"} for i in range(300)]  # every prompt twice
    write_jsonl(tmp_path / "all.jsonl", rows)
    table = Table(str(tmp_path / "all.jsonl"), held_out_share=0.2)
    prompts = {split: [content(p) for p in table.problems(split)] for split in SPLITS}
    assert sum(map(len, prompts.values())) == 300
    assert all(count == 2 for split in SPLITS for count in Counter(prompts[split]).values())
    assert set.isdisjoint(set(prompts["train"]), prompts["validation"] + prompts["test"])
    assert len({p.uid for p in table.problems("train")}) == len(prompts["train"])
    assert table.problems("train")[0].reference == table.chats("train")[0][-1]["content"]


def test_named_columns_and_parquet(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for part, rows in enumerate(([{"q": "a", "gold": 1.5}], [{"q": "b", "gold": 2.5}])):
        parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "data" / f"test-0000{part}-of-2.parquet")
    table = Table(str(tmp_path), prompt="q", reference="gold")
    assert [(content(p), p.reference) for p in table.problems("test")] == [("a", 1.5), ("b", 2.5)]
    with pytest.raises(InputError, match="no worked answers"):
        table.chats("test")
    with pytest.raises(InputError, match="no rows for split 'train'; it has test"):
        table.problems("train")
    with pytest.raises(InputError, match="no column golden; it has q, gold"):
        Table(str(tmp_path), prompt="q", reference="golden").problems("test")
    with pytest.raises(InputError, match="nothing to grade by"):
        Table(str(tmp_path), prompt="q").problems("test")
    with pytest.raises(InputError, match="needs the column of the prompt"):
        Table(str(tmp_path), completion="gold")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"x.jsonl \(train\) has no rows"),
        ('{"prompt": "a", "completion": "b"}\n{"prompt": ', "line 2 of .* is no JSON"),
        ("[1]\n", "line 1 of .* must be a JSON dict"),
        ('{"prompt": "a", "completion": "b"}\n\n{"prompt": "c"}\n', r"row 1 of .*completion is missing"),
    ],
)
def test_broken_files_are_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "x.jsonl").write_text(text)
    with pytest.raises(InputError, match=message):
        Table(str(tmp_path / "x.jsonl")).chats("train")


def test_missing_places_are_named(tmp_path: Path) -> None:
    (tmp_path / "data.jsonl").write_text("{}")
    with pytest.raises(InputError, match=r"needs files named after their split.*there are: data.jsonl"):
        Table(str(tmp_path)).chats("train")
    with pytest.raises(InputError, match="no file or folder"):
        Table(str(tmp_path / "absent")).chats("train")


def test_hub_data(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str | None]] = []

    def load(path: str, configuration: str | None) -> datasets.DatasetDict:
        asked.append((path, configuration))
        if path == "some/absent":
            raise ConnectionError("Couldn't reach the hub\nmore")
        rows = datasets.Dataset.from_list(GSM_ROWS[:40])
        return datasets.DatasetDict({"train": rows, "test": rows.select(range(2))})

    read_splits.cache_clear()
    monkeypatch.setattr(datasets, "load_dataset", load)
    assert [p.reference for p in GSM8K("some/gsm8k").problems("test")] == ["991", "992"]
    assert asked == [("some/gsm8k", "main")]
    with pytest.raises(InputError, match=r"\(Couldn't reach the hub\); to work offline, give a local folder"):
        Table("some/absent").chats("train")
