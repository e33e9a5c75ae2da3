"""Carries a run's journal to MLflow, in a process of its own: `python -m lit_posttrain.tracking.upload DIR`.

It can be killed, run again, or pointed at another store at any time (see `delivery.py`). How it fares
stands in `uploader.json`, which the training process looks at.
"""

import argparse
import fcntl
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

from lit_posttrain.errors import InputError
from lit_posttrain.tracking.delivery import Uploader, UploadReport, write_json
from lit_posttrain.tracking.journal import is_being_written
from lit_posttrain.tracking.redaction import REDACTED
from lit_posttrain.tracking.replay import Replay
from lit_posttrain.tracking.screen import guard_screen
from lit_posttrain.tracking.store import Unreachable

STATE = "uploader.json"
URI_VARIABLE = "LIT_POSTTRAIN_TRACKING_URI"
POLL_S = 1.0
LONGEST_PAUSE_S = 30.0
LINGER_S = 60.0


def upload(
    directory: Path | str, *, tracking_uri: str | None = None, follow: bool = False, parent: int | None = None
) -> UploadReport:
    """Uploads what a store has not acknowledged of a journal; calling it again changes nothing.

    Args:
        directory: The run directory.
        tracking_uri: The store; default: the one that the run was started with.
        follow: Stay until the run has ended (or `parent` is gone) and all is delivered, trying again while
            the store is unreachable. Without it one attempt is made.
        parent: Process id of the run, for `follow`.

    Raises:
        InputError: if the store's address is not in the journal.
    """
    directory = Path(directory)
    uri = tracking_uri or _recorded_uri(directory)
    if uri is None:
        return UploadReport(str(directory))
    uploader = Uploader(directory, uri)
    with _only_uploader(directory, wait=follow) as alone:
        if not alone:
            return replace(uploader.report, state="busy", message="the run's own uploader is at work")
        uploader = Uploader(directory, uri)  # another one may have moved on while this one waited
        if follow:
            _follow(uploader, parent)
        else:
            _once(uploader)
    return uploader.report


def _once(uploader: Uploader) -> None:
    try:
        uploader.drain()
        alive = not uploader.replay.ended and is_being_written(uploader.directory)
        if not alive:
            uploader.abandon()
        _say(uploader, "running" if alive else "complete")
    except Unreachable as error:
        _say(uploader, "unreachable", str(error))


def _follow(uploader: Uploader, parent: int | None) -> None:
    pause_s, given_up_at = POLL_S, None
    while True:
        gone = parent is not None and os.getppid() != parent
        try:
            uploader.drain()
            if gone:
                uploader.abandon()
            if gone or uploader.replay.ended:
                return _say(uploader, "complete")
            _say(uploader, "running")
            pause_s, given_up_at = POLL_S, None
            time.sleep(POLL_S)
        except Unreachable as error:
            _say(uploader, "unreachable", str(error))
            if gone or uploader.replay.ended:
                given_up_at = given_up_at or time.monotonic() + LINGER_S
                if time.monotonic() > given_up_at:
                    return None
            _pause(uploader, parent, pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)


def _pause(uploader: Uploader, parent: int | None, seconds: float) -> None:
    """Waits, but not once the run has come to its end."""
    before = uploader.replay.ended or (parent is not None and os.getppid() != parent)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        time.sleep(min(POLL_S, seconds))
        uploader.replay.read_on()
        now = uploader.replay.ended or (parent is not None and os.getppid() != parent)
        if now and not before:
            return


def _say(uploader: Uploader, state: str, message: str = "") -> None:
    """Tells the training process, which only looks at the age of this file."""
    report = uploader.report
    if (report.state, report.message) != (state, message) or state != "running":
        report.state, report.message = state, message
        write_json(uploader.directory / STATE, asdict(report))


def _recorded_uri(directory: Path) -> str | None:
    replay = Replay(directory, 0)
    replay.read_on()
    if replay.start is None:
        return None
    uri = replay.start["tracking_uri"]
    if REDACTED in uri:
        uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    if not uri:
        raise InputError(
            f"the address of the MLflow server of {directory} holds a password and is not kept on disk; "
            "give it with --tracking_uri or MLFLOW_TRACKING_URI"
        )
    return uri


@contextmanager
def _only_uploader(directory: Path, *, wait: bool) -> Iterator[bool]:
    with (directory / "uploader.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True


def main(arguments: list[str] | None = None) -> int:
    """Uploads one run directory; exit code 1 if the store is unreachable."""
    guard_screen()
    parser = argparse.ArgumentParser(description="Upload a run's journal to MLflow.")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--tracking_uri", default=os.environ.get(URI_VARIABLE))
    parser.add_argument("--follow", action="store_true", help="stay until the run has ended")
    parser.add_argument("--parent", type=int, help="process id of the run")
    given = parser.parse_args(arguments)
    report = upload(
        given.directory, tracking_uri=given.tracking_uri, follow=given.follow, parent=given.parent
    )
    print(report)
    return int(report.state == "unreachable")


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the run; this one still has to drain
    sys.exit(main())
