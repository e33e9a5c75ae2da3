"""What the platform does on a GPU: the quickstart, agreement of sharded with plain training, speed, memory.

    python tools/bench_gpu.py                  # needs CUDA; writes tools/bench/results/gpu_<device>.{json,md}
    python tools/bench_gpu.py --rehearse       # every part in miniature on the CPU; writes nothing

Each part runs in a process of its own; one that fails or takes too long is told as such, and the others run.
"""

import argparse
import json
import multiprocessing
import subprocess
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from gpu_bench import sizes
from gpu_bench.report import markdown

HERE = Path(__file__).parent
RESULTS = HERE / "bench" / "results"
PARTS = ("agreement", "supervised", "online", "quickstart")
PARTS_S = {"agreement": 90.0, "supervised": 120.0, "online": 150.0, "quickstart": 330.0}
"""How long each may take."""


def main() -> int:
    """0, also where there is no GPU; 1 if a part failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rehearse", action="store_true", help="in miniature, on the CPU")
    parser.add_argument("--limit_s", type=float, default=570.0, help="seconds for all (default: %(default)s)")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"some of {', '.join(PARTS)} (default: all)")
    given = parser.parse_args()
    if unknown := set(given.parts) - set(PARTS):
        parser.error(f"there is no part {sorted(unknown)}")
    if not given.rehearse and not has_cuda():
        print("bench_gpu needs a CUDA device; --rehearse tries every part in miniature on the CPU")
        return 0
    results = measure(given.parts or PARTS, sizes.MINIATURE if given.rehearse else sizes.FULL, given.limit_s)
    print(json.dumps(results, indent=1))
    print(markdown(results))
    if not given.rehearse:
        write(results)
    return int(any("error" in part for part in results["parts"].values()))


def measure(parts: Any, size: sizes.Size, limit_s: float) -> dict[str, Any]:
    """All figures, and what they were measured on."""
    began = time.monotonic()
    found = {
        name: alone(name, size, min(PARTS_S[name], limit_s - (time.monotonic() - began))) for name in parts
    }
    return {
        "device": torch.cuda.get_device_name() if size.accelerator == "gpu" else "cpu",
        "torch": torch.__version__,
        "commit": commit(),
        "seconds": time.monotonic() - began,
        "parts": found,
    }


def alone(name: str, size: sizes.Size, limit_s: float) -> dict[str, Any]:
    """The figures of one part, from a process of its own, or why there are none."""
    if limit_s <= 0:
        return {"error": "no time was left"}
    # CUDA does not survive a fork; on the CPU a fork need not import torch again
    context: Any = multiprocessing.get_context("spawn" if size.accelerator == "gpu" else "fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(name, size, sender), name=name)
    process.start()
    sender.close()
    try:
        return receiver.recv() if receiver.poll(limit_s) else {"error": f"not done after {limit_s:.0f} s"}
    except EOFError:
        return {"error": "its process died"}
    finally:
        if process.is_alive():
            process.join(5)
        process.kill()
        process.join()


def _run(name: str, size: sizes.Size, sender: Connection) -> None:
    sys.stdout = sys.stderr  # the results alone go to standard output
    from gpu_bench import agreement, quickstart, speed

    functions = {
        "agreement": agreement.agreement,
        "supervised": speed.supervised,
        "online": speed.online,
        "quickstart": quickstart.quickstart,
    }
    try:
        sender.send(functions[name](size))
    except Exception as error:
        sender.send({"error": f"{type(error).__name__}: {error}"})
        raise


def has_cuda() -> bool:
    """Whether there is a CUDA device that works."""
    return torch.cuda.is_available()


def commit() -> str:
    """Of the working copy."""
    asked = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=HERE, capture_output=True, text=True, check=False
    )
    return asked.stdout.strip() or "unknown"


def write(results: dict[str, Any]) -> None:
    """JSON and markdown, named after the device."""
    name = "gpu_" + "_".join(results["device"].lower().split())
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(results, indent=1) + "\n")
    (RESULTS / f"{name}.md").write_text(markdown(results))
    print(f"written: {RESULTS / name}.json and .md")


if __name__ == "__main__":
    sys.exit(main())
