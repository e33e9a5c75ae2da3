"""Records the losses that tests/golden compares with; say in the commit why they changed."""

import json
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def main() -> None:
    """Runs every golden run and writes tests/golden/losses.json."""
    sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "golden")]
    from runs import RUNS, losses  # type: ignore[import-not-found]

    recorded = {name: [round(value, 7) for value in losses(name)] for name in RUNS}
    (ROOT / "tests" / "golden" / "losses.json").write_text(json.dumps(recorded, indent=1) + "\n")
    for name, values in recorded.items():
        print(f"{name}: {values[0]:.5f} … {values[-1]:.5f}")


if __name__ == "__main__":
    main()
