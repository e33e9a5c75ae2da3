"""The processes of one run side by side, forked from a process that has imported everything already.

As a script it reads jobs, one line of JSON each, and answers each with a line: the exit codes and what was written.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl

HERE = Path(__file__).parent
TIMEOUT_S = 90.0


@dataclass(frozen=True)
class Ended:
    """How a process ended: exit code (minus the signal that ended it), standard output and error, seconds."""

    code: int
    out: str
    err: str
    seconds: float


class Signalled(pl.Callback):
    """Sends a process a signal in the second step, such as the kernel does when it is out of memory.

    Args:
        rank: Of the process.
        number: Of the signal.
    """

    def __init__(self, rank: int, number: int) -> None:
        self.rank, self.number = rank, number

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Sends it."""
        if trainer.global_step == 1 and trainer.global_rank == self.rank:
            os.kill(os.getpid(), self.number)


def free_port() -> str:
    """A port of this machine that nobody uses."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def torchrun_environments(count: int = 2) -> list[dict[str, str]]:
    """What torchrun tells the processes of one node."""
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "WORLD_SIZE": str(count)}
    shared |= {"LOCAL_WORLD_SIZE": str(count), "GROUP_RANK": "0", "TORCHELASTIC_RUN_ID": "none"}
    return [{**shared, "RANK": str(i), "LOCAL_RANK": str(i)} for i in range(count)]


def slurm_environments(count: int = 2) -> list[dict[str, str]]:
    """What srun tells the processes of one node."""
    shared = {"SLURM_JOB_ID": "77", "SLURM_JOB_NAME": "train", "SLURM_NODELIST": "127.0.0.1"}
    shared |= {"SLURM_NTASKS": str(count), "SLURM_NTASKS_PER_NODE": str(count), "SLURM_NNODES": "1"}
    shared |= {"MASTER_PORT": free_port(), "SLURM_NODEID": "0"}
    return [{**shared, "SLURM_PROCID": str(i), "SLURM_LOCALID": str(i)} for i in range(count)]


def forked(
    environments: Sequence[Mapping[str, str]], work: Callable[[int], int], *, together: bool = False
) -> list[Ended]:
    """Runs `work(number)` in one process for each environment.

    Args:
        environments: Of each process.
        work: Gives the exit code.
        together: Whether all are told to end (SIGTERM) as soon as one fails, as torchrun does.
    """
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        running = {_fork(i, e, work, Path(folder)): i for i, e in enumerate(environments)}
        codes: dict[int, tuple[int, float]] = {}
        while running:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid:
                codes[running.pop(pid)] = os.waitstatus_to_exitcode(status), time.monotonic() - began
                if status and together:
                    _signal(running, signal.SIGTERM)
            elif time.monotonic() - began > TIMEOUT_S:
                _signal(running, signal.SIGKILL)
            else:
                time.sleep(0.02)
        told = [[Path(folder, f"{i}.{kind}").read_text() for kind in ("out", "err")] for i in sorted(codes)]
        return [
            Ended(code, out, err, seconds)
            for (_, (code, seconds)), (out, err) in zip(sorted(codes.items()), told, strict=True)
        ]


def _fork(number: int, environment: Mapping[str, str], work: Callable[[int], int], folder: Path) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        for kind, descriptor in (("out", 1), ("err", 2)):
            os.dup2(os.open(folder / f"{number}.{kind}", os.O_WRONLY | os.O_CREAT | os.O_APPEND), descriptor)
        os.environ.update(environment)
        code = work(number)
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    except BaseException:
        sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
        code = 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _signal(running: Mapping[int, int], number: signal.Signals) -> None:
    for pid in running:
        os.kill(pid, number)


class Starter:
    """A process that has imported the command line, and starts runs of it."""

    def __init__(self) -> None:
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE)}
        self.process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def run(
        self, folder: Path, environments: Sequence[Mapping[str, str]], *commands: Sequence[str], **job: Any
    ) -> list[Ended]:
        """Runs a command in each environment, the last one given in the remaining ones."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        given = [list(commands[min(i, len(commands) - 1)]) for i in range(len(environments))]
        line = json.dumps({"folder": str(folder), "environments": environments, "commands": given, **job})
        print(line, file=self.process.stdin, flush=True)
        return [Ended(**ended) for ended in json.loads(self.process.stdout.readline())]

    def close(self) -> None:
        """Ends it."""
        self.process.kill()
        self.process.communicate()


def serve() -> None:
    """Does job after job."""
    import lit_posttrain.__main__ as entry
    import lit_posttrain.training_cli  # noqa: F401 (so that forks need not)

    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        job = json.loads(line)
        os.chdir(job["folder"])
        entry.PATIENCE_S = job.get("patience_s", entry.PATIENCE_S)
        commands = job["commands"]
        ended = forked(
            job["environments"], lambda i, c=commands: entry.main(c[i]), together=job.get("together", False)
        )
        print(json.dumps([asdict(one) for one in ended]), file=answers, flush=True)


if __name__ == "__main__":
    serve()
