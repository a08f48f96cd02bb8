"""A child process that ends when its parent does, however that happens."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable

from ggufrun.native.binding import bind
from ggufrun.native.signatures import Linux

PR_SET_PDEATHSIG = 1
"""``linux/prctl.h``."""


def end_with(parent: int) -> Callable[[], None] | None:
    """What a child does before it becomes another program: it asks to be ended when ``parent`` ends. None where the
    system has no such wish.
    """
    if sys.platform != "linux":
        return None
    # bound here: between fork and exec there is no time for it
    library = bind(Linux, ctypes.CDLL(None))

    def tie() -> None:
        library.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)

    return tie
