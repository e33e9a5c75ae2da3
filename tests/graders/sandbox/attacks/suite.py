"""Runs the programs of the suite: `python -m attacks.suite '[{"level": 2}, …]'` prints a JSON list of outcomes.

Each setting has a process of its own, which as root can turn into an ordinary user and can put itself under a system
call filter before its sandbox starts.
"""

import ctypes
import json
import os
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from mutations import mutated

from attacks import PROGRAMS, Program
from attacks.docker import refuse_namespaces
from attacks.grading import LIMITS, PATIENT, grades
from attacks.remains import descriptors, processes_left
from attacks.tasks import INPUTS
from attacks.world import SECRET_NAME, World, planted
from lit_posttrain.batches import Grade, Verdict
from lit_posttrain.errors import InputError
from lit_posttrain.graders.sandbox.interface import Sandbox
from lit_posttrain.graders.sandbox.local import LocalSandbox

NOBODY = 65534
PR_SET_DUMPABLE, PR_SET_CHILD_SUBREAPER = 4, 36
LATE_S = 0.7
"""Longer than the programs that act late wait."""


@dataclass(frozen=True)
class Setting:
    """Where and as whom the suite runs.

    Args:
        level: The level of the sandbox, no more and no less.
        as_nobody: Whether to give up root first.
        filtered: Whether to refuse namespaces, as Docker's default filter does.
        interpreter: The Python that runs the programs; None for this one.
        rows: Only these rows of the list of attacks; empty for all.
        names: Only programs whose names start with one of these; empty for all.
        is_reduced: Leave out the second forms of slow programs.
        mutations: Run so many mutated programs instead.
        servers: Programs that run side by side.
    """

    level: int = 2
    as_nobody: bool = False
    filtered: bool = False
    interpreter: str | None = None
    rows: Sequence[int] = ()
    names: Sequence[str] = ()
    is_reduced: bool = False
    mutations: int = 0
    servers: int = 2


@dataclass
class Outcome:
    """What became of the suite.

    `wrong` names programs with another verdict than they must have: (name, verdict, allowed, note). `forged` are those
    of them that passed without computing the answer; `escapes` tells what happened outside of the boxes.
    """

    programs: int = 0
    seconds: float = 0.0
    verdicts: dict[str, str] = field(default_factory=dict)
    wrong: list[tuple[str, str, list[str], str]] = field(default_factory=list)
    forged: list[str] = field(default_factory=list)
    escapes: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    skipped: str = ""
    facts: dict[str, str] = field(default_factory=dict)


def main() -> None:
    """Prints the outcomes as JSON."""
    settings = [Setting(**setting) for setting in json.loads(sys.argv[1])]
    print(json.dumps([_in_own_process(setting) for setting in settings]))


def _in_own_process(setting: Setting) -> dict[str, Any]:
    """The outcome of a setting; the process that it runs in has this one's memory, and so saves its imports."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(reading)
            with open(writing, "w") as file:
                json.dump(asdict(_confined(setting)), file)
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    os.close(writing)
    with open(reading) as file:
        text = file.read()
    os.waitpid(pid, 0)
    return json.loads(text) if text else {**asdict(Outcome()), "escapes": ["the grader's process died"]}


def _confined(setting: Setting) -> Outcome:
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    if setting.as_nobody:
        _give_up_root(libc)
    if setting.filtered:
        refuse_namespaces()
    return outcome(setting)


def outcome(setting: Setting) -> Outcome:
    """Plants the world, runs the programs and looks at what is left."""
    secret = os.environ[SECRET_NAME]
    sandbox = LocalSandbox(
        min_level=setting.level,
        max_level=setting.level,
        servers=setting.servers,
        interpreter=setting.interpreter,
        i_accept_unconfined_code=setting.level < 2,
    )
    with planted(secret, setting.interpreter) as world:
        before = descriptors()
        try:
            facts = sandbox.facts()
        except InputError as refusal:
            return Outcome(skipped=str(refusal))
        try:
            found = _graded(setting, sandbox, world, secret)
            time.sleep(LATE_S)
        finally:
            sandbox.close()
        found.facts = facts
        found.escapes += world.damage()
        found.left = processes_left({world.neighbour}) + [f"descriptor {d}" for d in descriptors() - before]
        return found


def chosen(setting: Setting, world: World) -> list[Program]:
    """The programs of a setting."""
    if setting.mutations:
        return mutated(setting.mutations, world.text)
    return [
        program
        for program in PROGRAMS
        if program.lowest_level <= max(setting.level, 2)
        and (not setting.rows or program.row in setting.rows)
        and (not setting.names or program.name.startswith(tuple(setting.names)))
        and not (setting.is_reduced and program.is_slow)
    ]


def _graded(setting: Setting, sandbox: Sandbox, world: World, secret: str) -> Outcome:
    programs = chosen(setting, world)
    start_s = time.monotonic()
    found = Outcome(len(programs))
    for program, grade in zip(programs, _patiently(programs, sandbox, world), strict=True):
        found.verdicts[program.name] = grade.verdict
        if grade.verdict not in program.verdicts:
            found.wrong.append(
                (program.name, grade.verdict, sorted(program.verdicts), ascii(grade.note)[:300])
            )
            found.forged += [program.name] if grade.verdict == "pass" else []
        if secret in repr(grade):
            found.escapes.append(f"the secret is in the grade of {program.name}")
    for program in programs:
        if program.hands_out:
            found.escapes += _handed_out(program, sandbox, world, secret)
    found.seconds = round(time.monotonic() - start_s, 1)
    return found


def _patiently(programs: Sequence[Program], sandbox: Sandbox, world: World) -> list[Grade]:
    """Grades; what ran out of time and should not have, perhaps on a busy machine, is asked again with more."""
    found = grades(programs, sandbox, world)
    again = [
        number
        for number, (program, grade) in enumerate(zip(programs, found, strict=True))
        if grade.verdict is Verdict.TIMEOUT and Verdict.TIMEOUT not in program.verdicts
    ]
    second = grades([programs[number] for number in again], sandbox, world, PATIENT)
    for number, grade in zip(again, second, strict=True):
        found[number] = grade
    return found


def _handed_out(program: Program, sandbox: Sandbox, world: World, secret: str) -> list[str]:
    """What a program got hold of: nothing, where the box holds."""
    with sandbox.open(world.text(program.name, program.source), LIMITS) as box:
        reply = box.call("f", [INPUTS[0]])
    if secret in repr(reply):
        return [f"{program.name} got hold of the secret"]
    if isinstance(reply.value, list) and reply.value[1]:
        return [f"{program.name} achieved {ascii(reply.value[1])[:500]}"]
    return []


def _give_up_root(libc: Any) -> None:
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)
    libc.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)  # else the kernel itself would hide this process from programs
    os.environ["XDG_CACHE_HOME"] = "/tmp"


if __name__ == "__main__":
    main()
