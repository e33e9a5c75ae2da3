"""Who may import whom: every import of the package against the table of the house."""

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "lit_posttrain"
OURS = "lit_posttrain"

# Each ground module may import those before it.
GROUND = (
    "errors",
    "ranks",
    "interruption",
    "names",
    "batches",
    "keys",
    "candidates",
    "pools",
    "ledger",
    "contracts",
    "collate",
    "encoder",
    "chat_template",
    "turns",
    "loss_mask",
    "text",
    "solution_steps",
)
PARSING = {"class_paths", "config_parser", "guarded_imports", "messages"}  # of the command line
DOORS = {"cli", "training_cli", "__main__", *PARSING}
MAY_IMPORT = {
    "objectives": {"errors", "batches", "contracts"},
    "networks": set(),
    "data": set(),
    "metrics": set(),
    "graders": {"networks"},
    "rollouts": {"networks", "graders"},
    "checkpoints": {"networks"},
    "methods": {"networks", "graders", "rollouts", "metrics"},
    "test_time": {"networks", "graders", "rollouts", "metrics"},
    "tracking": {"networks", "graders", "rollouts", "metrics", "scaling"},
    "scaling": {"errors", "names"},
}
GROUND_FLOOR = {*GROUND, "objectives"}
ALONE = {"objectives", "scaling"}
SLOW_TO_IMPORT = {"torch", "lightning", "transformers", "peft", "datasets", "torchmetrics"}
OPTIONAL = {"vllm", "bitsandbytes", "reasoning_gym"}


@dataclass(frozen=True)
class Import:
    """One import: the importing file, the room that it stands in, and the dotted name that it asks for."""

    file: str
    room: str
    target: str
    line: int

    @property
    def target_room(self) -> str | None:
        """Our room that is imported; None for other packages and for the package itself."""
        parts = self.target.split(".")
        return parts[1] if parts[0] == OURS and len(parts) > 1 else None

    def __str__(self) -> str:
        return f"{self.file}:{self.line} ({self.room}) imports {self.target}"


def imports_of(source: str, file: str) -> Iterator[Import]:
    """Every import of a file, wherever it stands: under TYPE_CHECKING, in functions, by a constant name."""
    parts = Path(file).with_suffix("").parts
    for node in ast.walk(ast.parse(source)):
        for target in _targets(node, parts):
            yield Import(file, parts[0], target, node.lineno)  # type: ignore[attr-defined]


def _targets(node: ast.AST, parts: tuple[str, ...]) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = ".".join([OURS, *parts[: len(parts) - node.level]]) if node.level else None
        module = ".".join(part for part in (base, node.module) if part)
        yield from (f"{module}.{a.name}" if module == OURS else module for a in node.names)
    elif isinstance(node, ast.Call) and _called(node.func) in ("import_module", "__import__"):
        yield from (
            a.value for a in node.args[:1] if isinstance(a, ast.Constant) and isinstance(a.value, str)
        )


def _called(function: ast.expr) -> str:
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def allowed(room: str) -> set[str]:
    """The rooms of ours that a room may import, its own apart."""
    if room in DOORS:
        return {*DOORS, *GROUND_FLOOR, *MAY_IMPORT}
    if room in GROUND:
        return set(GROUND[: GROUND.index(room)])
    return MAY_IMPORT[room] | (set() if room in ALONE else GROUND_FLOOR)


def violations(found: Iterable[Import]) -> list[str]:
    """The imports that go up or sideways."""
    wrong = []
    for one in found:
        target = one.target_room
        if target is None or target in (one.room, "__version__"):
            continue
        if target not in allowed(one.room):
            wrong.append(str(one))
    return wrong


def third_party(one: Import) -> str:
    """The package outside of ours that is imported."""
    return one.target.split(".")[0]


@pytest.fixture(scope="module")
def all_imports() -> list[Import]:
    files = sorted(PACKAGE.rglob("*.py"))
    return [
        one
        for path in files
        if path != PACKAGE / "__init__.py"
        for one in imports_of(path.read_text(), str(path.relative_to(PACKAGE)))
    ]


def test_imports_go_down(all_imports):
    assert len(all_imports) > 100
    assert violations(all_imports) == []


def test_every_room_is_in_the_table():
    rooms = {path.stem if path.is_file() else path.name for path in PACKAGE.iterdir()}
    assert rooms - {"__init__", "__pycache__", "py.typed"} == {*GROUND, *DOORS, *MAY_IMPORT}


def test_package_itself_imports_nothing():
    assert list(imports_of((PACKAGE / "__init__.py").read_text(), "__init__.py")) == []


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("data/chat.py", "from lit_posttrain.methods import SFTModule"),
        ("methods/sft.py", "import lit_posttrain.data.chat"),
        ("networks/load.py", "def f():\n    from lit_posttrain import graders"),
        ("scaling/fit.py", "if TYPE_CHECKING:\n    from lit_posttrain.ledger import Ledger"),
        ("graders/exact.py", "from ..rollouts import draw"),
        ("rollouts/draw.py", "import importlib\nimportlib.import_module('lit_posttrain.tracking.probe')"),
        ("batches.py", "from lit_posttrain.contracts import Grader"),
        ("objectives/policy.py", "from lit_posttrain import keys"),
        ("tracking/probe.py", "from lit_posttrain.cli import main"),
    ],
)
def test_the_checker_finds_a_wrong_import(file, source):
    assert len(violations(imports_of(source, file))) == 1


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("data/chat.py", "from lit_posttrain.objectives.weights import TokenMean"),
        ("data/chat.py", "from .loader import TokenLoader"),
        ("data/sources/words.py", "from ...batches import Problem"),
        ("tracking/probe.py", "from lit_posttrain import __version__"),
        ("cli.py", "from lit_posttrain.training_cli import run"),
        ("objectives/policy.py", "from lit_posttrain.errors import InputError"),
    ],
)
def test_the_checker_lets_a_right_import_pass(file, source):
    assert violations(imports_of(source, file)) == []


def test_objectives_know_only_torch(all_imports):
    wanted = {OURS, "torch", "jaxtyping", *sys.stdlib_module_names}
    assert [str(i) for i in all_imports if i.room == "objectives" and third_party(i) not in wanted] == []


def test_scaling_imports_nothing_slow(all_imports):
    assert [str(i) for i in all_imports if i.room == "scaling" and third_party(i) in SLOW_TO_IMPORT] == []


def test_optional_packages_are_wrapped_by_one_file(all_imports):
    for package in OPTIONAL:
        assert len({i.file for i in all_imports if third_party(i) == package}) <= 1, package


def test_optional_packages_are_known():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = {name: asked for name, asked in project["optional-dependencies"].items() if name != "dev"}
    asked = {one.split(">")[0].split("=")[0].replace("-", "_") for extra in extras.values() for one in extra}
    assert asked <= OPTIONAL


LOADED = """
import sys
from lit_posttrain.cli import main
try:
    main(sys.argv[1:])
except SystemExit as stop:
    assert not stop.code, stop.code
print("loaded:", *sorted({name.split(".")[0] for name in sys.modules}))
"""


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["--version"], ["curve", "fit", "--help"], ["export", "--help"], ["sync", "--help"]],
    ids=" ".join,
)
def test_light_commands_start_light(arguments):
    told = subprocess.run(
        [sys.executable, "-c", LOADED, *arguments], capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout
    loaded = set(told.rpartition("loaded:")[2].split())
    assert "argparse" in loaded
    assert not loaded & (SLOW_TO_IMPORT | {"mlflow", "scipy", "matplotlib"})
