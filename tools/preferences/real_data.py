"""Real preferences as tables whose splits share no first question."""

import gzip
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from lit_posttrain.data.formats import PreferenceRow
from lit_posttrain.data.quarantine import QuarantineSettings
from lit_posttrain.data.sources import Table
from lit_posttrain.data.sources.splitting import position

HELPFUL = ("helpful-base", "helpful-online", "helpful-rejection-sampled")
VALIDATION, TEST = 0.05, 0.2
BROKEN = 0.03  # of the rows of a split: the same on both sides, or no reply


def helpful(data: Path, folder: Path) -> Table:
    """The three helpful files of HH-RLHF together: dialogues, split by what the human says first."""
    lines = (line for name in HELPFUL for line in _lines(data / "hh_rlhf" / f"{name}.jsonl.gz"))
    return _split(lines, lambda row: row["chosen"].split("\n\nAssistant:")[0].strip(), folder, "hh_rlhf")


def polite(data: Path, folder: Path) -> Table:
    """Polite against impolite answers to short instructions, split by instruction with its input."""
    return _split(
        map(_asked, _lines(data / "rasbt_instruct" / "preference_data.jsonl.gz")),
        lambda row: row["prompt"],
        folder,
        "preference",
    )


def pairs(table: Table, split: str) -> list[PreferenceRow]:
    """The rows of a split, broken ones left out."""
    return [row for row in table.rows(split) if isinstance(row, PreferenceRow)]


def first_question(row: PreferenceRow) -> str:
    """What a dialogue begins with; dialogues that begin alike stand in one split."""
    return row.prompt[0]["content"]


def _asked(row: Mapping[str, Any]) -> dict[str, Any]:
    prompt = "\n".join(part for part in (row["instruction"], row["input"]) if part)
    return {"prompt": prompt, "chosen": row["chosen"], "rejected": row["rejected"]}


def _lines(file: Path) -> Iterable[dict[str, Any]]:
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def _split(
    rows: Iterable[Mapping[str, Any]], key: Callable[[Mapping[str, Any]], str], folder: Path, layout: Any
) -> Table:
    """A folder with a file per split; where a row goes depends on nothing but its key."""
    splits: dict[str, list[str]] = {"train": [], "validation": [], "test": []}
    for row in rows:
        place = position(key(row))
        name = "validation" if place < VALIDATION else "test" if place < VALIDATION + TEST else "train"
        splits[name].append(json.dumps(row))
    folder.mkdir(parents=True, exist_ok=True)
    for name, lines in splits.items():
        file, content = folder / f"{name}.jsonl", "\n".join(lines) + "\n"
        if not file.exists() or file.read_text(encoding="utf-8") != content:  # another seed may be reading it
            file.write_text(content, encoding="utf-8")
    return Table(
        str(folder), layout=layout, quarantine=QuarantineSettings(BROKEN, folder=str(folder / "broken"))
    )
