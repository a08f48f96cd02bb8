"""Ctrl+C while llama.cpp computes.

Python raises KeyboardInterrupt at its next instruction, which is the first of whatever callback C calls then,
before any ``try`` in it: there it is printed and lost. A handler that only takes a note is safe.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def noting(stop: Callable[[], None]) -> Iterator[None]:
    """Call ``stop`` instead of raising when a signal asks the program to end. Whoever uses this looks afterwards.

    In other threads than the main one, where no signal arrives, it does nothing; nor to signals that are ignored.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    changed = {number: handler for number, handler in before.items() if callable(handler)}
    for number in changed:
        signal.signal(number, lambda *_: stop())
    try:
        yield
    finally:
        for number, handler in changed.items():
            signal.signal(number, handler)
