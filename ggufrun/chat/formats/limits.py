"""Bounds for code from a stranger: how long it may run, and how much memory it may ask for meanwhile."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Bounds:
    """``seconds`` of processor time, of which a template takes milliseconds, and ``n_bytes`` of memory beyond what the
    process has already.
    """

    seconds: float = 5.0
    n_bytes: int = 1 << 30


class OutOfTime(Exception):
    """It took longer than its bounds allow."""


@contextmanager
def bounded(bounds: Bounds) -> Iterator[None]:
    """While this lasts, `OutOfTime` ends what takes too long, and MemoryError what wants too much.

    The former in the main thread and not on Windows, the latter on Linux only.
    """
    with ExitStack() as stack:
        if hasattr(signal, "setitimer") and threading.current_thread() is threading.main_thread():
            stack.enter_context(_timed(bounds.seconds))
        if sys.platform == "linux":
            stack.enter_context(_limited(bounds.n_bytes))
        yield


@contextmanager
def _timed(seconds: float) -> Iterator[None]:
    def late(number: int, frame: object) -> None:
        raise OutOfTime

    previous = signal.signal(signal.SIGVTALRM, late)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, previous)


@contextmanager
def _limited(n_bytes: int) -> Iterator[None]:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    with Path("/proc/self/statm").open() as file:
        now = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    wanted = min(limit for limit in (now + n_bytes, soft, hard) if limit != resource.RLIM_INFINITY)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_AS, (wanted, hard))
    try:
        yield
    finally:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
