"""From a training checkpoint to a Hugging Face folder that any other program loads."""

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, GenerationConfig

from lit_posttrain.checkpoints import folder as storage
from lit_posttrain.checkpoints import recovery
from lit_posttrain.checkpoints.model_card import Base, CardFacts, base_of, model_card
from lit_posttrain.checkpoints.push import Destination, check_ready, push
from lit_posttrain.errors import InputError
from lit_posttrain.networks.load import NetworkConfig, build
from lit_posttrain.networks.merging import merge as merged
from lit_posttrain.networks.merging import refuse_unmergeable
from lit_posttrain.networks.network import CausalNetwork
from lit_posttrain.networks.quantised import count
from lit_posttrain.networks.state import check_stored, empty_model, plain
from lit_posttrain.solution_steps import StepFormat
from lit_posttrain.text import load_text

PREFIX = "policy."
SHARD_SIZE = "5GB"
CARD = "README.md"
INCIDENTAL = {"_name_or_path", "transformers_version", "architectures", "dtype", "torch_dtype"}


@dataclass(frozen=True)
class StoredPolicy:
    """The policy of a checkpoint: its Hugging Face model (or `PeftModel`) with weights, and what else there is.

    `settings` has the base as it is named now, `base` is what it may be called; `content` is the checkpoint
    without weights and optimiser, `directory` where it was read in the end.
    """

    model: Any
    settings: NetworkConfig
    base: Base
    content: Mapping[str, Any]
    directory: Path

    @property
    def state(self) -> Mapping[str, Any]:
        """What the checkpoint holds of ours."""
        return self.content["lit_posttrain"]


def export_command(
    checkpoint: Path | str,
    output: Path | str,
    *,
    adapter: bool = False,
    base: str | None = None,
    to: Destination | None = None,
) -> int:
    """Writes the policy of a checkpoint as a Hugging Face folder, pushes it if asked; returns the exit status.

    That of a reward model's checkpoint is a classifier, which graders load, and `AutoModelForSequenceClassification`.

    Args:
        checkpoint: A checkpoint of a fit, or a link to one.
        output: The folder to write; it must not exist.
        adapter: Write only the adapter instead of merging it into the network.
        base: Where the base network of an adapter checkpoint is now, if it has moved.
        to: The repository on the hub that the folder goes to.
    """
    if to is not None:
        check_ready()
    name = None if to is None else to.name
    folder = export(Path(checkpoint), Path(output), merge=not adapter, base=base, repository=name)
    megabytes = sum(file.stat().st_size for file in folder.iterdir()) / 1e6
    kind = "adapter and tokenizer" if adapter else "network, tokenizer and generation settings"
    print(f"{checkpoint} -> {folder}: {kind}, {megabytes:,.1f} MB")
    if to is not None:
        print(f"{folder} -> {push(folder, to)}")
    return 0


def export(
    checkpoint: Path,
    output: Path,
    *,
    merge: bool = True,
    base: str | None = None,
    repository: str | None = None,
) -> Path:
    """Writes safetensors, config, generation config, tokenizer, chat template and card; returns the folder.

    Everything is written beside the folder and renamed at the end, so `output` is whole or not there.

    Args:
        checkpoint: A checkpoint of a `PostTrainModule`, single or sharded.
        output: A folder that does not exist yet.
        merge: Whether an adapter is merged into the weights; otherwise only the adapter is written.
        base: Hub name or folder of the base network of an adapter checkpoint, if it is not where it was.
        repository: Name on the hub that the folder is meant for.

    Raises:
        InputError: if that is no checkpoint, the folder exists, there is no adapter to write or to merge, the base
            is another one, or an adapter is meant for the hub while its base is not there.
    """
    if output.exists():
        raise InputError(f"{output} exists already; give a folder that does not.")
    policy = read(checkpoint, merge=merge, base=base)
    if not merge and repository is not None and policy.base.kind != "hub":
        raise InputError(
            f"the adapter's base, {policy.base.name!r}, is not on the hub (it is of kind {policy.base.kind!r}), so "
            "nobody could use the adapter from there; push the merged network, or name the base by --base OWNER/NAME."
        )
    facts = _facts(policy, repository or output.name, adapter=not merge)
    with _renamed_when_whole(output) as folder:
        _write_network(policy, folder) if merge else _write_adapter(policy, folder)
        for name, text in policy.state["tokenizer"].items():
            (folder / name).write_bytes(text.encode())
        if "steps" in policy.state:
            StepFormat(**policy.state["steps"]).save(folder)
        (folder / CARD).write_text(model_card(facts), encoding="utf-8")
        _check_vocabulary(policy, folder)
    return output


def read(checkpoint: Path, *, merge: bool = True, base: str | None = None) -> StoredPolicy:
    """The policy of a checkpoint with its weights; nothing is run from the files but plain data.

    The base of an adapter checkpoint is loaded to be merged with, or to be checked where `base` names it; to take
    the adapter alone out of a checkpoint it need not be there.

    Raises:
        InputError: saying what is not as it should be.
    """
    directory, content = recovery.first_sound(checkpoint, storage.read)
    state = content.get("lit_posttrain")
    if not isinstance(state, dict) or "state_dict" not in content:
        raise InputError(
            f"{checkpoint} holds no policy of ours (no entry 'lit_posttrain'); give a checkpoint of a fit."
        )
    strange = [name for name in state["tokenizer"] if Path(name).name != name or name in ("", "..")]
    if strange:
        raise InputError(f"{checkpoint} would write the files {strange} outside of the folder; refused.")
    settings = _settings(NetworkConfig.from_dict(state["network"]), directory, merge=merge, base=base)
    if settings.adaptation is None or (not merge and base is None):
        network = CausalNetwork(empty_model(state["config"], settings), settings, state["config"])
        network.base_digest = state.get("base_digest")
    else:
        network = _base(settings, state, directory)
    _fill(network, content, directory)
    told = {name: value for name, value in content.items() if name not in ("state_dict", "optimizer_states")}
    public = base_of(settings, state.get("base_is_folder") if base is None else None)
    return StoredPolicy(network.model, settings, public, told, directory)


def _settings(stored: NetworkConfig, directory: Path, *, merge: bool, base: str | None) -> NetworkConfig:
    """How to build the network: with the base where it is now, and on a kernel that every machine has."""
    adapter = stored.adaptation
    if adapter is None and not merge:
        raise InputError(
            f"{directory} was trained without adapters, so it has no adapter; leave --adapter away."
        )
    if adapter is None and base is not None:
        raise InputError(
            f"{directory} was trained without adapters and holds all its weights; leave --base {base} away."
        )
    if adapter is not None and merge:
        refuse_unmergeable(adapter)
    runs_here = "eager" if stored.attention == "flash_attention_2" else stored.attention
    settings = replace(stored, attention=runs_here, gradient_checkpointing=False)
    return settings if base is None else replace(settings, path=base, config=None, revision=None)


def _base(settings: NetworkConfig, state: Mapping[str, Any], directory: Path) -> CausalNetwork:
    """The base network with fresh adapters, built as the run built it.

    Raises:
        InputError: if it is not there, or has other weights or another config than in training.
    """
    try:
        network = build(settings)
    except InputError as error:
        raise InputError(
            f"{directory} holds adapters alone, and their base could not be loaded; say by --base where it is. {error}"
        ) from error
    name, expected = settings.path or "the random network of its config", state.get("base_digest")
    if network.base_digest != expected:
        raise InputError(
            f"the adapters of {directory} were trained on a base with digest {expected}; {name} has "
            f"{network.base_digest}, so its weights are others. Give the same base by --base."
        )
    before = plain(
        AutoConfig.for_model(**state["config"]).to_dict()
    )  # with the defaults of this transformers
    now = plain(network.original)
    changed = sorted(key for key in {*before, *now} - INCIDENTAL if before.get(key) != now.get(key))
    if changed:
        raise InputError(
            f"{name} has the weights of the adapters' base, but its config differs in {changed}."
        )
    return network


def _fill(network: CausalNetwork, content: Mapping[str, Any], directory: Path) -> None:
    """Puts the weights of the checkpoint into the network, which may have no memory for its own."""
    weights = {name: value for name, value in content["state_dict"].items() if name.startswith(PREFIX)}
    if network.settings.adaptation is None:
        weights = _with_tied(weights, network.model.all_tied_weights_keys, directory)
    try:
        check_stored(network, {**content, "state_dict": weights}, prefix=PREFIX)
    except InputError as error:
        raise InputError(f"{directory} does not fit its own config: {error}") from error
    network.load_state_dict(
        {name.removeprefix(PREFIX): value for name, value in weights.items()}, strict=False, assign=True
    )
    if network.settings.adaptation is None:
        network.model.tie_weights()


def _with_tied(weights: dict[str, Tensor], tied: Mapping[str, str], directory: Path) -> dict[str, Tensor]:
    """Completes weights that are one tensor under two names.

    Raises:
        InputError: if the two are there and differ: one of them would be lost.
    """
    weights = dict(weights)
    for pair in tied.items():
        names = [f"{PREFIX}model.{name}" for name in pair]
        there = [weights[name] for name in names if name in weights]
        if len(there) == 2 and not torch.equal(*there):
            raise InputError(
                f"{directory} says that {' and '.join(pair)} are one tensor, and holds two that differ; "
                "the run untied them, so set tie_word_embeddings: false in the config of the next one."
            )
        if there:
            weights |= dict.fromkeys(names, there[0])
    return weights


def _facts(policy: StoredPolicy, title: str, *, adapter: bool) -> CardFacts:
    counts = {True: 0, False: 0}
    for parameter in policy.model.parameters():
        counts[parameter.requires_grad] += count(parameter)
    return CardFacts(
        title,
        policy.content,
        policy.settings,
        policy.base,
        adapter,
        trained=counts[True],
        frozen=counts[False],
    )


def _write_network(policy: StoredPolicy, folder: Path) -> None:
    model = policy.model
    if policy.settings.adaptation is not None:
        model = merged(model, policy.settings)
    if policy.settings.head is None:
        model.generation_config = GenerationConfig()  # its own may hold what transformers refuses to save
    else:
        model.config.pad_token_id = padding_of(policy.state["generation"])
    model.save_pretrained(folder, max_shard_size=SHARD_SIZE)
    generation = GenerationConfig.from_dict(dict(policy.state["generation"]))
    generation.to_json_file(folder / "generation_config.json")


def padding_of(generation: Mapping[str, Any]) -> int | None:
    """The padding token of an exported reward model; None where that is the end token too.

    transformers takes the score after the last token that is not padding: it would leave out an end that looks
    like it. Without a padding token it takes the last one, and refuses several texts at once.
    """
    ends = generation["eos_token_id"]
    end = ends[0] if isinstance(ends, list) else ends
    pad = generation["pad_token_id"]
    return None if pad == end else pad


def _write_adapter(policy: StoredPolicy, folder: Path) -> None:
    policy.model.save_pretrained(folder, save_embedding_layers=False)


def _check_vocabulary(policy: StoredPolicy, folder: Path) -> None:
    """Reads the tokenizer back; its ids must have embeddings."""
    highest, rows = load_text(folder).highest_id, policy.model.get_input_embeddings().weight.shape[0]
    if highest >= rows:
        raise InputError(
            f"the tokenizer in {policy.directory} writes ids up to {highest}, its network has {rows} embeddings."
        )


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
