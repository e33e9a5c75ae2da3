"""Bad input ends at the start with one clear message and exit code 2, without traceback or half-written run."""

from pathlib import Path

import pytest
import yaml
from fakes import SHAPE

from lit_posttrain.cli import main
from lit_posttrain.messages import condensed

CONFIG = {
    "model": {
        "class_path": "GRPOModule",
        "init_args": {
            "network": {"config": SHAPE},
            "text": {"characters": "0123456789+="},
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
    "trainer": {
        "accelerator": "cpu",
        "max_steps": 1,
        "logger": {"class_path": "JournaledMLflowLogger", "init_args": {"experiment": "bad"}},
    },
}


def table(path: str, **columns: str) -> list[str]:
    settings = {"path": path} | columns
    return ["--data.source", "Table", *(f"--data.source.{name}={value}" for name, value in settings.items())]


CASES = {
    "unknown column": (table("rows.jsonl", prompt="nosuch"), "no column nosuch; it has question, answer"),
    "empty dataset": (table("empty.jsonl", prompt="question"), "has no rows"),
    "prompt longer than the context": (["--model.rollouts.sampling.max_new_tokens=58"], "more than 6 tokens"),
    "no room for an answer at all": (["--model.rollouts.sampling.max_new_tokens=70"], "64 positions"),
    "group of 1": (["--model.rollouts.group_size=1"], "set rollouts.group_size >= 2 (got 1)"),
    "mistyped option": (["--model.rollouts.groop_size=4"], "did you mean group_size?"),
    "mistyped trainer option": (["--trainer.max_stepz=4"], "unrecognized arguments"),
    "no such config": (["--config", "nosuch.yaml"], "nosuch.yaml"),
    "unknown class": (["--model.loss=Nonsense"], "Nonsense"),
    "wrong type": (["--model.rollouts.group_size=many"], "many"),
    "sampling that cannot be trained on": (["--model.rollouts.sampling.top_p=0.9"], "plain tempered softmax"),
    "precision that casts batches": (["--trainer.precision=bf16-true"], "bf16-mixed"),
    "data for another method": (["--data=ChatData"], "GRPOModule"),
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("config.yaml").write_text(yaml.safe_dump(CONFIG))
    Path("rows.jsonl").write_text('{"question": "1+1=", "answer": "2"}\n')
    Path("empty.jsonl").write_text("")
    return tmp_path


def refused(arguments, capsys):
    monkey = main(["fit", "--config", "config.yaml", *arguments])
    told = capsys.readouterr().err
    assert monkey == 2
    assert "Traceback" not in told
    assert told.count("lit-posttrain: error:") == 1
    assert not Path("runs").exists()
    assert not Path("mlflow.db").exists()
    return told


@pytest.mark.filterwarnings("ignore:You passed in a `val_dataloader`")  # Lightning says so before our message
@pytest.mark.parametrize("case", CASES)
def test_one_message_and_nothing_left_behind(case, folder, capsys):
    arguments, expected = CASES[case]
    assert expected in refused(arguments, capsys)


def test_a_mistyped_key_in_the_file(folder, capsys):
    wrong = CONFIG | {
        "model": CONFIG["model"] | {"init_args": CONFIG["model"]["init_args"] | {"advantge": None}}
    }
    Path("config.yaml").write_text(yaml.safe_dump(wrong))
    assert "did you mean advantage?" in refused([], capsys)


@pytest.mark.parametrize(
    "content", [{}, {"config.json": '{"model_type": "llama"}'}, {"config.json": "not json"}]
)
def test_a_folder_that_is_no_model(content, folder, capsys):
    Path("model").mkdir()
    for name, text in content.items():
        Path("model", name).write_text(text)
    wrong = CONFIG["model"]["init_args"] | {"network": {"path": "model"}}
    Path("config.yaml").write_text(yaml.safe_dump(CONFIG | {"model": CONFIG["model"] | {"init_args": wrong}}))
    assert "model" in refused([], capsys)


def test_messages_keep_what_tells_something():
    long = "Parser key \"model\":\n  Errors:\n    - Group 'rollouts' does not accept option 'x'\n  Given value: {}"
    assert condensed(long) == "Parser key \"model\":\n  Group 'rollouts' does not accept option 'x'"
