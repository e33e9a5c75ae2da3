"""Hands programs of the suite to the grader."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from attacks.program import Program
from attacks.tasks import REFERENCES
from attacks.world import World
from lit_posttrain.batches import Completion, Grade, Problem, StopReason, Verdict
from lit_posttrain.graders.code_tests import CodeTests
from lit_posttrain.graders.sandbox.interface import Limits, Sandbox

LIMITS = Limits(cpu_s=1.0, wall_s=2.0, memory_mib=384, output_kib=128)
PATIENT = replace(LIMITS, cpu_s=5.0, wall_s=30.0)
"""For programs that end by themselves, however busy the machine is."""


def item(program: Program, text: str) -> tuple[Problem, Completion]:
    """A program as the answer to the task that it is for."""
    completion = text if program.is_raw else f"Here it is.\n```python\n{text}\n```\n"
    problem = Problem(({"role": "user", "content": "Double it."},), REFERENCES[program.task], program.name)
    return problem, Completion(torch.zeros(1, dtype=torch.int64), torch.zeros(1), StopReason.EOS, completion)


def grades(
    programs: Sequence[Program], sandbox: Sandbox, world: World | None, limits: Limits = LIMITS
) -> list[Grade]:
    """One grade per program, in order; those that are asked alike are graded together."""
    found: dict[int, Grade] = {}
    kinds = sorted({(p.isolate, p.scratch_mib) for p in programs})
    for isolate, scratch_mib in kinds:
        alike = [i for i, p in enumerate(programs) if (p.isolate, p.scratch_mib) == (isolate, scratch_mib)]
        grader = CodeTests(
            sandbox=sandbox, limits=replace(limits, scratch_mib=scratch_mib), isolate=isolate, cache_size=0
        )
        texts = [
            world.text(programs[i].name, programs[i].source) if world else programs[i].source for i in alike
        ]
        items = [item(programs[i], text) for i, text in zip(alike, texts, strict=True)]
        found.update(zip(alike, _never_raising(grader, items), strict=True))
    return [found[i] for i in range(len(programs))]


def _never_raising(grader: CodeTests, items: Sequence[tuple[Problem, Completion]]) -> list[Grade]:
    """Grades; a program that makes the grader raise gets a verdict that no program may have."""
    try:
        return grader.grade(items)
    except Exception as error:  # the very thing that must not happen, and whose cause is looked for
        if len(items) == 1:
            return [Grade(None, None, Verdict.GRADER_ERROR, note=f"the grader raised {error!r}"[:300])]
        return [grade for item in items for grade in _never_raising(grader, [item])]
