"""How long `log_metrics` holds up the training thread: p50 and p99 with a live store and with a dead server.

python tools/bench_logging.py --calls 2000 --interval_s 0.01
"""

import argparse
import socket
import sqlite3
import tempfile
import time
import warnings
from pathlib import Path

from lit_posttrain.names import METRICS
from lit_posttrain.tracking.mlflow import JournaledMLflowLogger

VALUES = 20


def main() -> None:
    """Prints one line per store."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=2000, help=f"calls of {VALUES} values each")
    parser.add_argument("--interval_s", type=float, default=0.01, help="pause between calls")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for name, uri in (("sqlite", f"sqlite:///{root}/mlflow.db"), ("dead server", refusing_address())):
            times_ms, drain_s = measure(uri, root / name, given.calls, given.interval_s)
            times_ms.sort()
            p50, p99 = (times_ms[int(len(times_ms) * share)] for share in (0.5, 0.99))
            print(
                f"{name:12s} {VALUES} values a call: p50 {p50:.3f} ms, p99 {p99:.3f} ms, "
                f"max {times_ms[-1]:.3f} ms; end of run {drain_s:.1f} s"
            )
        print(f"points in sqlite: {stored(root / 'mlflow.db')} of {given.calls * VALUES}")


def measure(uri: str, root: Path, calls: int, interval_s: float) -> tuple[list[float], float]:
    """Milliseconds of every call but the first, which opens the run, and seconds of `finalize`."""
    logger = JournaledMLflowLogger("bench", tracking_uri=uri, root=str(root))
    names = list(METRICS)[:VALUES]
    times_ms = []
    for step in range(calls):
        values = {name: step + i / 7 for i, name in enumerate(names)}
        before = time.perf_counter_ns()
        logger.log_metrics(values, step)
        times_ms.append((time.perf_counter_ns() - before) / 1e6)
        time.sleep(interval_s)
    before_s = time.perf_counter()
    logger.finalize("success")
    return times_ms[1:], time.perf_counter() - before_s


def stored(database: Path) -> int:
    """Rows of MLflow's table of metrics."""
    connection = sqlite3.connect(database)
    (count,) = connection.execute("select count(*) from metrics").fetchone()
    connection.close()
    return count


def refusing_address() -> str:
    """A local port that nobody listens on."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{unused.getsockname()[1]}"


if __name__ == "__main__":
    main()
