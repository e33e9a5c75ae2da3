import runpy
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[2] / "tools" / "check_gsm8k_grading.py"


@pytest.mark.realdata
@pytest.mark.parametrize("grader", ["NumericMatch", "MathAnswer"])
def test_grades_agree_with_the_labels(realdata, grader):
    """`--realdata DIR` where DIR, or DIR/gsm8k, holds the files that the tool names."""
    tool = runpy.run_path(str(TOOL))
    folder = realdata / "gsm8k" if (realdata / "gsm8k").is_dir() else realdata
    worked = tool["agreement"](tool["GRADERS"][grader], tool["references"](folder))
    modelled = tool["agreement"](tool["GRADERS"][grader], tool["solutions"](folder))
    assert worked.rows == 8473
    assert worked.disagreements == []
    assert modelled.share >= 0.995
