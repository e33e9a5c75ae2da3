"""Worker processes that answer one request at a time and are killed when they take too long.

Usable from any thread: no signal handlers, no alarms. Workers start at the first request, are reused, and end
with their parent (their stdin closes; beside that they look for it every few seconds).
"""

import json
import os
import sys
import threading
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lit_posttrain.graders.worker_process import Outcome, Reply, WorkerProcess, WorkerStartError

ATTEMPTS = 3


@dataclass(eq=False)
class WorkerPool:
    """Up to `size` processes that run one task file of this room (see `worker_loop`).

    Args:
        task: File name of the task.
        size: Processes at most; further requests wait.
        wall_s: Seconds after which a worker is killed.
        cpu_s: CPU seconds after which the kernel ends it, per stage; None for no such limit.
        options: What the task's `prepare` gets.
        quiet: Whether to drop what the task prints.
    """

    task: str
    size: int
    wall_s: float
    cpu_s: float | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    quiet: bool = True

    def __post_init__(self) -> None:
        self._reset()

    def ask(self, request: Mapping[str, Any]) -> Reply:
        """Sends a request and waits for its end.

        A worker that dies by something else than its limits is replaced and asked again, so that a kill from
        outside costs nothing; after three deaths the outcome is `DIED`.

        Raises:
            WorkerStartError: if no worker can be started.
        """
        if self._owner != os.getpid():
            self._reset()  # forked: the parent's workers are not ours
        line = json.dumps(request).encode() + b"\n"
        reply = Reply(Outcome.DIED)
        with self._free:
            for _ in range(ATTEMPTS):
                worker = self._take()
                try:
                    reply = worker.exchange(line, self.wall_s)
                finally:
                    self._put_back(worker)
                if reply.outcome is not Outcome.DIED:
                    break
        return reply

    def close(self) -> None:
        """Kills all workers; a later request starts new ones."""
        if self._owner == os.getpid():
            with self._lock:
                self._idle.clear()
            _kill_all(self._workers, self._owner)

    def _take(self) -> WorkerProcess:
        with self._lock:
            if self._idle:
                return self._idle.pop()
        options = {**self.options, "cpu_s": self.cpu_s, "path": sys.path}
        worker = WorkerProcess(self.task, options, self.quiet)
        with self._lock:
            self._workers.add(worker)
        try:
            worker.wait_ready()
        except WorkerStartError:
            self._put_back(worker)
            raise
        return worker

    def _put_back(self, worker: WorkerProcess) -> None:
        with self._lock:
            if worker.is_alive and worker in self._workers:
                self._idle.append(worker)
            else:
                self._workers.discard(worker)

    def _reset(self) -> None:
        self._owner = os.getpid()
        self._lock = threading.Lock()
        self._free = threading.BoundedSemaphore(self.size)
        self._idle: list[WorkerProcess] = []
        self._workers: set[WorkerProcess] = set()
        weakref.finalize(self, _kill_all, self._workers, self._owner)

    def __reduce__(self) -> tuple[Any, ...]:
        return WorkerPool, (self.task, self.size, self.wall_s, self.cpu_s, self.options, self.quiet)


def _kill_all(workers: set[WorkerProcess], owner: int) -> None:
    if owner == os.getpid():
        while workers:
            workers.pop().kill()
