"""The card of an exported network: what it is, what it reached, what it cost; only what the checkpoint holds.

A figure that the checkpoint does not hold is left out and named under "Not recorded". Paths of the machine
never get in: of a folder its last name is written, and dataset sources, which may hold paths, are left out.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
import yaml

from lit_posttrain import __version__
from lit_posttrain.ledger import Ledger
from lit_posttrain.networks.load import NetworkConfig

METER, PROBE = "ComputeMeter", "AccuracyProbe"  # the names under which Lightning keeps these callbacks' state
Entries = Mapping[str, str | None]


@dataclass(frozen=True)
class Base:
    """The network that training started from.

    Args:
        name: What it may be called in public: the hub name, a folder's last name, or the type of a random network.
        kind: `hub`, `folder` or `random`.
    """

    name: str
    kind: str


@dataclass(frozen=True)
class CardFacts:
    """What a card is written from.

    Args:
        title: Name of the repository or folder, which the example loads.
        content: The checkpoint without weights.
        settings: Of the network.
        base: What it started from.
        adapter: Whether the folder holds the adapter alone.
        trained: Parameters that were trained.
        frozen: Parameters that were not.
    """

    title: str
    content: Mapping[str, Any]
    settings: NetworkConfig
    base: Base
    adapter: bool
    trained: int
    frozen: int

    @property
    def state(self) -> Mapping[str, Any]:
        """The part of the checkpoint that is ours."""
        return self.content["lit_posttrain"]

    @property
    def method(self) -> str | None:
        """The method's name, if it was noted."""
        noted = self.state.get("method")
        return _plain(noted).removesuffix("Module") if noted else None

    def callback(self, name: str) -> Mapping[str, Any]:
        """The state of a callback; empty if the run had none."""
        return self.content.get("callbacks", {}).get(name) or {}


def base_of(settings: NetworkConfig, is_folder: bool | None = None) -> Base:
    """Where a network came from; `is_folder` is what was noted when it was loaded, None if nothing was."""
    if settings.path is None:
        return Base(str((settings.config or {}).get("model_type")), "random")
    path = Path(settings.path)
    looks_local = path.is_absolute() or settings.path.startswith((".", "~")) or settings.path.count("/") > 1
    if is_folder or (is_folder is None and settings.revision is None and (looks_local or path.is_dir())):
        return Base(path.name or "unnamed", "folder")
    return Base(settings.path, "hub")


def model_card(facts: CardFacts) -> str:
    """The README.md of the folder: YAML front matter and markdown."""
    missing: list[str] = []
    kind = "causal language model" if facts.settings.head is None else "reward model"
    what = f"A LoRA adapter for a {kind}" if facts.adapter else f"A {kind}"
    parts = [
        _front_matter(facts),
        f"# {_plain(facts.title)}",
        f"{what}, post-trained with lit-posttrain.",
        _scores(facts),
        _section("Training", _training(facts), missing),
        _accuracy(facts, missing),
        _section("Compute", _compute(facts.callback(METER)), missing),
        _example(facts),
        _section("Versions", _versions(facts), missing),
    ]
    if missing:
        parts.append("## Not recorded\n\nThe checkpoint says nothing about:\n\n" + _bullets(missing))
    return "\n\n".join(part for part in parts if part) + "\n"


def _scores(facts: CardFacts) -> str:
    """How the scores of a reward model are to be read; nothing for other networks."""
    head = facts.settings.head
    if head is None:
        return ""
    several = f" It is an ensemble of {head.heads}: the reward is their mean." if head.heads > 1 else ""
    if "steps" in facts.state:
        what = "the score after the last token of each step is the log odds that the step is right; `steps.json` says "
        return f"It judges solutions step by step: {what}how steps are written.{several}"
    what = "the score after the last token, its end token, is higher for better answers"
    return f"It judges a whole answer: {what}.{several}"


def _front_matter(facts: CardFacts) -> str:
    values: dict[str, Any] = {"library_name": "peft" if facts.adapter else "transformers"}
    if facts.base.kind == "hub":
        values["base_model"] = facts.base.name
    adapter = facts.settings.adaptation
    kind = None if adapter is None else adapter.label.lower().replace(" ", "-")
    tags = ("lit-posttrain", facts.method and facts.method.lower(), kind)
    values["tags"] = [tag for tag in tags if tag]
    return "---\n" + yaml.safe_dump(values, sort_keys=False) + "---"


def _training(facts: CardFacts) -> Entries:
    return {
        "Method": f"`{facts.method}`" if facts.method else None,
        "Starting network": _start(facts),
        "Optimiser steps": _steps(facts.content),
        "Changed": _changed(facts),
        "Data": _data(facts.state.get("datasets") or []),
        "Run": _run(facts.content),
    }


def _start(facts: CardFacts) -> str:
    base, settings = facts.base, facts.settings
    if base.kind == "random":
        return f"random weights of a `{base.name}` network, seed {settings.seed}"
    if base.kind == "folder":
        return f"the local network `{_plain(base.name)}`"
    return f"`{base.name}`" + (f" at revision `{settings.revision}`" if settings.revision else "")


def _steps(content: Mapping[str, Any]) -> str | None:
    if "global_step" not in content:
        return None
    skipped = content.get("skipped_steps", 0)
    return f"{content['global_step']:,}" + (f", {skipped:,} of them without any signal" if skipped else "")


def _changed(facts: CardFacts) -> str:
    adapter = facts.settings.adaptation
    if adapter is None:
        return f"all {facts.trained:,} parameters of the network were trained, held in {facts.settings.dtype}"
    how = "is all that is here" if facts.adapter else "is merged into the weights"
    return f"{adapter.description} ({facts.trained:,} parameters beside {facts.frozen:,} frozen ones), which {how}"


def _data(entries: Sequence[Mapping[str, str]]) -> str | None:
    named = [f"`{_plain(e['name'])}` ({e['context']}, digest `{_plain(e['digest'])}`)" for e in entries]
    return "; ".join(named) or None


def _run(content: Mapping[str, Any]) -> str | None:
    for logger in content.get("run_state", {}).get("loggers", []):
        if "run_uid" in logger:
            name = f"{_plain(logger['experiment'])}/{_plain(logger['run_name'])}"
            return f"`{name}`, run_uid `{_plain(logger['run_uid'])}`"
    return None


def _accuracy(facts: CardFacts, missing: list[str]) -> str:
    state = facts.callback(PROBE)
    points = [point for point in state.get("points", []) if "scurve/accuracy" in point]
    if not points:
        missing.append("accuracy: no probe point")
        return ""
    best, last = max(points, key=lambda point: point["scurve/accuracy"]), points[-1]
    rows = [_row("last", last)] + ([_row("best", best)] if best is not last else [])
    notes = []
    if best is not last:
        notes.append("The best point was chosen by the figure it shows, which makes it optimistic.")
    if last["step"] != facts.content.get("global_step"):
        notes.append("There is no point of exactly these weights: the last one was measured at another step.")
    head = "| point | step | accuracy | standard error | problems | samples each |\n|---|---|---|---|---|---|"
    measured = _section("", _exam(state.get("settings") or {}, state.get("prompt_set")), missing)
    return "\n\n".join(["## Accuracy", "\n".join([head, *rows]), *notes, measured]).strip()


def _row(name: str, point: Mapping[str, float]) -> str:
    error = point.get("scurve/standard_error")
    figures = (point.get("scurve/problems"), point.get("scurve/samples_per_problem"))
    counts = " | ".join("not recorded" if n is None else f"{n:,.0f}" for n in figures)
    written = "not recorded" if error is None else f"{error:.4f}"
    return f"| {name} | {point['step']:,.0f} | {point['scurve/accuracy']:.4f} | {written} | {counts} |"


def _exam(settings: Mapping[str, Any], prompt_set: str | None) -> Entries:
    sampling = {k: v for k, v in (settings.get("sampling") or {}).items() if v not in (None, (), [])}
    split = settings.get("split")
    return {
        "Split": f"`{_plain(split)}`" if split else None,
        "Prompt set": f"`{_plain(prompt_set)}`" if prompt_set else None,
        "Sampling": ", ".join(f"{k} {_plain(v)}" for k, v in sampling.items()) or None,
    }


def _compute(state: Mapping[str, Any]) -> Entries:
    labels = ("Training FLOPs", "Tokens generated", "Tokens trained", "Device-seconds", "Wall seconds")
    if not state:
        return dict.fromkeys(labels)
    ledger = Ledger()
    ledger.load_state_dict(state["ledger"])
    spent = ledger.training
    device = f" ({_plain(state['device_type'])})" if state.get("device_type") else ""
    figures = (
        f"{spent.flops:.3e}, evaluation not counted",
        f"{spent.generated_tokens:,}",
        f"{spent.trained_tokens:,}",
        f"{state['device_seconds']:,.1f}{device}, evaluation not counted",
        f"{state['wall_seconds']:,.1f}",
    )
    return dict(zip(labels, figures, strict=True))


def _versions(facts: CardFacts) -> Entries:
    noted = facts.state.get("versions") or {}
    trained = ", ".join(f"{name} {number}" for name, number in noted.items())
    packages = {
        "lit-posttrain": __version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    exported = ", ".join(f"{name} {number}" for name, number in packages.items())
    return {"Trained with": trained or None, "Exported with": exported}


def _example(facts: CardFacts) -> str:
    task = "CausalLM" if facts.settings.head is None else "SequenceClassification"
    kind = f"AutoModelFor{task}"
    imports = f"from transformers import {kind}, AutoTokenizer"
    if facts.adapter:
        kind = f"AutoPeftModelFor{task}"
        imports = f"from peft import {kind}\nfrom transformers import AutoTokenizer"
    name = json.dumps(facts.title)
    labels = f", num_labels={facts.settings.head.heads}" if facts.settings.head and facts.adapter else ""
    loads = (
        f"model = {kind}.from_pretrained({name}{labels})\ntokenizer = AutoTokenizer.from_pretrained({name})"
    )
    return f"## Use\n\n```python\n{imports}\n{loads}\n```"


def _section(title: str, entries: Entries, missing: list[str]) -> str:
    """The entries that are known as bullets; the names of the others join `missing`."""
    missing += [name[0].lower() + name[1:] for name, value in entries.items() if value is None]
    known = _bullets([f"{name}: {value}" for name, value in entries.items() if value is not None])
    return f"## {title}\n\n{known}" if known and title else known


def _bullets(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _plain(value: Any) -> str:
    """One line without what markdown would take for its own; of a path, its last name."""
    text = re.sub(r"[`|<>\s]+", " ", str(value)).strip()
    return Path(text).name if text.startswith(("/", "~")) else text
