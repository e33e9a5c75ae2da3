"""The attack suite: programs of every row of the list of attacks, to be graded on f(n) = 2n.

A program may pass only if it computes 2n. Those of `probes` compute it only where all they tried was denied, so that
the verdict tells whether the box held; what the planted world saw is looked at beside it.
"""

from attacks import (
    ends,
    excess,
    files,
    honest,
    inside,
    kernel,
    late,
    network,
    processes,
    shared,
    space,
    talk,
    text,
    values,
    words,
)
from attacks.program import Program

PROGRAMS: tuple[Program, ...] = tuple(
    program
    for family in (
        honest,
        ends,
        values,
        inside,
        talk,
        words,
        excess,
        processes,
        late,
        files,
        space,
        shared,
        network,
        kernel,
        text,
    )
    for program in family.PROGRAMS
)

__all__ = ["PROGRAMS", "Program"]
