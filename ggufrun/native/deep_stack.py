"""A call into the engine with as much stack as it may need.

llama.cpp cuts a text up for a BPE vocabulary by a regular expression. The C++ library matches one by a function that
calls itself once a character: a run of 27,000 letters (a page of base64, a long line of Chinese without a stop) is more
than the 8 MB of stack that a program has, and there is no error for that, only the end of the process.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from typing import TypeVar

from ggufrun.errors import EngineError
from ggufrun.native.signals import defer_signals

T = TypeVar("T")

A_CHARACTER = 1024
"""Bytes of stack; 310 with GCC 12's library."""

MOST = 1 << 30
"""Bytes of a stack. It is address space; memory is what is used of it."""

BASE = 1 << 20

RUN = re.compile(r"[^\W\d_]+|\d+|\s+|[^\w\s]+|_+")
"""What an expression takes in one go, roughly: letters, digits, blanks, or anything else."""

_one = threading.Lock()


def stack_for(text: str) -> int:
    """Bytes of stack with which ``text`` can be cut up. EngineError for one with a run that is too long for any."""
    run = len(text)
    if run * A_CHARACTER + BASE > MOST:
        run = max(match.end() - match.start() for match in RUN.finditer(text))
        # marks on letters are no letters to the pattern here, and combine two runs to one
        run *= 2
    if run * A_CHARACTER + BASE > MOST:
        raise EngineError(
            f"the text has a run of {run // 2} letters, digits or signs without a break, too long to tokenize",
            "break it up, by blanks or lines",
        )
    return BASE + run * A_CHARACTER


def with_stack(call: Callable[[], T], size: int) -> T:
    """What ``call`` returns or raises, made on a thread with a stack of ``size`` bytes. EngineError where there is no
    room for one. A signal has its effect afterwards: what ``call`` works on must not go away under it.
    """
    results: list[T] = []
    failures: list[BaseException] = []

    def run() -> None:
        try:
            results.append(call())
        except BaseException as failure:
            failures.append(failure)

    thread = threading.Thread(target=run)
    with defer_signals():
        with _one:
            # of the threads that are started until it is set back
            before = threading.stack_size(-(-size // 65536) * 65536)
            try:
                thread.start()
            except RuntimeError as error:
                raise EngineError(f"no room for a stack of {size >> 20} MiB: the text is long", "split it") from error
            finally:
                threading.stack_size(before)
        thread.join()
    if failures:
        raise failures[0]
    return results[0]
