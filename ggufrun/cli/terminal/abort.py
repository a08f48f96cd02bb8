"""When the engine ends the process: a worker died, a card failed or ran out of memory. What can be kept is kept, and
one line says what happened.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def guarded(save: Callable[[], str] = lambda: "") -> Iterator[None]:
    """While this lasts, an engine that ends the process (a worker died, a card ran out of memory) is told in one line.

    ``save`` keeps what can be kept and returns a word about it.
    """
    from ggufrun.native.abort import last_words

    def leave(message: str) -> None:
        kept = ""
        try:
            kept = save()
        finally:
            line = f"ggufrun: {died(message)}{f'; {kept}' if kept else ''}\n"
            if sys.stderr.isatty():
                line = "\r\x1b[K\x1b[?25h" + line
            os.write(2, line.encode("utf-8", "replace"))
            os._exit(1)

    with last_words(leave):
        yield


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
    (r"(?:CUDA|ROCm) error: ", "the card failed: {line}; `ggufrun doctor` tries it"),
)
"""What the engine says when it ends the process, and what that means; the first that is found counts."""


def died(message: str) -> str:
    """The engine's last message, in words that help."""
    lines = message.splitlines()
    for pattern, meaning in ENDS:
        if line := next((line for line in lines if re.search(pattern, line)), ""):
            return meaning.format(line=line.rpartition("rror: ")[2].strip())
    return f"the engine gave up: {lines[0] if lines else 'it gave no reason'}"
