"""Who is told how work goes on: the terminal, a callback of the Python API, or nobody."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, closing, nullcontext
from typing import TypeVar

T = TypeVar("T")


class Watch:
    """Is told, and does nothing. Whoever shows something overrides what it shows."""

    def note(self, line: str) -> None:
        """One line about what was decided or noticed."""

    def bytes(self, total: int, what: str) -> AbstractContextManager[Callable[[int], None]]:
        """``total`` bytes are about to be worked on; yields what hears of each further part."""
        return nullcontext(lambda count: None)

    def steps(self, work: Generator[T, None, None], total: int, what: str) -> AbstractContextManager[Iterator[T]]:
        """``total`` steps are about to be done; yields them, and closes ``work`` at the end."""
        return closing(work)


NOBODY = Watch()
