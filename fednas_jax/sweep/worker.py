"""A worker process: runs one trial after another and keeps jax, compiled programs and networks from one to the next.

Started as `python -m fednas_jax.sweep.worker FD CORES`: FD is its end of a pair of sockets, over which lines of JSON
go; CORES are those it may use. It ends at once when the other end is closed, however the sweep ended: a run that is
killed loses a round at most.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import socket
import sys
import threading
from typing import Any


def main(descriptor: int, cores: list[int]) -> None:
    """Works until the sweep ends.

    Args:
      descriptor: of the socket.
      cores: of the processor; none: all.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the sweep hears it, and asks this process to stop
    if cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)
    connection = socket.socket(fileno=descriptor)
    jobs: queue.Queue[dict[str, Any]] = queue.Queue()
    stop = threading.Event()
    threading.Thread(target=_listen, args=(connection, jobs, stop), daemon=True).start()
    # After the affinity: libraries count cores when they are imported.
    from fednas_jax.runtime.cores import use_all_cores

    use_all_cores()
    from fednas_jax.runtime import cache
    from fednas_jax.runtime.shelf import keep_between_runs
    from fednas_jax.sweep.packs import Packed, run_trials

    cache.keep_compiled_programs()
    keep_between_runs()
    _say(connection, {"ready": True})
    while True:
        for outcome in run_trials([Packed(*trial) for trial in jobs.get()["trials"]], stop.is_set):
            _say(connection, {"outcome": list(outcome)})


def _listen(connection: socket.socket, jobs: queue.Queue[dict[str, Any]], stop: threading.Event) -> None:
    """Takes what the sweep says, while the other thread works; however that ends, the process ends with it."""
    try:
        with connection.makefile("rb") as lines:
            for line in lines:
                said = json.loads(line)
                if "stop" in said:
                    stop.set()
                else:
                    jobs.put(said)
    finally:
        # The sweep is gone, perhaps in the midst of a line, or with something that it had not read: nobody waits for
        # what is computed here.
        os._exit(0)


def _say(connection: socket.socket, said: dict[str, Any]) -> None:
    connection.sendall(json.dumps(said).encode() + b"\n")


if __name__ == "__main__":
    main(int(sys.argv[1]), [int(core) for core in sys.argv[2].split(",") if core])
