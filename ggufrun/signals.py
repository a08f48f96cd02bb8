"""Ctrl+C where it must not strike at once.

Python raises KeyboardInterrupt at its next instruction. While llama.cpp computes, that is the first of whatever
callback C calls then, before any ``try`` in it: there it is printed and lost. Between a file's creation and the
variable that knows of it, nobody would remove the file. A handler that only takes a note is safe.
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


@contextmanager
def held() -> Iterator[None]:
    """Put KeyboardInterrupt off to the end of the block: for a few steps that belong together."""
    asked = False

    def note() -> None:
        nonlocal asked
        asked = True

    with noting(note):
        yield
    if asked:
        raise KeyboardInterrupt
