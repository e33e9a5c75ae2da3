"""The figures as a page."""

from collections.abc import Mapping
from typing import Any

from gpu_bench.clock import peak_flops

TITLES = {
    "quickstart": "The quickstart on this device (float32, one process)",
    "agreement": "One process under ShardedStrategy against one without, five steps of SGD",
    "supervised": "SFT of a random network of 0.5 B parameters, bf16-mixed, AdamW; its checkpoint",
    "online": "GRPO of the same network, bf16-mixed, AdamW",
}


def markdown(results: Mapping[str, Any]) -> str:
    """All parts as tables."""
    peak = peak_flops(results["device"])
    lines = [
        f"# {results['device']}",
        "",
        f"Measured by `python tools/bench_gpu.py`: torch {results['torch']}, commit {results['commit']}, "
        f"{results['seconds']:.0f} s in all.",
        "",
        "Model FLOPs count the forward once and the backward twice, causal attention, and nothing that is run twice. "
        + (
            "This device is not in the table of peaks."
            if peak is None
            else f"Utilisation is of {peak / 1e12:.0f} TFLOP/s, the maker's figure for bfloat16 without sparsity."
        ),
    ]
    for name, part in results["parts"].items():
        lines += ["", f"## {TITLES[name]}", "", *_table(part)]
    return "\n".join(lines) + "\n"


def _table(part: Mapping[str, Any]) -> list[str]:
    if "error" in part:
        return [f"Failed: {part['error']}"]
    if all(isinstance(value, Mapping) for value in part.values()):
        columns = list(next(iter(part.values())))
        rows = [[name, *(_shown(row[column]) for column in columns)] for name, row in part.items()]
        return _rows(["", *columns], rows)
    return _rows(["", ""], [[name, _shown(value)] for name, value in part.items()])


def _rows(head: list[str], rows: list[list[str]]) -> list[str]:
    words = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(word.replace("_", " ") for word in row) + " |" for row in words]


def _shown(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "**no**", None: "unknown"}[value]
    if isinstance(value, int) or (isinstance(value, float) and value >= 1000):
        return f"{value:,.0f}"
    return f"{value:.3g}"
