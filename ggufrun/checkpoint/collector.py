"""Python's garbage collector, paused while very many records are made."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def paused() -> Iterator[None]:
    """Make records without looking for circles among them again and again.

    A plan for DeepSeek V3 makes a million objects that all stay; the collector, which looks at what there is whenever
    a quarter was added, would take three times as long as the planning itself.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
