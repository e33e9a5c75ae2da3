import copy
from types import SimpleNamespace

import huggingface_hub
import pytest
import yaml
from fakes import TEXT, grpo, prompt_data, tiny, trainer

from lit_posttrain import cli
from lit_posttrain.batches import Sampling
from lit_posttrain.checkpoints import folder, push
from lit_posttrain.checkpoints.export import export
from lit_posttrain.checkpoints.model_card import CardFacts, base_of, model_card
from lit_posttrain.checkpoints.run_state import RunState
from lit_posttrain.errors import InputError
from lit_posttrain.networks import LoraSettings, NetworkConfig, build, network_state
from lit_posttrain.networks.state import stored_names
from lit_posttrain.text import load_text
from lit_posttrain.tracking.compute import ComputeMeter
from lit_posttrain.tracking.mlflow import JournaledMLflowLogger
from lit_posttrain.tracking.probe import AccuracyProbe

NOTHING = {
    "seconds": 0.0,
    "flops": 0.0,
    "causal_flops": 0.0,
    "positions": 0,
    "generated_tokens": 0,
    "trained_tokens": 0,
}
LEDGER = {
    "rollout": {**NOTHING, "flops": 1e12, "generated_tokens": 5000},
    "grading": NOTHING,
    "scoring": NOTHING,
    "update": {**NOTHING, "flops": 2.5e12, "trained_tokens": 4000},
    "evaluation": {**NOTHING, "flops": 9e15, "generated_tokens": 77},
}


def point(step: int, accuracy: float) -> dict[str, float]:
    return {
        "step": step,
        "scurve/accuracy": accuracy,
        "scurve/standard_error": 0.0125,
        "scurve/problems": 1319,
        "scurve/samples_per_problem": 4,
    }


CONTENT = {
    "global_step": 50,
    "skipped_steps": 2,
    "lit_posttrain": {
        "method": "GRPOModule",
        "versions": {"torch": "9.9.9"},
        "datasets": [{"name": "Table-train", "context": "training", "digest": "abc", "source": "/home/me/x"}],
    },
    "callbacks": {
        "ComputeMeter": {
            "device_seconds": 3600.0,
            "active_seconds": 3500.0,
            "wall_seconds": 4000.0,
            "ledger": LEDGER,
            "device_type": "cpu",
        },
        "AccuracyProbe": {
            "points": [point(0, 0.1), point(40, 0.5), point(50, 0.45)],
            "prompt_set": "0123abcd",
            "settings": {
                "split": "validation",
                "sampling": {"temperature": 0.5, "top_p": 1.0, "stop_token_ids": ()},
            },
        },
    },
    "run_state": {"loggers": [{}, {"run_uid": "u1d", "experiment": "gsm8k", "run_name": "first"}]},
}
HUB = NetworkConfig(path="Owner/Base-1B", revision="v2", lora=LoraSettings(rank=4, alpha=8.0))


def card(content=CONTENT, settings=HUB, adapter=False) -> str:
    base = base_of(settings, content["lit_posttrain"].get("base_is_folder"))
    return model_card(CardFacts("me/mine", content, settings, base, adapter, trained=1200, frozen=34000))


def front(text: str) -> dict:
    return yaml.safe_load(text.split("---\n")[1])


def without(*keys: str) -> dict:
    """The content without one entry, named by its path."""
    content = copy.deepcopy(CONTENT)
    place = content
    for key in keys[:-1]:
        place = place[key]
    del place[keys[-1]]
    return content


def test_every_figure_of_the_checkpoint_is_in_the_card():
    text = card()
    for line in (
        "# me/mine",
        "- Method: `GRPO`",
        "- Starting network: `Owner/Base-1B` at revision `v2`",
        "- Optimiser steps: 50, 2 of them without any signal",
        "- Changed: a LoRA adapter of rank 4 and alpha 8 on all-linear (1,200 parameters beside 34,000 frozen "
        "ones), which is merged into the weights",
        "- Data: `Table-train` (training, digest `abc`)",
        "- Run: `gsm8k/first`, run_uid `u1d`",
        "| last | 50 | 0.4500 | 0.0125 | 1,319 | 4 |",
        "| best | 40 | 0.5000 | 0.0125 | 1,319 | 4 |",
        "- Split: `validation`",
        "- Prompt set: `0123abcd`",
        "- Sampling: temperature 0.5, top_p 1.0",
        "- Training FLOPs: 3.500e+12, evaluation not counted",
        "- Tokens generated: 5,000",
        "- Tokens trained: 4,000",
        "- Device-seconds: 3,600.0 (cpu), evaluation not counted",
        "- Wall seconds: 4,000.0",
        "- Trained with: torch 9.9.9",
    ):
        assert line in text.splitlines(), line
    assert "Not recorded" not in text
    assert "optimistic" in text
    assert "/home" not in text
    assert front(text) == {
        "library_name": "transformers",
        "base_model": "Owner/Base-1B",
        "tags": ["lit-posttrain", "grpo", "lora"],
    }


@pytest.mark.parametrize(
    ("path", "named", "gone"),
    [
        (("lit_posttrain", "method"), "method", "GRPO"),
        (("lit_posttrain", "datasets"), "data", "Table"),
        (("lit_posttrain", "versions"), "trained with", "9.9.9"),
        (("run_state",), "run", "u1d"),
        (("global_step",), "optimiser steps", "- Optimiser steps"),
        (("callbacks", "AccuracyProbe"), "accuracy: no probe point", "## Accuracy"),
        (("callbacks", "AccuracyProbe", "settings"), "sampling", "temperature"),
        (("callbacks", "ComputeMeter"), "training FLOPs", "## Compute"),
    ],
)
def test_what_the_checkpoint_lacks_is_left_out_and_said(path, named, gone):
    text = card(without(*path))
    assert gone in card()
    assert gone not in text
    assert f"- {named}" in text.partition("## Not recorded")[2].splitlines()


def test_a_checkpoint_that_says_nothing_gives_no_figure():
    text = card({"lit_posttrain": {}})
    figures = [line for line in text.splitlines() if line.startswith("|") or "FLOPs:" in line]
    assert figures == []
    assert text.partition("## Not recorded")[2].count("\n- ") == 11


def test_a_point_of_other_weights_is_called_so():
    content = copy.deepcopy(CONTENT)
    content["global_step"] = 51
    assert "no point of exactly these weights" in card(content)
    assert "no point of exactly these weights" not in card()
    del content["callbacks"]["AccuracyProbe"]["points"][-1]["scurve/standard_error"]
    assert "| last | 50 | 0.4500 | not recorded | 1,319 | 4 |" in card(content)


@pytest.mark.parametrize(
    ("settings", "start"),
    [
        (NetworkConfig(path="/home/me/models/tiny"), "the local network `tiny`"),
        (NetworkConfig(path="~/models/tiny"), "the local network `tiny`"),
        (NetworkConfig(path="./tiny"), "the local network `tiny`"),
        (NetworkConfig(path="runs/a/tiny"), "the local network `tiny`"),
        (
            NetworkConfig(config={"model_type": "llama"}, seed=3),
            "random weights of a `llama` network, seed 3",
        ),
    ],
)
def test_a_base_that_is_not_on_the_hub_is_not_linked(settings, start):
    text = card(settings=settings)
    assert f"- Starting network: {start}" in text.splitlines()
    assert "base_model" not in front(text)
    assert "/home" not in text
    assert "all 1,200 parameters of the network were trained" in text


def test_what_was_noted_about_the_base_wins_over_its_look():
    content = copy.deepcopy(CONTENT)
    content["lit_posttrain"]["base_is_folder"] = True
    assert "base_model" not in front(card(content, NetworkConfig(path="runs/tiny")))
    content["lit_posttrain"]["base_is_folder"] = False
    assert front(card(content, NetworkConfig(path="runs/tiny")))["base_model"] == "runs/tiny"


def test_an_adapter_is_loaded_by_peft():
    text = card(adapter=True)
    assert front(text)["library_name"] == "peft"
    assert 'AutoPeftModelForCausalLM.from_pretrained("me/mine")' in text
    assert "which is all that is here" in text


def test_names_cannot_break_out_of_the_card():
    content = copy.deepcopy(CONTENT)
    content["run_state"]["loggers"][1] |= {"run_name": "a`\n# Heading\n<script>", "token": "hf_secret"}
    text = card(content)
    assert "# Heading" not in text.splitlines()
    assert "<script>" not in text
    assert "hf_secret" not in text


def test_the_card_of_a_real_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    meter = ComputeMeter()
    probe = AccuracyProbe(
        problems=4,
        samples_per_problem=2,
        every_n_steps=1,
        split="train",
        sampling=Sampling(temperature=0.5, max_new_tokens=4),
    )
    run = trainer(
        max_steps=2,
        logger=JournaledMLflowLogger("tries", "one", root=str(tmp_path / "runs"), upload=False),
        callbacks=[meter, probe, RunState()],
    )
    module = grpo(tiny(lora=LoraSettings(rank=2)))
    run.fit(module, prompt_data())
    content = run._checkpoint_connector.dump_checkpoint()
    folder.write(tmp_path / "last.ckpt", content)
    text = (export(tmp_path / "last.ckpt", tmp_path / "out") / "README.md").read_text()
    last = probe.points[-1]
    assert (
        f"| last | 2 | {last['scurve/accuracy']:.4f} | {last['scurve/standard_error']:.4f} | 4 | 2 |" in text
    )
    assert f"- Training FLOPs: {module.ledger.training.flops:.3e}" in text
    assert f"run_uid `{run.logger.run_uid}`" in text
    assert "random weights of a `llama` network, seed 0" in text
    assert str(tmp_path) not in text
    assert yaml.safe_load(text.split("---\n")[1])["library_name"] == "transformers"


@pytest.fixture
def hub(monkeypatch):
    """A hub that notes what it is asked; `refuses` makes an upload fail, `public` is what is there already."""
    state = SimpleNamespace(calls=[], refuses=None, public=False)

    class Api:
        def create_repo(self, name, **how):
            state.calls.append(("create_repo", name, how))
            return f"https://hub.example/{name}"

        def repo_info(self, name):
            return SimpleNamespace(private=not state.public)

        def create_branch(self, name, **how):
            state.calls.append(("create_branch", name, how))

        def upload_folder(self, **how):
            if state.refuses is not None:
                raise state.refuses
            state.calls.append(("upload_folder", sorted(p.name for p in how["folder_path"].iterdir()), how))

    monkeypatch.setattr(push, "HfApi", Api)
    monkeypatch.setattr(push, "get_token", lambda: "hf_token")
    monkeypatch.setattr(push, "is_offline_mode", lambda: False)
    return state


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A LoRA checkpoint of a random network."""
    network, path = build(tiny(lora=LoraSettings(rank=2))), tmp_path_factory.mktemp("fit") / "fit.ckpt"
    weights = {f"policy.{name}": network.state_dict()[name].detach() for name in stored_names(network)}
    folder.write(path, {"state_dict": weights, "lit_posttrain": network_state(network, load_text(TEXT))})
    return path


def test_push_uploads_the_whole_folder(hub, checkpoint, tmp_path, capsys):
    command = ["export", str(checkpoint), str(tmp_path / "out"), "--push", "me/mine"]
    assert cli.main([*command, "--private", "--revision", "try"]) == 0
    create, branch, upload = hub.calls
    assert create == ("create_repo", "me/mine", {"private": True, "repo_type": "model", "exist_ok": True})
    assert branch == ("create_branch", "me/mine", {"branch": "try", "exist_ok": True})
    assert {"model.safetensors", "config.json", "tokenizer.json", "README.md"} <= set(upload[1])
    assert (upload[2]["repo_id"], upload[2]["revision"]) == ("me/mine", "try")
    assert upload[2]["folder_path"] == tmp_path / "out"
    assert "adapter_config.json" in upload[2]["delete_patterns"]
    assert "# me/mine" in (tmp_path / "out" / "README.md").read_text()
    assert "https://hub.example/me/mine" in capsys.readouterr().out
    for file in (tmp_path / "out").iterdir():
        assert b"hf_token" not in file.read_bytes()


@pytest.mark.parametrize(
    "name", ["mine", "a/b/c", "me/mi ne", "me/--", "/mine", "me/", "https://x.y/me/mine"]
)
def test_a_name_that_is_none_is_refused_before_any_work(hub, checkpoint, tmp_path, name, capsys):
    assert cli.main(["export", str(checkpoint), str(tmp_path / "out"), "--push", name]) == 2
    assert "OWNER/NAME" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert hub.calls == []


@pytest.mark.parametrize(
    ("part", "value", "said"),
    [("is_offline_mode", True, "HF_HUB_OFFLINE"), ("get_token", None, "hf auth login")],
)
def test_without_network_or_token_nothing_is_done(hub, tmp_path, monkeypatch, capsys, part, value, said):
    monkeypatch.setattr(push, part, lambda: value)
    assert cli.main(["export", "x.ckpt", str(tmp_path / "out"), "--push", "me/mine"]) == 2
    assert said in capsys.readouterr().err
    assert hub.calls == []


@pytest.mark.parametrize(
    "error",
    [
        PermissionError("403 Forbidden: you may not"),
        ConnectionError("403 no way there"),
        huggingface_hub.errors.HTTPError("403 broken"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_refused_push_leaves_the_folder_and_says_how_to_go_on(hub, checkpoint, tmp_path, capsys, error):
    hub.refuses = error
    assert cli.main(["export", str(checkpoint), str(tmp_path / "out"), "--push", "me/mine"]) == 2
    said = capsys.readouterr().err
    assert "403" in said
    assert f"hf upload me/mine {tmp_path / 'out'}" in said
    assert (tmp_path / "out" / "model.safetensors").exists()


def test_private_never_uploads_to_a_public_repository(hub, checkpoint, tmp_path, capsys):
    hub.public = True
    command = ["export", str(checkpoint), str(tmp_path / "out"), "--push", "me/mine"]
    assert cli.main([*command, "--private"]) == 2
    assert "is public" in capsys.readouterr().err
    assert [call[0] for call in hub.calls] == ["create_repo"]


def test_an_adapter_of_a_base_that_nobody_has_is_not_pushed(hub, checkpoint, tmp_path, capsys):
    command = ["export", str(checkpoint), str(tmp_path / "out"), "--adapter", "--push", "me/mine"]
    assert cli.main(command) == 2
    assert "not on the hub" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert hub.calls == []


def test_options_of_a_push_need_a_push(tmp_path, capsys):
    assert cli.main(["export", "x.ckpt", str(tmp_path / "out"), "--private"]) == 2
    assert "--push" in capsys.readouterr().err


def test_errors_name_no_repository_twice():
    with pytest.raises(InputError, match="names no owner"):
        push.Destination("mine")
