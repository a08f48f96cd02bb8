"""When the engine ends the process: a worker died, a card failed or ran out of memory. What can be kept is kept, and
one line says what happened.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress


@contextmanager
def guarded(save: Callable[[], str] = lambda: "") -> Iterator[None]:
    """While this lasts, an engine that ends the process (a worker died, a card ran out of memory, a mapped file was cut
    short) is told in one line; and a second Ctrl+C ends an engine that does not come back.

    ``save`` keeps what can be kept and returns a word about it.
    """
    from ggufrun.native.abort import last_words
    from ggufrun.native.stuck import end_if_stuck

    restore = _terminal()

    def leave(line: str, status: int) -> None:
        kept = ""
        try:
            kept = save()
        finally:
            line = f"ggufrun: {line}{f'; {kept}' if kept else ''}\n"
            restore()
            if sys.stderr.isatty():
                line = "\r\x1b[K\x1b[?25h" + line
            os.write(2, line.encode("utf-8", "replace"))
            os._exit(status)

    with last_words(lambda message: leave(died(message), 1)), end_if_stuck(lambda: leave("interrupted", INTERRUPTED)):
        yield


INTERRUPTED = 130
"""128 + SIGINT: what a shell reports for a program that Ctrl+C ended."""


def _terminal() -> Callable[[], None]:
    """Brings the terminal back to how it is now: what is typed is not shown while an answer comes."""
    try:
        import termios

        keyboard = sys.stdin.fileno()
        settings = termios.tcgetattr(keyboard)
    except (ImportError, OSError, ValueError, termios.error):
        return lambda: None

    def restore() -> None:
        with suppress(termios.error):
            termios.tcsetattr(keyboard, termios.TCSANOW, settings)

    return restore


ENDS = (
    (
        r"Remote RPC server crashed|ggml-rpc",
        "a worker of --rpc died or cannot be reached any more; start it again, and this",
    ),
    (
        r"out of memory|OutOfDeviceMemory|OutOfHostMemory",
        "the card ran out of memory; give fewer layers (-ngl), a shorter context (-c) or a larger --fit-target",
    ),
    (
        r"mem_buffer != NULL|failed to allocate",
        "the computer ran out of memory; take a shorter context (-c) or a smaller type, or close something",
    ),
    (
        r"no kernel image",
        "this engine is built for other cards than this one; `make cuda` builds it for those here, -dev leaves one out",
    ),
    (
        r"busy or unavailable",
        "another program has the card for itself; wait for it, or choose another card with CUDA_VISIBLE_DEVICES",
    ),
    (
        r"ErrorDeviceLost|launch timed out|unspecified launch failure|illegal memory access|uncorrectable ECC",
        "the card failed in the middle of the work ({line}); try again, and `ggufrun doctor` if that does not help",
    ),
    (
        r"it crashed \(SIGBUS\)",
        "the model's file became shorter while it was in use, or its disk failed; start this again when the file is "
        "whole, and let nothing be written to it meanwhile",
    ),
    (
        r"it crashed",
        "the engine crashed ({line}); the model's file may be damaged, or made to do harm: `ggufrun verify FILE`, or "
        "download it again",
    ),
    (r"(?:CUDA|ROCm) error: ", "the card failed: {line}; `ggufrun doctor` tries it"),
)
"""What the engine says when it ends the process, and what that means; the first that is found counts."""


def died(message: str) -> str:
    """The engine's last message, in words that help."""
    lines = message.splitlines()
    for pattern, meaning in ENDS:
        if line := next((line for line in lines if re.search(pattern, line)), ""):
            return meaning.format(line=line.rpartition("rror: ")[2].removeprefix("it crashed ").strip("() "))
    reason = lines[0] if lines else "it gave no reason"
    if re.search(r"\.(c|cpp|h):\d+: ", reason):
        todo = "the model's file may be damaged: `ggufrun verify FILE`, or download it again"
    else:
        todo = "try again, and `ggufrun doctor` if that does not help"
    return f"the engine gave up: {reason}; {todo}"
