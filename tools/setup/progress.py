"""How far a build is, from pip's and Ninja's output."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from typing import TextIO

LONG = 300
"""Seconds from which on a build's end is estimated."""

FEWEST = 5
"""Steps: what Ninja counts before the build itself has fewer."""

SEEN = 0.1
"""The part of a build after which its pace tells something."""


class Progress:
    """One line that moves on a terminal; elsewhere a line every quarter and every five minutes. ``expected`` seconds
    are what such a build takes by experience; what is done corrects them on the way. ``part`` is what is built.
    """

    def __init__(
        self,
        stream: TextIO,
        clock: Callable[[], float] = time.monotonic,
        expected: float = 0,
        part: str = "engine",
    ) -> None:
        self._stream = stream
        self._part = part
        self._expected = expected
        self._clock = clock
        self._start = clock()
        self._moving = stream.isatty()
        self._quarter = -1
        self._said = self._start
        self._phase = ""
        self._steps = 0

    def _elapsed(self) -> str:
        seconds = int(self._clock() - self._start)
        return f"{seconds // 60}:{seconds % 60:02d}"

    def phase(self, text: str) -> None:
        """A new phase of the work has begun."""
        if text != self._phase:
            self._phase = text
            self._write(f"{self._part}: {text}")

    def step(self, done: int, total: int) -> None:
        """``done`` of ``total`` build steps are finished. A part that is a build of its own counts its few steps."""
        if total < max(self._steps, FEWEST):
            return
        self._steps = total
        quarter = 4 * done // max(total, 1)
        if self._moving or quarter > self._quarter or self._clock() - self._said >= LONG:
            self._quarter = quarter
            self._said = 0.0 if self._moving else self._clock()
            self._write(f"{self._part}: compiling {done}/{total}  {self._elapsed()}{self._left(done / max(total, 1))}")

    def _left(self, part: float) -> str:
        """What is left of a long build, as far as that can be told: the files of one build differ much in length."""
        if self._expected < LONG or not 0 < part < 1:
            return ""
        elapsed = self._clock() - self._start
        # at first the experience counts, later the pace; a machine that is slower is believed as soon as that is seen
        pace = elapsed / part
        slower = part > SEEN and pace > self._expected
        whole = pace if slower else (1 - part) * self._expected + part * pace
        return f", some {max(1, round((whole - elapsed) / 60))} min left"

    def close(self) -> None:
        """Leave the moving line."""
        if self._moving:
            self._stream.write("\r\x1b[K")
            self._stream.flush()

    def _write(self, text: str) -> None:
        self._stream.write(f"\r\x1b[K{text}" if self._moving else text + "\n")
        self._stream.flush()


STEP = re.compile(r"^\s*\[(\d+)/(\d+)\]\s")
"""Ninja's counter at the start of a line."""

PHASES = (
    (re.compile(r"^\s*Downloading \S*llama_cpp"), "downloading the source (77 MB)"),
    (re.compile(r"^\s*Installing build dependencies"), "preparing the build tools"),
    (re.compile(r"^\s*\*\*\* Configuring CMake"), "configuring"),
    (re.compile(r"^\s*\*\*\* Making wheel"), "packing the wheel"),
)


def follow(lines: Iterator[str], log: TextIO, progress: Progress) -> None:
    """Copy the build's output to the log, and say on the way how far it is."""
    for line in lines:
        log.write(line)
        if step := STEP.match(line):
            progress.step(int(step.group(1)), int(step.group(2)))
        else:
            for pattern, text in PHASES:
                if pattern.match(line):
                    progress.phase(text)
