"""From a training checkpoint to a Hugging Face folder that any other program loads."""

import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from lit_posttrain.errors import InputError
from lit_posttrain.networks.load import NetworkConfig
from lit_posttrain.networks.state import empty_model

PREFIX = "policy.model."
SHARD_SIZE = "5GB"


@dataclass(frozen=True)
class Exported:
    """A checkpoint's Hugging Face model (or `PeftModel`) with weights, and its other entries."""

    model: Any
    settings: NetworkConfig
    state: Mapping[str, Any]


def export_command(checkpoint: Path | str, output: Path | str, adapter: bool = False) -> int:
    """Writes the policy of a checkpoint as a Hugging Face folder; returns the exit status.

    Args:
        checkpoint: A checkpoint file of a fit.
        output: The folder to write; it must not exist.
        adapter: Write only the LoRA adapter instead of merging it into the network.
    """
    folder = export(Path(checkpoint), Path(output), merge=not adapter)
    megabytes = sum(file.stat().st_size for file in folder.iterdir()) / 1e6
    kind = "adapter" if adapter else "network, tokenizer and generation settings"
    print(f"{checkpoint} -> {folder}: {kind}, {megabytes:,.1f} MB")
    return 0


def export(checkpoint: Path, output: Path, *, merge: bool = True) -> Path:
    """Writes safetensors, config, generation config, tokenizer and chat template; returns the folder.

    Everything is written beside the folder and renamed at the end, so `output` is whole or not there.

    Args:
        checkpoint: A single-file checkpoint of a `PostTrainModule`.
        output: A folder that does not exist yet.
        merge: Whether a LoRA adapter is merged into the weights; otherwise only the adapter is written.

    Raises:
        InputError: if the file is no such checkpoint, the folder exists, or there is no adapter to write.
    """
    if output.exists():
        raise InputError(f"{output} exists already; give a folder that does not.")
    content = read(checkpoint)
    if not merge and content.settings.lora is None:
        raise InputError(
            f"{checkpoint} was trained without LoRA, so it has no adapter; export the whole network."
        )
    with _renamed_when_whole(output) as folder:
        _write_adapter(content, folder) if not merge else _write_network(content, folder)
        for name, text in content.state["tokenizer"].items():
            (folder / name).write_text(text)
    return output


def read(checkpoint: Path) -> Exported:
    """The policy of a checkpoint with its weights; nothing is run from the file but plain data.

    Raises:
        InputError: saying what is not as it should be.
    """
    content = _load(checkpoint)
    state = content.get("lit_posttrain")
    if not isinstance(state, dict) or "state_dict" not in content:
        raise InputError(
            f"{checkpoint} holds no policy of ours (no entry 'lit_posttrain'); give a checkpoint of a fit."
        )
    strange = [name for name in state["tokenizer"] if Path(name).name != name]
    if strange:
        raise InputError(f"{checkpoint} would write the files {strange} outside of the folder; refused.")
    weights = {
        name.removeprefix(PREFIX): value
        for name, value in content["state_dict"].items()
        if name.startswith(PREFIX)
    }
    settings = NetworkConfig.from_dict(state["network"])
    model = empty_model(state["config"], settings)
    missing, unknown = model.load_state_dict(weights, strict=False, assign=True)
    if missing or unknown:
        raise InputError(
            f"{checkpoint} does not fit its own config: missing {missing[:3]}, unknown {unknown[:3]}."
        )
    return Exported(model, settings, state)


def _load(checkpoint: Path) -> dict[str, Any]:
    if checkpoint.is_dir():
        raise InputError(
            f"{checkpoint} is a folder, as sharded training writes it; make it one file first: "
            f"python -m lightning.fabric.utilities.consolidate_checkpoint {checkpoint}"
        )
    if not checkpoint.is_file():
        raise InputError(f"there is no checkpoint {checkpoint}.")
    if not zipfile.is_zipfile(checkpoint):
        raise InputError(f"{checkpoint} is not a file that torch wrote whole; give a checkpoint of a fit.")
    try:
        content = torch.load(checkpoint, map_location="cpu", weights_only=True)
    except (UnpicklingError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{checkpoint} is not a checkpoint that can be read safely: {reason}") from error
    if not isinstance(content, dict):
        raise InputError(f"{checkpoint} holds a {type(content).__name__}; give a checkpoint of a fit.")
    return content


def _write_network(content: Exported, folder: Path) -> None:
    from transformers import GenerationConfig

    model = content.model
    if content.settings.lora is not None:
        model = model.merge_and_unload()
    model.tie_weights()
    model.save_pretrained(folder, max_shard_size=SHARD_SIZE)
    generation = GenerationConfig.from_dict(dict(content.state["generation"]))
    generation.to_json_file(folder / "generation_config.json")


def _write_adapter(content: Exported, folder: Path) -> None:
    content.model.save_pretrained(folder, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)  # peft's empty form


@contextmanager
def _renamed_when_whole(output: Path) -> Iterator[Path]:
    output.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{output.name}.tmp-", dir=output.parent))
    try:
        yield folder
        folder.chmod(0o777 & ~_umask())
        folder.rename(output)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
