"""The quickstart on the device, through the command line."""

import json
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

from gpu_bench.sizes import Size
from lit_posttrain.cli import main
from lit_posttrain.errors import InputError

ROOT = Path(__file__).parent.parent.parent


def quickstart(size: Size) -> dict[str, Any]:
    """SFT, export and GRPO of the quickstart: wall seconds and the last accuracy of each."""
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as work:
        for name in ("sft", "grpo"):
            config = yaml.safe_load((ROOT / f"configs/quickstart/{name}.yaml").read_text())
            _adapt(config, size, Path(work))
            Path(work, f"{name}.yaml").write_text(yaml.safe_dump(config))
            began = time.perf_counter()
            _command("fit", "--config", f"{work}/{name}.yaml")
            results[f"{name}_seconds"] = time.perf_counter() - began
            results[f"{name}_accuracy"], results[f"{name}_steps"] = _last_accuracy(Path(work, "runs", name))
            if name == "sft":
                _command("export", f"{work}/sft/last.ckpt", f"{work}/model")
    return results


def _command(*words: str) -> None:
    if main(list(words)):
        raise InputError(f"`lit-posttrain {words[0]}` failed; its message stands above")


def _adapt(config: dict[str, Any], size: Size, work: Path) -> None:
    """The same experiment on the device that is measured, with its files in `work`; smaller in a rehearsal."""
    name = "grpo" if "path" in config["model"]["init_args"]["network"] else "sft"
    if name == "grpo":
        config["model"]["init_args"]["network"]["path"] = str(work / "model")
    config["trainer"]["accelerator"] = size.accelerator
    config["trainer"]["logger"]["init_args"] |= {"root": str(work / "runs" / name), "upload": False}
    config["checkpoint"] = {"dirpath": str(work / name)}
    if not size.quickstart:
        return
    config["trainer"]["max_steps"] = size.quickstart["steps"]
    config["trainer"].pop("val_check_interval", None)
    probe = config["trainer"]["callbacks"][0]["init_args"]
    for data in (config["data"], probe.get("data")):
        if data is not None:
            data["init_args"]["source"]["init_args"]["held_out_size"] = size.quickstart["held_out"]
            data["init_args"]["source"]["init_args"]["train_size"] = 256
    probe["problems"] = size.quickstart["problems"]
    if name == "grpo":  # so that a network that knows nothing has different rewards within a group
        window = {"class_path": "LengthWindow", "init_args": {"maximum": 3}}
        config["model"]["init_args"]["grader"] = window


def _last_accuracy(root: Path) -> tuple[float, int]:
    """The last point of the only run below a folder, and its step."""
    (journal,) = root.rglob("journal.jsonl")
    records = [json.loads(line) for line in journal.read_text().splitlines()]
    point = [record for record in records if "scurve/accuracy" in record.get("values", {})][-1]
    return point["values"]["scurve/accuracy"], point["step"]
