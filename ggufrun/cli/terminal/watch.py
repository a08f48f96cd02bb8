"""Work as a person at a terminal sees it: notes on stderr, bars while it lasts."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager
from typing import TypeVar

from ggufrun.cli.terminal import console, progress
from ggufrun.workflows.watch import Watch

T = TypeVar("T")


class TerminalWatch(Watch):
    """Notes and bars on stderr; in a pipe, notes alone."""

    def note(self, line: str) -> None:
        console.note(line)

    def bytes(self, total: int, what: str) -> AbstractContextManager[Callable[[int], None]]:
        return progress.bytes_bar(total, what)

    def steps(self, work: Generator[T, None, None], total: int, what: str) -> AbstractContextManager[Iterator[T]]:
        return progress.steps(work, total, what)


TERMINAL = TerminalWatch()
