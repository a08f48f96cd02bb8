"""The keyboard beside the line editor: what Ctrl+C does, and where keys go that are pressed too early."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def on_ctrl_c(action: Callable[[], None]) -> Iterator[None]:
    """While this lasts, Ctrl+C does ``action`` instead of ending the program."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGINT, lambda number, frame: action())
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


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
    try:
        yield
    finally:
        termios.tcsetattr(keyboard, termios.TCSADRAIN, before)
