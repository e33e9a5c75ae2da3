"""How fast and how large the preparation of short rows is: `python tools/bench_preparation.py [--rows 1000000]`.

Writes a file of short questions and answers, prepares it in processes of their own and prints, for a few rows and for
many: seconds of the first preparation, seconds until data are ready from the cache (after imports, tokenizer
included), and the largest resident memory of the process and, beside it, of its largest worker.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

FEW = 10_000
MORE_ALLOWED_MB = 200
WARM_ALLOWED_S = 2.0


def write_rows(path: Path, rows: int) -> None:
    """JSON lines of sums: some 12 tokens each, one a character."""
    with path.open("w") as stream:
        for number in range(rows):
            a, b = number * 7919 % 100_000, number * 104_729 % 1_000
            stream.write(json.dumps({"prompt": f"{a}+{b}=", "completion": f"{a + b}"}) + "\n")


def prepare(path: str, cache: str, workers: int) -> None:
    """What a run does before its first batch, in this process; prints seconds and megabytes as JSON."""
    from lit_posttrain.data import ChatData
    from lit_posttrain.data.preparation import Preparation
    from lit_posttrain.data.sources import Table
    from lit_posttrain.text import TextConfig, load_text

    start = time.perf_counter()
    text = load_text(TextConfig(characters="0123456789+="))
    data = ChatData(
        Table(path, layout="prompt_completion"),
        batch_sequences=64,
        max_tokens=64,
        validation_split=None,
        text=text,
        preparation=Preparation(workers, cache),
    )
    loader = data.train_dataloader()
    batch = next(iter(loader))
    seconds = time.perf_counter() - start
    memory, of_worker = (
        resource.getrusage(who).ru_maxrss / 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    told = {"seconds": seconds, "memory_mb": memory, "worker_mb": of_worker, "steps": len(loader)}
    print(json.dumps(told | {"rows_in_batch": len(batch.input_ids)}))


def measured(path: Path, cache: Path, workers: int) -> dict[str, float]:
    """One preparation in a process of its own."""
    command = [sys.executable, __file__, "--prepare", str(path), str(cache), str(workers)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> int:
    """Prints the table; the exit code is 1 where a promise is not kept."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--prepare", nargs=3, metavar=("FILE", "CACHE", "WORKERS"), help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.prepare:
        prepare(chosen.prepare[0], chosen.prepare[1], int(chosen.prepare[2]))
        return 0
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        for rows in (FEW, chosen.rows):
            file, cache = Path(folder, f"{rows}.jsonl"), Path(folder, f"cache-{rows}")
            write_rows(file, rows)
            for run in ("cold", "warm"):
                told = results[rows, run] = measured(file, cache, chosen.workers)
                print(
                    f"{rows:>9,} rows, {run}: {told['seconds']:7.2f} s, {told['memory_mb']:6.0f} MB "
                    f"(largest worker {told['worker_mb']:.0f} MB), {told['steps']:,.0f} steps an epoch",
                    flush=True,
                )
    more = max(results[chosen.rows, r]["memory_mb"] - results[FEW, r]["memory_mb"] for r in ("cold", "warm"))
    warm = results[chosen.rows, "warm"]["seconds"]
    print(f"memory above that of {FEW:,} rows: {more:.0f} MB (at most {MORE_ALLOWED_MB})")
    print(f"ready from the cache after {warm:.2f} s (at most {WARM_ALLOWED_S:.0f})")
    return int(more > MORE_ALLOWED_MB or warm > WARM_ALLOWED_S)


if __name__ == "__main__":
    sys.exit(main())
