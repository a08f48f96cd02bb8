"""Workers for tests: processes of ``ggufrun worker`` on ports of their own."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

LISTENING = re.compile(r"listening at (\S+:\d+);")


@dataclass
class Worker:
    """A process, its address, and what it said on stderr."""

    process: subprocess.Popen[str]
    address: str
    said: list[str] = field(default_factory=list)


def start(arguments: Sequence[str] = ("--port", "0"), before: Sequence[str] = ()) -> Worker:
    """Start one and wait until it listens; ``before`` is put before the command (``ip netns exec NAME``). The memory
    that it lends is limited, so that what others take meanwhile changes no budget.
    """
    command = [*before, sys.executable, "-m", "ggufrun", "worker", "-t", "1", "--memory", "2048", *arguments]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    assert process.stderr is not None
    said: list[str] = []
    for line in process.stderr:
        said.append(line.strip())
        if found := LISTENING.search(line):
            worker = Worker(process, found[1], said)
            threading.Thread(target=_drain, args=(worker,), daemon=True).start()
            return worker
    raise AssertionError(f"no worker: {said}, exit status {process.wait()}")


def _drain(worker: Worker) -> None:
    assert worker.process.stderr is not None
    for line in worker.process.stderr:
        worker.said.append(line.strip())


def end(worker: Worker) -> None:
    worker.process.kill()
    worker.process.wait(10)


@contextmanager
def running(count: int) -> Iterator[list[Worker]]:
    """So many workers, ended afterwards."""
    workers: list[Worker] = []
    try:
        for _ in range(count):
            workers.append(start())
        yield workers
    finally:
        for worker in workers:
            end(worker)


def addresses(workers: Sequence[Worker]) -> str:
    """As --rpc wants them."""
    return ",".join(worker.address for worker in workers)
