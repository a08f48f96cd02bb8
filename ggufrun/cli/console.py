"""Where the program talks: data on stdout, everything else on stderr, rich only where a person looks.

Rich is imported when the first console is made, so that ``--help`` stays quick.
"""

from __future__ import annotations

import json
import sys
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console


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
        # in a pipe nobody sees the right margin, and a wrapped table is hard to read by line
        width=None if stream.isatty() else PIPE_WIDTH,
        soft_wrap=not stream.isatty(),
    )


def note(text: str) -> None:
    """One line of talk."""
    err().print(text, markup=False, style="dim" if err().is_terminal else None)


def warn(text: str) -> None:
    """One line that the user should not miss."""
    err().print(f"warning: {text}", markup=False, style="yellow" if err().is_terminal else None)


def print_json(value: Any) -> None:
    """One JSON document on stdout, Chinese text as it is."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, indent=2) + "\n")


def print_json_line(value: Any) -> None:
    """One JSON value on a line of its own, at once."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False) + "\n")
    sys.stdout.flush()
