"""Many programs of mixed intent, in a fixed order; only such whose verdict does not hang on the machine's speed."""

import itertools
import random

from attacks import PROGRAMS, Program

ROWS = (1, 2, 3, 4, 5, 6, 7, 9, 10, 13, 14, 18, 20, 28, 30, 31, 33, 34, 37)
LEFT_OUT = (
    "big_stack",
    "thread_bomb",
    "endless_prints",
    "endless_both",
    "10_mb",
    "kills_parent",
    "returns_100_mb",
)
SHARE_HONEST = 0.5


def mixed(count: int, seed: int = 7) -> list[Program]:
    """About half of them honest; programs come again with another comment, so that no cache knows them."""
    quick = [
        p
        for p in PROGRAMS
        if p.row in ROWS
        and len(p.verdicts) == 1
        and not p.hands_out
        and not p.scratch_mib
        and "@" not in p.source
        and not any(part in p.name for part in LEFT_OUT)
    ]
    draw = random.Random(seed)
    honest = [p for p in quick if p.row == 1]
    hostile = [p for p in quick if p.row != 1]
    draw.shuffle(hostile)
    turns = itertools.cycle(hostile)
    return [
        _again(draw.choice(honest) if draw.random() < SHARE_HONEST else next(turns), i) for i in range(count)
    ]


def _again(program: Program, number: int) -> Program:
    text = program.source if program.is_raw or "\0" in program.source else f"{program.source}\n# {number}\n"
    return Program(
        program.row,
        f"mixed_{number}_{program.name}",
        text,
        program.verdicts,
        task=program.task,
        isolate=program.isolate,
        is_raw=program.is_raw,
    )
