"""What training takes with each kind of adapter beside full training: memory and CPU seconds per step, measured.

Each kind runs in a process of its own, on a random network of some 100 million parameters, on the CPU. Memory is
what the process holds, as the system counts it: after the network is built, and at most in the steps, both above
what it held before (imports). The estimate is `lit_posttrain.networks.estimate`, without the activations. Seconds
are those of the processor, so that other work on the machine disturbs them little; set OMP_NUM_THREADS=1.

    python tools/bench_adapters.py [--kinds full lora qlora …] [--steps 5] [--rows 2] [--tokens 128]
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

SHAPE = {
    "model_type": "llama",
    "vocab_size": 8192,
    "hidden_size": 768,
    "intermediate_size": 2048,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_key_value_heads": 4,
    "max_position_embeddings": 512,
}
MEBIBYTE = 2**20
KINDS = ("full", "lora", "dora", "ia3", "oft", "prompt", "prefix", "qlora", "qdora", "qlora-bfloat16")


def settings(kind: str) -> Any:
    """The network of a kind."""
    from lit_posttrain.networks import (
        IA3,
        OFT,
        LoraSettings,
        NetworkConfig,
        PrefixTuning,
        PromptTuning,
        Quantisation,
    )

    adapter = {
        "full": None,
        "lora": LoraSettings(16),
        "dora": LoraSettings(16, use_dora=True),
        "ia3": IA3(),
        "oft": OFT(),
        "prompt": PromptTuning(),
        "prefix": PrefixTuning(),
    }[kind.removeprefix("q").removesuffix("-bfloat16")]
    return NetworkConfig(
        config=SHAPE,
        adapter=adapter,
        quantisation=Quantisation() if kind.startswith("q") else None,
        dtype="bfloat16" if kind.endswith("bfloat16") else "float32",
    )


def measure(kind: str, steps: int, rows: int, tokens: int) -> dict[str, float]:
    """The figures of one kind, in this process."""
    import torch

    from lit_posttrain.batches import TokenBatch
    from lit_posttrain.networks import build, estimate, token_logprobs

    wanted = settings(kind)
    columns = torch.arange(tokens).expand(rows, tokens)
    ids = torch.randint(SHAPE["vocab_size"], (rows, tokens), generator=torch.Generator().manual_seed(0))
    segments = torch.arange(1, rows + 1)[:, None].expand(rows, tokens)
    batch = TokenBatch(ids, segments, columns, torch.ones_like(ids).bool(), torch.ones(rows, tokens))
    import peft  # so that its import is not counted

    assert peft
    before = held()
    network = build(wanted)
    after = held()
    forget_peak()
    optimizer = torch.optim.AdamW(network.trainable_parameters(), lr=1e-4)
    seconds = []
    for _ in range(steps):
        start = time.process_time()
        (-token_logprobs(network, batch).mean()).backward()
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.process_time() - start)
    sizes = estimate(wanted)
    return {
        "trained": sum(p.numel() for p in network.trainable_parameters()),
        "built_mib": (after - before) / MEBIBYTE,
        "peak_mib": (peak() - before) / MEBIBYTE,
        "weights_mib": sizes.weights / MEBIBYTE,
        "state_mib": (sizes.weights + sizes.gradients + sizes.optimizer) / MEBIBYTE,
        "step_s": statistics.median(seconds[1:] or seconds),
    }


def held() -> int:
    """Bytes of memory that this process holds now, what it has given up handed back to the system first."""
    import ctypes
    import gc

    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def forget_peak() -> None:
    """Starts the peak again from what is held now (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")


def peak() -> int:
    """The most bytes that this process has held since."""
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def table(found: dict[str, dict[str, float]]) -> str:
    """The figures as a table in Markdown, seconds as ratios to full training."""
    base = found.get("full", next(iter(found.values())))["step_s"]
    lines = [
        "| kind | trained parameters | network, MiB | estimate | network, gradients and optimiser, estimate | "
        "most in a step, MiB | step, CPU s | ratio |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {kind} | {one['trained']:,} | {one['built_mib']:.0f} | {one['weights_mib']:.0f} | "
        f"{one['state_mib']:.0f} | {one['peak_mib']:.0f} | {one['step_s']:.2f} | {one['step_s'] / base:.2f} |"
        for kind, one in found.items()
    ]
    return "\n".join(lines)


def main() -> None:
    """Runs every kind in a process of its own and prints the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--rows", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--inside", choices=KINDS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.inside:
        print(json.dumps(measure(given.inside, given.steps, given.rows, given.tokens)))
        return
    found = {}
    sizes = ["--steps", str(given.steps), "--rows", str(given.rows), "--tokens", str(given.tokens)]
    for kind in given.kinds:
        command = [sys.executable, __file__, "--inside", kind, *sizes]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found[kind] = json.loads(done.stdout.splitlines()[-1])
        print(kind, {name: round(value, 2) for name, value in found[kind].items()}, file=sys.stderr)
    print(table(found))


if __name__ == "__main__":
    main()
