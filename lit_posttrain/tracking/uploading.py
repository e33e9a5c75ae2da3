"""The uploader as the training process sees it: started, glanced at, and waited for a bounded time."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_warn

from lit_posttrain.tracking.redaction import in_text
from lit_posttrain.tracking.upload import STATE, URI_VARIABLE

GLANCE_S = 3.0
LOG = "uploader.log"


class UploaderProcess:
    """Runs `python -m lit_posttrain.tracking.upload` beside the training and warns, once, of what goes wrong.

    Args:
        directory: The run directory.
        uri: The store; handed over in the environment, since it may hold a password.
    """

    def __init__(self, directory: Path, uri: str) -> None:
        self.directory, self.uri = directory, uri
        self._warned: set[str] = set()
        self._seen = 0
        self._next_glance = time.monotonic() + GLANCE_S
        self._process: subprocess.Popen[bytes] | None = None
        self._start()

    def watch(self) -> None:
        """Looks, at most every `GLANCE_S` seconds, whether the store answers; costs a stat."""
        if time.monotonic() < self._next_glance:
            return
        self._next_glance = time.monotonic() + GLANCE_S
        if self._process is not None and self._process.poll() is not None:
            self._warn(
                "ended", f"the uploader ended early, see {self.directory / LOG}; points are kept there."
            )
        self._report()

    def finish(self, drain_s: float) -> None:
        """Waits until all is delivered, but at most `drain_s` seconds, and not for a store that is away."""
        if self._process is None or self._process.poll() is not None:
            self._start()
        started = time.time_ns()
        until = time.monotonic() + drain_s
        while self._process is not None and self._process.poll() is None and time.monotonic() < until:
            if self._state(newer_than_ns=started).get("state") == "unreachable":
                break
            time.sleep(0.05)
        self._report()
        if self._state().get("state") != "complete":
            self._warn("late", f"MLflow at {in_text(self.uri)} has not taken all points of this run yet.")

    def _start(self) -> None:
        command = [sys.executable, "-m", "lit_posttrain.tracking.upload", str(self.directory), "--follow"]
        environment = {**os.environ, URI_VARIABLE: self.uri, "CUDA_VISIBLE_DEVICES": ""}
        try:
            with (self.directory / LOG).open("ab") as log:
                self._process = subprocess.Popen(
                    [*command, "--parent", str(os.getpid())],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=environment,
                    start_new_session=True,
                )
        except OSError as error:
            self._warn("start", f"the uploader could not be started ({error}).")

    def _state(self, newer_than_ns: int = 0) -> dict[str, str]:
        try:
            if os.stat(self.directory / STATE).st_mtime_ns < newer_than_ns:
                return {}
            return json.loads((self.directory / STATE).read_text())
        except FileNotFoundError:
            return {}

    def _report(self) -> None:
        state = self._state(newer_than_ns=self._seen + 1)
        if not state:
            return
        self._seen = os.stat(self.directory / STATE).st_mtime_ns
        if state["state"] == "unreachable":
            self._warn("unreachable", state["message"])
        if state["refused"]:
            self._warn("refused", f"MLflow refused {state['refused']} records, see refused.jsonl there.")

    def _warn(self, kind: str, message: str) -> None:
        if kind not in self._warned and not (kind == "late" and "unreachable" in self._warned):
            rank_zero_warn(
                f"{message} Training goes on; everything is kept in {self.directory}; "
                f"`lit-posttrain sync {self.directory}` uploads it."
            )
        self._warned.add(kind)
