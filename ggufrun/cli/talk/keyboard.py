"""The keyboard beside the line editor: what Ctrl+C does, and where keys go that are pressed too early."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

HANGUP = 129
"""128 + SIGHUP: what a shell reports for a program whose terminal went away."""

TOLD_TO_END = 130
"""As after Ctrl+C: what every command ends with when it is told to."""


ENDS = ("SIGTERM", "SIGHUP")
"""How a program is told to end, as a service or when its terminal goes away."""


@contextmanager
def on_ctrl_c(action: Callable[[], None], *, ends: bool = False) -> Iterator[None]:
    """While this lasts, Ctrl+C does ``action`` instead of ending the program, and with ``ends`` being told to end."""
    if not _in_main_thread():
        yield
        return
    numbers = [signal.SIGINT, *(getattr(signal, name) for name in ENDS if ends and hasattr(signal, name))]
    heard = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
    previous = {number: signal.signal(number, lambda number, frame: action()) for number in heard}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def _on_resumption(action: Callable[[], None]) -> Iterator[None]:
    if not _in_main_thread():
        yield
        return
    previous = signal.signal(signal.SIGCONT, lambda number, frame: action())
    try:
        yield
    finally:
        signal.signal(signal.SIGCONT, previous)


def _in_main_thread() -> bool:
    """Only there may it be said what a signal does."""
    return threading.current_thread() is threading.main_thread()


def give_up() -> None:
    """What Ctrl+C does by itself."""
    raise KeyboardInterrupt


@contextmanager
def no_echo() -> Iterator[None]:
    """While an answer comes, what is typed ahead waits for the next prompt instead of mixing with the answer."""
    if sys.platform == "win32" or not sys.stdin.isatty():
        yield
        return
    import termios

    keyboard = sys.stdin.fileno()
    before = termios.tcgetattr(keyboard)
    silent = termios.tcgetattr(keyboard)
    silent[3] &= ~termios.ECHO
    termios.tcsetattr(keyboard, termios.TCSADRAIN, silent)

    def resumed() -> None:
        with suppress(termios.error, OSError):
            # in the background (`bg`) the terminal is not ours to set
            if os.tcgetpgrp(keyboard) == os.getpgrp():
                termios.tcsetattr(keyboard, termios.TCSADRAIN, silent)

    try:
        # after Ctrl+Z and `fg` the terminal is as the shell had it
        with _on_resumption(resumed):
            yield
    finally:
        # The terminal may have gone away meanwhile.
        with suppress(termios.error):
            termios.tcsetattr(keyboard, termios.TCSADRAIN, before)


class TerminalGone(KeyboardInterrupt):
    """The terminal went away while a line was read.

    A kind of KeyboardInterrupt because the line editor's event loop lets nothing else out of a callback: whatever else
    a signal handler raises there is shown, and Enter waited for, at a terminal that will never press it.
    """


class Hangup:
    """The terminal may go away: then what is going on stops, nothing is written there any more, and `happened` says so.

    The same when the program is told to end (SIGTERM), but for the terminal, which is still there. ``status`` is what
    the program ends with then. ``stop`` ends an answer. While a line is read (`reading`), the reading ends as after
    Ctrl+D.
    """

    def __init__(self, stop: Callable[[], None]) -> None:
        self.happened = False
        self.status = HANGUP
        self._stop = stop
        self._reading = False
        self._terminals = [number for number in (1, 2) if os.isatty(number)]
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Hangup:
        if threading.current_thread() is threading.main_thread():
            for name in ENDS:
                number = getattr(signal, name, None)
                if number is not None:
                    self._previous[number] = signal.signal(number, self._hear)
        return self

    def __exit__(self, *failure: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _hear(self, number: int, frame: object) -> None:
        if number == signal.SIGTERM:
            self.happened, self.status = True, TOLD_TO_END
        else:
            self.note()
        self._stop()
        if self._reading:
            raise TerminalGone

    def note(self) -> None:
        """The terminal is gone: what would be written there goes nowhere."""
        self.happened = True
        nowhere = os.open(os.devnull, os.O_RDWR)
        for terminal in self._terminals:
            os.dup2(nowhere, terminal)
        os.close(nowhere)

    @contextmanager
    def reading(self) -> Iterator[None]:
        """While a line is read."""
        self._reading = not self.happened
        try:
            yield
        finally:
            self._reading = False
