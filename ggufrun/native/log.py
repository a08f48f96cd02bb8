"""llama.cpp's log, kept here instead of on the user's screen: the one place that listens to it.

llama.cpp explains a failure, and what a dry run of its quantizer decided, only in its log. A line belongs to the call
that the same thread is in, so every thread has lines of its own.
"""

from __future__ import annotations

import re
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ggufrun.native.structures import LogCallback

WARN, ERROR, CONTINUED = 3, 4, 5
"""Levels of ``enum ggml_log_level`` as ``ggml.h`` numbers them (2 is info)."""

LOADING = "error loading model: "
"""What llama.cpp puts before the cause when a model cannot be loaded."""

KEPT = 400
"""Warnings and errors that are remembered, of one thread."""

LAST = 3
"""Lines of the log that may belong to the end of the process: what failed, where, in which call."""


class _Lines(threading.local):
    """A thread's warnings and errors. A continued line belongs to the one before it, kept or not."""

    def __init__(self) -> None:
        self.lines: deque[tuple[int, str]] = deque(maxlen=KEPT)
        self.level = 0
        self.captures: list[list[str]] = []


_own = _Lines()
_last: deque[tuple[int, str]] = deque(maxlen=LAST)
"""The last warnings and errors of all threads."""

_bindings: list[Any] = []


def write(level: int, text: str) -> None:
    """Take a piece of the log, as llama.cpp hands it out: a line, or the continuation of one."""
    for capture in _own.captures:
        capture.append(text)
    if level != CONTINUED:
        _own.level = level
        if level in (WARN, ERROR):
            _own.lines.append((level, text))
            _last.append((level, text))
    elif _own.level in (WARN, ERROR):
        for lines in (_own.lines, _last):
            if lines:
                kept, before = lines.pop()
                lines.append((kept, before + text))


def _write(level: int, text: bytes | None, _: Any) -> None:
    write(level, (text or b"").decode("utf-8", "replace"))


# A module global, because llama.cpp keeps the pointer for as long as the process lives: a collected callback crashes.
_callback = LogCallback(_write)


def listen(bindings: Any) -> None:
    """Have ``bindings``, llama-cpp-python's module of C functions, send the log here from now on."""
    _bindings[:] = [bindings]
    bindings.llama_log_set(_callback, None)


def _listen_again() -> None:
    # The package llama_cpp, imported by somebody else in this process, takes the log for itself.
    for bindings in _bindings:
        bindings.llama_log_set(_callback, None)


def forget_log() -> None:
    """Start a fresh log: what comes after belongs to the next call, and is kept here whoever listened meanwhile."""
    _own.lines.clear()
    _last.clear()
    _listen_again()


@contextmanager
def captured_log() -> Iterator[list[str]]:
    """While this lasts, everything that this thread's calls log is appended to the list, in pieces as they come."""
    pieces: list[str] = []
    _listen_again()
    _own.captures.append(pieces)
    try:
        yield pieces
    finally:
        _own.captures[:] = [capture for capture in _own.captures if capture is not pieces]


def errors() -> list[str]:
    """The errors since `forget_log`."""
    return [text.strip() for level, text in _own.lines if level == ERROR and text.strip()]


def warnings() -> list[str]:
    """The warnings since `forget_log`."""
    return [text.strip() for level, text in _own.lines if level == WARN]


def lines() -> list[str]:
    """The warnings and errors since `forget_log`."""
    return [text.strip() for _, text in _own.lines]


def last_errors() -> list[str]:
    """The errors among the last lines of all threads: a card's error is named there only."""
    return [text.strip() for level, text in [*_last] if level == ERROR]


def without_build_path(text: str) -> str:
    """A message of the engine's without the folders of the machine that it was built on.

    >>> without_build_path("/tmp/build/vendor/llama.cpp/ggml/src/ggml.c:12: GGML_ASSERT(a) failed")
    'ggml/src/ggml.c:12: GGML_ASSERT(a) failed'
    """
    return re.sub(r"(?<!\S)(?:\.\.)?/\S*?/(?=(?:ggml/)?src/[\w./-]+:\d+)", "", text)


def reason(default: str) -> str:
    """Why the last call failed, from llama.cpp's own error lines since `forget_log`; ``default`` when it said nothing.

    The first error names the cause; later ones report that the callers failed too.
    """
    found = errors()
    if not found:
        return default
    line = next((text for text in found if LOADING in text), found[0])
    line = without_build_path(line.partition(LOADING)[2] or line)
    # `function_name: message`
    function, separator, message = line.partition(": ")
    return message if separator and function.replace("_", "").isalnum() and "_" in function else line
