"""Calls into the engine that are waited for only so long.

A call of C cannot be ended from outside. It can be made on another thread, and left there: where a file or a rule that
somebody wrote makes it endless, whoever waits continues with an error. The thread stays with its call until the process
ends, and nothing that it works on may be freed.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any

from ggufrun.native.signals import defer_signals

POLL = 0.25
"""Seconds between two looks at how much the thread has computed."""

STACK = 64 << 20
"""Bytes of the thread's stack: address space, of which only what is used takes memory."""

_starting = threading.Lock()


class TooLong(Exception):
    """A call has computed for longer than it may."""


class LimitedThread:
    """A thread that makes one call after another, each with a limit. Not for several threads at once."""

    def __init__(self) -> None:
        self._calls: SimpleQueue[Callable[[], Any] | None] = SimpleQueue()
        self._results: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()
        self._thread = threading.Thread(target=_work, args=(self._calls, self._results), daemon=True)
        with _starting:
            before = threading.stack_size(STACK)
            try:
                self._thread.start()
            finally:
                threading.stack_size(before)
        self.stuck = False

    def call(self, function: Callable[[], Any], seconds: float) -> Any:
        """What ``function`` returns or raises; TooLong once it has computed for ``seconds``, and for every call after.

        A signal has its effect afterwards, as in any call of C.
        """
        if self.stuck:
            raise TooLong
        with defer_signals():
            begun = self.computed()
            self._calls.put(function)
            while True:
                try:
                    result, failure = self._results.get(timeout=POLL)
                    break
                except Empty:
                    if self.computed() - begun > seconds:
                        self.stuck = True
                        raise TooLong from None
        if failure is not None:
            raise failure
        return result

    def computed(self) -> float:
        """Seconds of processor time, so that a busy machine does not count; of the clock, where a system tells only
        that.
        """
        clock = getattr(time, "pthread_getcpuclockid", None)
        if clock is None or self._thread.ident is None:
            return time.monotonic()
        return time.clock_gettime(clock(self._thread.ident))

    def close(self) -> None:
        """End the thread, unless it is stuck. Closing twice is fine."""
        self._calls.put(None)


def _work(calls: SimpleQueue[Callable[[], Any] | None], results: SimpleQueue[tuple[Any, BaseException | None]]) -> None:
    while (call := calls.get()) is not None:
        try:
            results.put((call(), None))
        except BaseException as failure:
            results.put((None, failure))
        # or what it refers to would live until the next one
        del call
