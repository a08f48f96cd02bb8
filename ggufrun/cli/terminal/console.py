"""Where the program talks: data on stdout, everything else on stderr, rich only where a person looks.

Rich is imported when the first console is made, so that ``--help`` stays quick.
"""

from __future__ import annotations

import codecs
import io
import json
import re
import sys
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console
    from rich.text import Text


PIPE_WIDTH = 240


@cache
def err() -> Console:
    """The console for progress, tables about the work, and warnings."""
    return _console(stderr=True)


@cache
def out() -> Console:
    """The console for what was asked for. In a pipe it neither colours nor wraps."""
    return _console(stderr=False)


def _console(stderr: bool) -> Console:
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    # not bound to the stream: rich looks it up each time, so that it may be replaced
    return Console(
        stderr=stderr,
        highlight=False,
        # a file's name may have brackets in it
        markup=False,
        # in a pipe nobody sees the right margin, and a wrapped table is hard to read by line
        width=None if stream.isatty() else PIPE_WIDTH,
        soft_wrap=not stream.isatty(),
    )


ACTING = r"\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069"
"""What a terminal obeys, or what turns the direction of writing so that a name is read as another; JSON has it too."""

SHORT = r"\x00-\x1f"
"""The controls that JSON writes otherwise."""


def shown(text: str, lines: bool = False) -> str:
    """``text`` without what moves the cursor, changes colours or turns the direction of writing: names of files, and
    what files say of themselves, may hold it. It is written as in a Python string instead; ``lines`` leaves newlines.

    >>> shown("a\\nb\\x1b[31m\\u202e/ 静夜思")
    'a\\\\nb\\\\x1b[31m\\\\u202e/ 静夜思'
    """
    if text.isprintable():
        return text
    kept = r"(?![\n\t])" if lines else ""
    return re.sub(f"{kept}[{SHORT}{ACTING}]", lambda found: repr(found[0])[1:-1], text)


def literal(text: str, style: str = "") -> Text:
    """``text`` as a cell of a table or for a status line, where a string would be read as markup."""
    from rich.text import Text

    return Text(shown(text), style)


def say(text: str) -> None:
    """A line of what was asked for."""
    out().print(shown(text), markup=False)


def note(text: str) -> None:
    """One line of talk."""
    err().print(shown(text), markup=False, style="dim" if err().is_terminal else None)


def warn(text: str) -> None:
    """One line that the user should not miss."""
    err().print(shown(f"warning: {text}"), markup=False, style="yellow" if err().is_terminal else None)


def print_path(path: Path) -> None:
    """A path on stdout, on a line of its own: as it is for programs, and readable on a terminal."""
    text = str(path)
    sys.stdout.write((shown(text) if out().is_terminal else text) + "\n")
    sys.stdout.flush()


def can_write(text: str) -> bool:
    """Has the encoding of stdout all characters of ``text``?"""
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        return False
    return True


def print_text(text: str) -> None:
    """A text of several lines on stdout: as it is for programs, and harmless on a terminal."""
    sys.stdout.write((shown(text, lines=True) if out().is_terminal else text) + "\n")


def print_json(value: Any) -> None:
    """One JSON document on stdout, Chinese text as it is where that can be written."""
    sys.stdout.write(_json(value, indent=2) + "\n")


def print_json_line(value: Any) -> None:
    """One JSON value on a line of its own, at once."""
    sys.stdout.write(_json(value) + "\n")
    sys.stdout.flush()


def _json(value: Any, indent: int | None = None) -> str:
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    # JSON itself leaves some of what a terminal obeys
    text = re.sub(f"[{ACTING}]", lambda found: f"\\u{ord(found[0]):04x}", text)
    # a terminal without Unicode, or a file name that is not text
    return text if can_write(text) else json.dumps(value, indent=indent)


def write_anything() -> None:
    """Let whatever cannot be written in the encoding of stdout and stderr be written all the same: the bytes of a file
    name that is not text as they are, any other character as a question mark.
    """
    codecs.register_error("ggufrun", _as_bytes)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="ggufrun")


def _as_bytes(error: UnicodeError) -> tuple[bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    codes = map(ord, error.object[error.start : error.end])
    # Python keeps the undecodable byte 0x80 as U+DC80, and so on
    return bytes(code - 0xDC00 if 0xDC80 <= code <= 0xDCFF else ord("?") for code in codes), error.end
