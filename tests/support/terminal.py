"""A program on a pseudo-terminal, driven as a person would, and the screen that the person sees."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Mapping

import pyte

from tests.support.checkpoints import ROOT

PATIENCE = 150.0
"""Seconds to wait for what must come: what comes sooner is not waited for, and a busy machine may stop for a minute."""


class Screen:
    """``ggufrun ARGS`` on a screen of ``columns`` and ``lines``, with what scrolled out of it."""

    def __init__(self, *args: str, columns: int = 80, lines: int = 24, env: Mapping[str, str] | None = None) -> None:
        self.screen = pyte.HistoryScreen(columns, lines, history=1000, ratio=0.5)
        self._stream = pyte.ByteStream(self.screen)
        self.raw = b""
        self.ours, theirs = pty.openpty()
        self._set_size(columns, lines)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "ggufrun", *args],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            cwd=ROOT,
            env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "", "LINES": "", **(env or {})},
            start_new_session=True,
            preexec_fn=_make_controlling,
        )
        os.close(theirs)

    def _set_size(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self.ours, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def resize(self, columns: int, lines: int) -> None:
        """As when a window is drawn larger or smaller."""
        self.screen.resize(lines, columns)
        self._set_size(columns, lines)

    @property
    def text(self) -> str:
        """What is on the screen and above it."""
        above = [
            "".join(line[column].data for column in range(self.screen.columns)) for line in self.screen.history.top
        ]
        return "\n".join(line.rstrip() for line in [*above, *self.screen.display]).replace("\x00", "")

    def count(self, words: str) -> int:
        """How often ``words`` are there, in one row or broken at the margin, between words or within one."""
        text = self.text
        return max(whole.count(words) for whole in (text, text.replace("\n", ""), text.replace("\n", " ")))

    def look(self, seconds: float = 0.05) -> bool:
        """Take in what has come; False when the program has closed the terminal."""
        ready, _, _ = select.select([self.ours], [], [], seconds)
        if not ready:
            return True
        try:
            data = os.read(self.ours, 65536)
        except OSError:
            return False
        self.raw += data
        self._stream.feed(data)
        for _ in range(data.count(b"\x1b[6n")):
            # The program asks where the cursor is.
            cursor = self.screen.cursor
            os.write(self.ours, f"\x1b[{cursor.y + 1};{cursor.x + 1}R".encode())
        return bool(data)

    def until(self, words: str, times: int = 1) -> str:
        """Wait for ``words`` on the screen, broken at its margin or not; fails when they do not come."""
        end = time.monotonic() + PATIENCE
        while self.count(words) < times:
            assert time.monotonic() < end and self.look(), f"waited for {words!r}, saw:\n{self.text}"
        return self.text

    def prompt(self) -> None:
        """Wait for the prompt: it has a line under it that is there at no other time."""
        end = time.monotonic() + PATIENCE
        while not any(re.search(r"context \d+/\d", line) for line in self.screen.display):
            assert time.monotonic() < end and self.look(), f"no prompt:\n{self.text}"

    def type(self, text: str) -> None:
        """Press keys."""
        os.write(self.ours, text.encode())

    def say(self, line: str) -> None:
        """Type a line and send it, when the prompt is there to take it."""
        self.prompt()
        self.type(line)
        self.until(line.splitlines()[0][:30])
        self.type("\r")

    def leave(self) -> int:
        """Wait for the end, and for the last that was said; returns the exit status."""
        end = time.monotonic() + PATIENCE
        while self.look():
            assert time.monotonic() < end, f"does not end:\n{self.text}"
        return self.process.wait(PATIENCE)

    def hang_up(self) -> int:
        """The window is closed."""
        os.close(self.ours)
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process.pid, signal.SIGHUP)
        return self.process.wait(PATIENCE)


def _make_controlling() -> None:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
