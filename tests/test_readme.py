"""Every command of the README exists: targets, scripts, options and the files that it names."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import training_parser

from lit_posttrain import __version__, cli

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
ENVIRONMENT = (". .venv/bin/activate", "python3 -m venv .venv", "pip install", ".venv/bin/pip install")
MADE_BY_QUICKSTART = "runs/"


def commands() -> Iterator[list[str]]:
    """The words of every command in a block marked `bash`, without comments."""
    for block in re.findall(r"```bash\n(.*?)```", README, re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words:
                yield words


COMMANDS = list(commands())
TRAINING = [words[1:] for words in COMMANDS if words[0] == "lit-posttrain" and words[1] in cli.TRAINING]
LIGHT = [words[1:] for words in COMMANDS if words[0] == "lit-posttrain" and words[1] not in cli.TRAINING]
TARGETS = [words[1:] for words in COMMANDS if words[0] == "make"]
SCRIPTS = [words[1:] for words in COMMANDS if words[0] == "python"]


@pytest.fixture(scope="module")
def parser():
    return training_parser()


@pytest.fixture(autouse=True)
def in_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def test_all_commands_are_of_a_known_kind():
    known = len(TRAINING) + len(LIGHT) + len(TARGETS) + len(SCRIPTS)
    others = [" ".join(words) for words in COMMANDS if words[0] not in ("lit-posttrain", "make", "python")]
    assert all(command.startswith(ENVIRONMENT) for command in others)
    assert known + len(others) == len(COMMANDS)


def test_every_subcommand_has_an_example():
    assert {words[0] for words in TRAINING} == set(cli.TRAINING)
    assert {"curve", "export", "sync"} <= {words[0] for words in LIGHT}


@pytest.mark.parametrize("words", TRAINING, ids=" ".join)
def test_training_command_parses(words, parser, capsys):
    shows = [word for word in words if word == "--print_config" or word.endswith(".help")]
    if shows:
        with pytest.raises(SystemExit) as stop:
            parser.parse_args(words)
        assert not stop.value.code
        assert capsys.readouterr().out
    else:
        parsed = parser.parse_args(words)
        assert parsed.subcommand == words[0]


@pytest.mark.parametrize("words", LIGHT, ids=" ".join)
def test_light_command_parses(words, capsys):
    if "--help" in words:
        with pytest.raises(SystemExit) as stop:
            cli.main(words)
        assert not stop.value.code
        assert "curve" in capsys.readouterr().out
    else:
        assert callable(cli.parser().parse_args(words).call)


def test_a_wrong_option_would_be_found(parser):
    with pytest.raises((SystemExit, ValueError)):
        parser.parse_args(["fit", "--config", "configs/smoke/sft.yaml", "--trainer.no_such_option", "1"])


@pytest.mark.parametrize("words", TARGETS, ids=" ".join)
def test_make_target_exists(words):
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(words) <= set(targets)


@pytest.mark.parametrize("words", SCRIPTS, ids=" ".join)
def test_script_exists(words):
    assert (ROOT / words[0]).is_file()


def test_named_files_exist():
    linked = re.findall(r"\]\((?!https?:)([^)#]+)", README)
    given = [word for words in COMMANDS for word in words if re.fullmatch(r"[\w./-]+/[\w.-]+", word)]
    named = {path for path in (*linked, *given) if not path.startswith((".venv/", MADE_BY_QUICKSTART))}
    assert len(named) > 10
    assert [path for path in sorted(named) if not (ROOT / path).exists()] == []


def test_short_commands_run():
    for words, said in ((["--version"], __version__), (["--help"], "sync")):
        run = [sys.executable, "-m", "lit_posttrain", *words]
        assert said in subprocess.run(run, check=True, capture_output=True, text=True).stdout


def test_method_table_names_every_method():
    files = (ROOT / "lit_posttrain/methods").glob("*.py")
    methods = {f"methods/{path.name}" for path in files if "Module(PostTrainModule)" in path.read_text()}
    assert methods
    assert methods <= set(re.findall(r"`(methods/\w+\.py)`", README))


@pytest.fixture
def clone(tmp_path) -> Path:
    """A copy of what is shipped, with an environment that borrows this one's packages and counts as installed."""
    folder = tmp_path / "clone"
    for name in ("lit_posttrain", "configs"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, folder / name)
    programs = folder / ".venv" / "bin"
    programs.mkdir(parents=True)
    (programs / "python").symlink_to(sys.executable)
    door = programs / "lit-posttrain"
    door.write_text(f'#!/bin/sh\nPYTHONPATH={folder} exec {sys.executable} -m lit_posttrain "$@"\n')
    door.chmod(0o755)
    (folder / ".venv" / ".ready").touch()  # newer than what it depends on
    return folder


def said_by(words: list[str], folder: Path) -> str:
    """What a command that ends well prints, without anything of MLflow in its environment."""
    quiet = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    done = subprocess.run(words, cwd=folder, env=quiet, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
def test_quickstart_and_what_follows_it_run_in_a_clone(clone):
    assert "C_mid" in said_by(["make", "quickstart"], clone)
    for ending in ("png", "html", "json"):
        assert (clone / f"runs/quickstart/seed-0/curve/curve.{ending}").stat().st_size > 1000
    assert "lit-posttrain fit --config" not in said_by(["make", "quickstart"], clone)  # nothing twice
    after = [words for words in (*TRAINING, *LIGHT) if "quickstart" in " ".join(words)]
    assert len(after) >= 5
    for words in after:
        said_by([str(clone / ".venv/bin/lit-posttrain"), *words], clone)
