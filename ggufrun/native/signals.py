"""Ctrl+C where it must not strike at once.

Python raises KeyboardInterrupt at its next instruction. While llama.cpp computes, that is the first of whatever
callback C calls then, before any ``try`` in it: there it is printed and lost. Between a file's creation and the
variable that knows of it, nobody would remove the file. A handler that only takes a note is safe.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


_ears: list[int] = []
_blocks = 0


def blocks() -> int:
    """How many blocks of `note_signals` the main thread has entered or left: which shows that it makes progress."""
    return _blocks


@contextmanager
def heard_by(descriptor: int) -> Iterator[None]:
    """While this lasts, the number of every signal is written to ``descriptor`` at once, whatever Python does. Only in
    the main thread.
    """
    previous = signal.set_wakeup_fd(descriptor, warn_on_full_buffer=False)
    _ears.append(descriptor)
    try:
        yield
    finally:
        _ears.remove(descriptor)
        signal.set_wakeup_fd(previous)


@contextmanager
def note_signals(stop: Callable[[], None]) -> Iterator[None]:
    """A signal that asks the program to end calls ``stop`` at once, and has its usual effect at the end of the block:
    KeyboardInterrupt, or whatever the program has it do.

    In other threads than the main one, where no signal arrives, it does nothing; nor to signals that are ignored.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    if _ears:
        # an event loop, such as the line editor's, has its own meanwhile, and leaves none behind
        signal.set_wakeup_fd(_ears[-1], warn_on_full_buffer=False)
    global _blocks
    _blocks += 1
    noted: set[int] = set()

    def note(number: int, _: object) -> None:
        noted.add(number)
        stop()

    before = {number: signal.getsignal(number) for number in SIGNALS}
    changed = {number: handler for number, handler in before.items() if callable(handler)}
    for number in changed:
        signal.signal(number, note)
    try:
        yield
    finally:
        _blocks += 1
        for number, handler in changed.items():
            signal.signal(number, handler)
        for signalled in noted:
            signal.raise_signal(signalled)


def defer_signals() -> AbstractContextManager[None]:
    """Put signals that ask the program to end off to the end of the block: for a few steps that belong together."""
    return note_signals(lambda: None)
