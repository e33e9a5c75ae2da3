"""What a config or a command line may name: nothing foreign is imported before the user has said so."""

import json
import re
import sys
from pathlib import Path

import pytest
import torch
import yaml
from command_line import training_parser
from fakes import ALPHABET, SHAPE

import lit_posttrain
from lit_posttrain import class_paths, guarded_imports
from lit_posttrain.class_paths import Guard, Refused, taken_from
from lit_posttrain.cli import main
from lit_posttrain.errors import InputError
from lit_posttrain.networks import NetworkConfig, build

PACKAGE = Path(lit_posttrain.__file__).parent
MARKER = "import pathlib\npathlib.Path({path!r}).write_text('it ran')\n"
PLANTED = """
import functools, os
from lit_posttrain.graders import ExactMatch
class Part(ExactMatch): pass
def reward(completion, **rest): return float(len(completion))
bound = functools.partial(reward)
shell = functools.partial(os.system, "true")
"""
CONFIG = {
    "model": {
        "class_path": "GRPOModule",
        "init_args": {
            "network": {"config": SHAPE},
            "text": {"characters": ALPHABET},
            "grader": {"class_path": "NumericMatch"},
            "rollouts": {"group_size": 4, "sampling": {"max_new_tokens": 4}},
        },
    },
    "data": {
        "class_path": "PromptData",
        "init_args": {
            "source": {"class_path": "Arithmetic", "init_args": {"train_size": 64, "held_out_size": 16}},
            "problems_per_rollout": 8,
        },
    },
    "trainer": {"accelerator": "cpu", "max_steps": 1, "logger": False},
}

FOREIGN = [  # values that may stand wherever a class may
    "os.system",
    "builtins.eval",
    "subprocess.Popen",
    "torch.load",
    "torch.hub.load",
    "torch.utils.cpp_extension.load",
    "torch.optimx.AdamW",
    "lightning_planted.Part",
    "planted.Part",
    "planted.reward",
]
PLACES = {
    "model": ["--model={}"],
    "model, in braces": ["--model", "{{class_path: {}}}"],
    "model, by key": ["--model.class_path={}"],
    "grader": ["--model.grader={}"],
    "grader, in braces": ["--model.grader", "{{class_path: {}, init_args: {{take: whole}}}}"],
    "optimizer": ["--model.optimizer={}"],
    "schedule": ["--model.init_args.schedule", "{{class_path: {}}}"],
    "network": ["--model.network={}"],
    "free dictionary": ["--model.network.config", "{{model_type: llama, more: [{{class_path: {}}}]}}"],
    "function of a grader": ["--model.grader=PythonFunction", "--model.grader.function={}"],
    "function of a callback": ["--trainer.callbacks=LambdaCallback", "--trainer.callbacks.on_fit_start={}"],
    "data": ["--data={}"],
    "source": ["--data.source", "{{class_path: {}}}"],
    "one more callback": ["--trainer.callbacks+={}"],
    "callbacks": ["--trainer.callbacks", "[{{class_path: {}}}]"],
    "logger": ["--trainer.logger={}"],
    "logger, by key": ["--trainer.logger.class_path={}"],
    "plugins": ["--trainer.plugins+={}"],
    "profiler": ["--trainer.profiler={}"],
    "config on the line": ["--config", "model: {{class_path: {}}}"],
    "help": ["--model.help={}"],
    "help of a part": ["--model.grader.help={}"],
}
NOT_FITTING = {  # of allowed packages
    "transformers.pipeline": "is a function",
    "transformers.Pipeline": "no argument takes",
    "lit_posttrain.cli.main": "no part of a run",
    "lit_posttrain.__main__.main": "private",
    "lit_posttrain.networks.build": "is a function",
    "lit_posttrain.tracking.uploading.UploaderProcess": "no argument takes",
    "torch.nn.functional.relu": "is a function",
    "torch.nn.modules.module.torch.load": "defined in torch.serialization",
    "lightning.pytorch.callbacks.early_stopping.logging.FileHandler": "defined in logging",
    "lightning.pytorch.trainer.trainer.os.system": "defined in posix",
    "lightning.pytorch.plugins.TorchCheckpointIO": "no argument takes",
    "lightning.pytorch.callbacks": "is a module",
}


@pytest.fixture(scope="module")
def parser():
    return training_parser()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working directory, which is on the path: a module there leaves a mark as soon as it is imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "argv", ["lit-posttrain"])
    for name in ("planted", "lightning_planted"):
        Path(f"{name}.py").write_text(MARKER.format(path=str(tmp_path / "marker")) + PLANTED)
    Path("config.yaml").write_text(yaml.safe_dump(CONFIG))
    yield tmp_path
    for name in ("planted", "lightning_planted"):
        sys.modules.pop(name, None)


def untouched(folder):
    assert not (folder / "marker").exists()
    assert not {"planted", "lightning_planted"} & sys.modules.keys()
    return True


def refused(parser, folder, *words):
    """The message with which a command line that follows a good config is refused."""
    with pytest.raises(InputError) as stop:
        parser.parse_args(["fit", "--config", "config.yaml", *words])
    assert untouched(folder)
    return str(stop.value)


def merged(place, value):
    return [word.format(value) for word in PLACES[place]]


@pytest.mark.parametrize("place", PLACES)
def test_a_foreign_name_is_refused_before_its_import(place, folder, parser):
    for value in (
        FOREIGN if place in ("model", "grader", "one more callback") else ["os.system", "planted.Part"]
    ):
        told = refused(parser, folder, *merged(place, value))
        assert told.startswith(f"{value!r} is not allowed")
        assert "lit_posttrain, torch.optim, torch.nn, lightning and transformers" in told
        assert f"--allow-class-path {value.rpartition('.')[0]}" in told


@pytest.mark.parametrize("value", NOT_FITTING)
def test_an_allowed_package_gives_only_what_fits(value, folder, parser):
    for place in ("function of a grader", "optimizer", "one more callback"):
        assert NOT_FITTING[value] in refused(parser, folder, *merged(place, value))


@pytest.mark.parametrize(
    "value", ["torch.nn.Linear", "torch.optim.AdamW", "lit_posttrain.graders.ExactMatch"]
)
def test_the_annotated_type_still_counts(value, folder, parser):
    assert "subclass" in refused(parser, folder, "--model", value)
    assert value in refused(parser, folder, "--model", f"{{class_path: {value}}}")


def test_a_config_file_cannot_allow_itself(folder, parser):
    for key in ("allow-class-path", "allow_class_path"):
        Path("own.yaml").write_text(
            yaml.safe_dump({key: ["planted"], "model": {"class_path": "planted.Part"}})
        )
        assert re.search("planted|allow", refused(parser, folder, "--config", "own.yaml"))
    assert "allow-class-path" in refused(parser, folder, "--model.allow-class-path=planted")


def test_files_below_files_and_defaults_are_read_as_strictly(folder, parser, monkeypatch):
    Path("part.yaml").write_text("class_path: planted.Part\n")
    Path("below.yaml").write_text("model: part.yaml\n")
    assert "planted.Part" in refused(parser, folder, "--model", "part.yaml")
    assert "planted.Part" in refused(parser, folder, "--config", "below.yaml")
    assert "planted.Part" in refused(parser, folder, "--trainer.callbacks", "part.yaml")

    Path("whole.yaml").write_text(yaml.safe_dump({"fit": {"model": {"class_path": "planted.Part"}}}))
    monkeypatch.setattr(parser, "_default_config_files", ["whole.yaml"])
    assert "planted.Part" in refused(parser, folder)
    with pytest.raises((InputError, TypeError), match=r"planted\.Part"):
        parser.get_defaults()
    assert untouched(folder)


def test_environment_variables_are_read_as_strictly(folder, monkeypatch):
    monkeypatch.setenv("JSONARGPARSE_DEFAULT_ENV", "true")
    for name, value in {
        "PL_FIT__MODEL": "planted.Part",
        "PL_FIT__TRAINER__CALLBACKS": "[{class_path: planted.Part}]",
        "PL_FIT__CONFIG": "model: {class_path: planted.Part}",
    }.items():
        with monkeypatch.context() as given:
            given.setenv(name, value)
            assert "planted.Part" in refused(training_parser(), folder), name


@pytest.mark.parametrize("method", ["parse_object", "parse_string", "parse_path", "parse_env"])
def test_every_way_into_the_parser_is_guarded(method, folder, parser):
    content = {"fit": {"model": {"class_path": "planted.Part"}}}
    Path("whole.yaml").write_text(yaml.safe_dump(content))
    given = {
        "parse_object": content,
        "parse_string": yaml.safe_dump(content),
        "parse_path": "whole.yaml",
        "parse_env": {"PL_SUBCOMMAND": "fit", "PL_FIT__MODEL": "planted.Part"},
    }[method]
    with pytest.raises(InputError, match=r"'planted\.Part' is not allowed"):
        getattr(parser, method)(given)
    assert untouched(folder)


def test_yaml_makes_no_objects(folder, parser):
    Path("tag.yaml").write_text("model: !!python/object/apply:planted.reward []\n")
    for words in (
        ["--config", "tag.yaml"],
        ["--config", "model: !!python/name:planted.reward"],
        ["--model", "!!python/object/apply:planted.reward []"],
        ["--model.grader", "!!python/name:planted.reward ''"],
        ["--data", "{class_path: !!python/name:planted.reward }"],
    ):
        assert "python/" in refused(parser, folder, *words)


def test_configs_are_files_of_this_machine(folder, parser):
    for words in (
        ["--config", "http://127.0.0.1:9/config.yaml"],
        ["--config=s3://bucket/config.yaml"],
        ["-c", "mlflow-artifacts:/0/run/artifacts/config.yaml"],
        ["-cfile:///etc/config.yaml"],
        ["--config", "memory::config.yaml"],
    ):
        assert "file of this machine" in refused(parser, folder, *words)
    assert "http" in refused(parser, folder, "--model", "http://127.0.0.1:9/model.yaml")
    fetched = folder / "mlartifacts/0/run/artifacts/config.yaml"  # what MLflow's download leaves
    fetched.parent.mkdir(parents=True)
    fetched.write_text("model: {class_path: planted.Part}\n")
    assert "is not allowed" in refused(parser, folder, "--config", str(fetched))


def test_one_message_and_exit_code_2(folder, capsys):
    for words in (["--model", "os.system"], ["--trainer.logger", "{class_path: planted.Part}"]):
        assert main(["fit", "--config", "config.yaml", *words]) == 2
        told = capsys.readouterr()
        assert told.err.count("lit-posttrain: error:") == 1
        assert "Traceback" not in told.err + told.out
        assert "--allow-class-path" in told.err
    assert main(["fit", "--config", "config.yaml", "--trainer.strategy=planted.Part"]) == 2
    assert untouched(folder)


def test_near_names_are_suggested(folder, parser):
    for wrong in ("NumericMach", "lit_posttrain.graders.NumericMach", "lit_postrain.graders.NumericMatch"):
        assert "did you mean lit_posttrain.graders.NumericMatch?" in refused(
            parser, folder, f"--model.grader={wrong}"
        )
    assert "did you mean group_size?" in refused(parser, folder, "--model.rollouts.groop_size=4")


ALLOW = ["--allow-class-path", "planted"]


def test_the_flag_allows_what_lies_below_its_prefix(folder, parser):
    words = ["fit", "--config", "config.yaml", "--model.grader=planted.Part", *ALLOW]
    parsed = parser.parse_args(words)
    assert parsed.fit.model.init_args.grader.class_path == "planted.Part"
    assert (folder / "marker").exists()
    assert type(parser.instantiate(parsed).fit.model.grader).__module__ == "planted"
    by_function = ["--model.grader=PythonFunction", "--model.grader.function=planted.reward"]
    parser.parse_args([*words[:3], *by_function, "--allow-class-path=planted"])
    with pytest.raises(InputError, match="lightning_planted"):
        parser.parse_args([*words, "--trainer.callbacks+=lightning_planted.Part"])
    assert "lightning_planted" not in sys.modules
    with pytest.raises(InputError, match="is not allowed"):  # it holds for its own command line only
        parser.parse_args(words[:-2])


@pytest.mark.parametrize("value", ["planted.os.system", "planted.os", "planted.shell"])
def test_the_flag_does_not_reach_through_a_module(value, folder, parser):
    words = ["fit", "--config", "config.yaml", *merged("function of a grader", value), *ALLOW]
    with pytest.raises(InputError, match=r"is defined in (os|posix)"):
        parser.parse_args(words)


def test_a_users_reward_function_trains_with_the_flag(folder, capsys):
    reward = {"class_path": "PythonFunction", "init_args": {"function": "planted.reward"}}
    overlay = {"model": {"init_args": {"grader": reward}}, "checkpoint": {"dirpath": "kept"}}
    Path("overlay.yaml").write_text(yaml.safe_dump(overlay))
    words = ["fit", "--config", "config.yaml", "--config", "overlay.yaml"]
    assert main(words) == 2
    assert "--allow-class-path planted" in capsys.readouterr().err
    assert untouched(folder)
    assert main([*words, *ALLOW]) == 0, capsys.readouterr().err


def test_taken_from():
    assert taken_from(["fit", "--allow-class-path", "a.b", "--x=1", "--allow-class-path=c"]) == (
        ["fit", "--x=1"],
        ("a.b", "c"),
    )
    for wrong in (["--allow-class-path"], ["--allow-class-path="], ["--allow-class-path", "a-b"]):
        with pytest.raises(InputError, match="dotted name"):
            taken_from(wrong)


def test_prefixes_are_whole_components():
    guard = Guard(("mine.rewards",))
    for path in ("mine.rewards", "mine.rewards.a", "torch.optim.AdamW", "lightning.pytorch.Callback"):
        guard.check_name(path)
    for path in (
        "mine",
        "mine.rewards2.a",
        "mine_rewards.a",
        "torch",
        "torch.optimx.A",
        "lightnings.A",
        "xtorch.nn.A",
    ):
        with pytest.raises(Refused):
            guard.check_name(path)


def test_only_what_is_parsed_is_guarded():
    import jsonargparse._util

    assert jsonargparse._util.import_object("subprocess.Popen").__name__ == "Popen"
    with guarded_imports.only(), pytest.raises(Refused):
        jsonargparse._util.import_object("subprocess.Popen")


def test_no_import_of_jsonargparse_is_left_unguarded(monkeypatch):
    import jsonargparse._completions
    import jsonargparse._from_config  # noqa: F401 (read only now, and guarded all the same)

    holding = [
        m for name, m in sys.modules.items() if name.startswith("jsonargparse") and "import_object" in vars(m)
    ]
    assert len(holding) >= 5
    assert all(m.import_object is guarded_imports._import_object for m in holding)
    monkeypatch.setattr("jsonargparse._typehints.import_object", guarded_imports._import_unasked)
    with pytest.raises(RuntimeError, match="not guarded"), guarded_imports.only():
        pass


def test_modules_are_refused_too():
    with guarded_imports.only(), pytest.raises(Refused, match="is a module"):
        guarded_imports._check_module("json")


def test_help_tells_of_the_flag(parser, capsys):
    with pytest.raises(SystemExit):
        parser.parse_args(["fit", "--help"])
    assert class_paths.FLAG in capsys.readouterr().out


class Payload:
    """What a hostile pickle holds: a call."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("name", ["weights.pt", "model.ckpt", "pytorch_model.bin"])
def test_a_pickled_checkpoint_is_not_opened(name, folder, capsys):
    torch.save({"state_dict": Payload(folder / "marker")}, folder / name)
    for command in ("fit", "test") if name == "model.ckpt" else ("fit",):
        assert main([command, "--config", "config.yaml", "--ckpt_path", name]) == 2
        assert name in capsys.readouterr().err
    assert main(["export", name, "out"]) == 2
    assert untouched(folder)


@pytest.fixture
def model(folder):
    """A folder that transformers can load."""
    build(NetworkConfig(config=SHAPE)).model.save_pretrained("model")
    return folder / "model"


@pytest.mark.parametrize("case", ["pickled weights", "own code", "pickled adapter"])
def test_a_model_folder_that_would_run_code_is_refused(case, model, folder, capsys):
    config = json.loads((model / "config.json").read_text())
    if case == "pickled weights":
        (model / "model.safetensors").unlink()
        torch.save({"x": Payload(folder / "marker")}, model / "pytorch_model.bin")
    elif case == "own code":
        (model / "planted.py").write_text((folder / "planted.py").read_text())
        config |= {
            "model_type": "planted",
            "auto_map": {"AutoConfig": "planted.Part", "AutoModelForCausalLM": "planted.Part"},
        }
    else:
        torch.save({"x": Payload(folder / "marker")}, model / "adapter_model.bin")
        adapter = {
            "peft_type": "LORA",
            "base_model_name_or_path": str(model),
            "task_type": "CAUSAL_LM",
            "r": 2,
        }
        (model / "adapter_config.json").write_text(json.dumps(adapter))
    (model / "config.json").write_text(json.dumps(config))
    network = {"path": str(model), "config": None}
    Path("overlay.yaml").write_text(yaml.safe_dump({"model": {"init_args": {"network": network}}}))
    assert main(["fit", "--config", "config.yaml", "--config", "overlay.yaml"]) == 2
    assert str(model) in capsys.readouterr().err
    assert untouched(folder)


def test_code_named_in_a_network_config_is_not_run(folder):
    code = {"AutoConfig": "planted.Part", "AutoModelForCausalLM": "planted.Part"}
    given = {"auto_map": code, "trust_remote_code": True, "_name_or_path": str(folder)}
    assert type(build(NetworkConfig(config=SHAPE | given)).model).__name__ == "LlamaForCausalLM"
    assert untouched(folder)


def test_code_of_the_hub_is_trusted_nowhere():
    sources = {path: path.read_text() for path in PACKAGE.rglob("*.py")}
    given = [
        value for text in sources.values() for value in re.findall(r"trust_remote_code\s*=\s*(\w+)", text)
    ]
    assert len(given) >= 3
    assert set(given) == {"False"}
    for path, text in sources.items():
        assert not re.search(
            r"\bpickle\.loads?\(|\btorch\.load\(|weights_only=False|yaml\.(unsafe_|full_)?load\(", text
        ), path
