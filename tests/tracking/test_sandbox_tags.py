"""Tags of sandboxes: found wherever graders hide them, told once, before the first step."""

from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest

from lit_posttrain.batches import Grade, Verdict
from lit_posttrain.contracts import Grader
from lit_posttrain.errors import InputError
from lit_posttrain.graders import ExactMatch, WeightedSum
from lit_posttrain.graders.sandbox.interface import Level, Sandbox
from lit_posttrain.tracking.sandbox_tags import SandboxTags, facts_of


class Claim(Sandbox):
    """A sandbox that runs nothing and says how safe that is."""

    def __init__(self, level: int, kernel: str = "6.1") -> None:
        self.claimed, self.kernel = Level(level), kernel

    @property
    def level(self):
        return self.claimed

    def facts(self):
        if self.level < Level.CONFINED:
            raise InputError(f"level {self.level} was proven; 2 is needed")
        return {"sandbox.level": str(int(self.level)), "sandbox.kernel": self.kernel}

    def open(self, source, limits):
        raise NotImplementedError

    def script(self, source, stdin, limits):
        raise NotImplementedError

    def judge(self, tests, ask, limits):
        raise NotImplementedError

    def close(self):
        raise NotImplementedError


@dataclass(frozen=True)
class Runs(Grader):
    sandbox: Sandbox = field(default_factory=lambda: Claim(2))

    def grade(self, items):
        return [Grade(1.0, True, Verdict.PASS) for _ in items]


class Tags:
    def __init__(self) -> None:
        self.told: list[dict[str, str]] = []

    def set_tags(self, tags):
        self.told.append(dict(tags))


def started(module, *callbacks):
    logger = Tags()
    trainer = SimpleNamespace(callbacks=[SandboxTags(), *callbacks], loggers=[logger, object()])
    SandboxTags().on_train_start(trainer, module)  # type: ignore[arg-type]
    return logger.told


def test_the_sandbox_of_the_method_tags_the_run():
    assert started(SimpleNamespace(grader=Runs())) == [{"sandbox.level": "2", "sandbox.kernel": "6.1"}]


def test_graders_of_callbacks_and_composed_ones_are_looked_into():
    composed = WeightedSum([ExactMatch(), Runs(Claim(3))], [1.0, 1.0], names=("text", "code"))
    assert facts_of([SimpleNamespace(), SimpleNamespace(grader=composed)])["sandbox.level"] == "3"
    assert started(SimpleNamespace(), SimpleNamespace(grader=composed))[0]["sandbox.level"] == "3"


def test_what_two_sandboxes_differ_in_is_told_of_both():
    owners = [SimpleNamespace(grader=Runs(Claim(2))), SimpleNamespace(grader=Runs(Claim(3)))]
    assert facts_of(owners) == {"sandbox.level": "2 | 3", "sandbox.kernel": "6.1"}


def test_runs_without_programs_get_no_tags():
    assert started(SimpleNamespace(grader=ExactMatch())) == []


def test_a_sandbox_below_its_level_ends_the_run_before_it_begins():
    with pytest.raises(InputError, match="level 1"):
        started(SimpleNamespace(grader=Runs(Claim(1))))
