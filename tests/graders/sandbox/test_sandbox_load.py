"""Honest and hostile programs side by side: the same verdicts as one by one, and nothing left behind."""

import os

from attacks.grading import PATIENT, grades
from attacks.mixed import mixed
from attacks.remains import children, descriptors, processes_left

from lit_posttrain.graders.sandbox.local import LocalSandbox

COUNT = 100


def test_verdicts_under_load_are_those_of_one_by_one() -> None:
    """Two servers, 100 programs; then the machine looks as it did before."""
    programs = mixed(COUNT)
    before = children(), descriptors()
    together, alone = LocalSandbox(servers=2), LocalSandbox(servers=1)
    try:
        side_by_side = [grade.verdict for grade in grades(programs, together, None, PATIENT)]
        one_by_one = [grades([program], alone, None, PATIENT)[0].verdict for program in programs]
    finally:
        together.close()
        alone.close()
    assert side_by_side == one_by_one
    wrong = [(p.name, v) for p, v in zip(programs, one_by_one, strict=True) if v not in p.verdicts]
    assert wrong == []
    assert processes_left(set(before[0])) == []
    assert descriptors() == before[1]
    assert [name for name in os.listdir("/dev/shm") if "mixed" in name] == []
