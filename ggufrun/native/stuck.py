"""A second Ctrl+C where the first was not heard.

Python obeys a signal between two of its own instructions. In a call of the engine's that does not come back, that is
never. A thread of its own hears of signals at once; when a second one comes while the main thread is where it was at
the first, and stays there, the thread ends the process.
"""

from __future__ import annotations

import os
import select
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from ggufrun.native import signals

GRACE = 1.0
"""Seconds from the second signal until the process is ended: a launcher may send both at once, and what reacts to the
first, such as the removal of a file that is half written, is to come to its end."""

POLL = 0.05
"""Seconds between two looks at what the main thread does."""

STOP = b"\0"
"""No signal has this number."""


@contextmanager
def end_if_stuck(leave: Callable[[], None]) -> Iterator[None]:
    """While this lasts, a second signal ends the process, wherever it is, by way of ``leave``, which does not return.

    ``leave`` runs on a thread of its own while the engine computes: it must not call the engine. In other threads than
    the main one, where no signal arrives, and on Windows this does nothing.
    """
    if sys.platform == "win32" or threading.current_thread() is not threading.main_thread():
        yield
        return
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    watcher = threading.Thread(target=_watch, args=(reading, threading.get_ident(), leave), daemon=True)
    watcher.start()
    with signals.heard_by(writing):
        try:
            yield
        finally:
            os.write(writing, STOP)
            watcher.join()
    os.close(reading)
    os.close(writing)


def _watch(reading: int, thread: int, leave: Callable[[], None]) -> None:
    place: Place | None = None
    deadline: float | None = None
    while True:
        if select.select([reading], [], [], POLL if place else None)[0]:
            heard = os.read(reading, 64)
            if STOP in heard:
                return
            ends = sum(number in signals.SIGNALS for number in heard)
            if ends and (place or ends > 1) and deadline is None:
                deadline = time.monotonic() + GRACE
            if ends and place is None:
                # Python's own reaction, if there is one, has begun by then
                time.sleep(POLL)
                place = _place(thread)
        if place and not _is_there(thread, place):
            place = deadline = None
        if deadline is not None and time.monotonic() > deadline:
            leave()


Place = tuple[FrameType, int, int]
"""A frame, the instruction in it, and the blocks of `signals.note_signals` until then. As long as the frame is kept, no
other is mistaken for it.
"""


def _place(thread: int) -> Place | None:
    """Where a thread is."""
    frame = sys._current_frames().get(thread)
    return None if frame is None else (frame, frame.f_lasti, signals.blocks())


def _is_there(thread: int, place: Place) -> bool:
    """Has the thread not moved on? It may be in a callback meanwhile."""
    frame = sys._current_frames().get(thread)
    while frame is not None:
        if frame is place[0]:
            return frame.f_lasti == place[1] and signals.blocks() == place[2]
        frame = frame.f_back
    return False
