"""`lit-posttrain sync`: uploads what MLflow has not got of the runs on this disk."""

import sys
from collections.abc import Sequence
from pathlib import Path

from lit_posttrain.errors import InputError
from lit_posttrain.tracking.delivery import UploadReport
from lit_posttrain.tracking.replay import journals
from lit_posttrain.tracking.upload import upload


def sync_command(run_dirs: Sequence[str] = (), *, root: str = "runs", tracking_uri: str | None = None) -> int:
    """Uploads the journals of runs, prints what was sent, and returns 1 if a server could not be reached.

    Args:
        run_dirs: Run directories; default: all below `root` that have a journal.
        root: Where to look for run directories.
        tracking_uri: Send to this store; default: the one that each run was started with.

    Raises:
        InputError: if a named directory has no journal, or the store of a run is not known; the others are
            uploaded before.
    """
    directories = [Path(name) for name in run_dirs] or list(journals(Path(root)))
    for directory in directories:
        if not (directory / "journal.jsonl").exists():
            raise InputError(
                f"{directory} has no journal.jsonl; give run directories, such as runs/EXPERIMENT/RUN"
            )
    if not directories:
        print(f"no run with a journal below {root!r}; give run directories or --root")
        return 0
    reports, problems = [], []
    for directory in directories:
        try:
            reports.append(upload(directory, tracking_uri=tracking_uri))
        except InputError as error:  # of one run, such as an address whose password is not kept on disk
            problems.append(error)
    _print(reports)
    if problems:
        raise InputError("; ".join(str(problem) for problem in problems))
    for message in dict.fromkeys(r.message for r in reports if r.state == "unreachable"):
        print(
            f"{message}\nThe points are safe in the run directories; run the same command again later.",
            file=sys.stderr,
        )
    return int(any(report.state == "unreachable" for report in reports))


def _print(reports: Sequence[UploadReport]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("run", "state", "points sent", "already there", "files sent", "repeated", "refused")
    for r in reports:
        numbers = (r.points, r.present, r.files, r.repeated, r.refused)
        table.add_row(r.directory, r.state, *(str(number) for number in numbers))
    Console().print(table)
