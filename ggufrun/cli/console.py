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


@cache
def err() -> Console:
    """The console for progress, tables about the work, and warnings."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, soft_wrap=not sys.stderr.isatty())


@cache
def out() -> Console:
    """The console for what was asked for. In a pipe it neither colours nor wraps."""
    from rich.console import Console

    return Console(highlight=False, soft_wrap=not sys.stdout.isatty())


def note(text: str) -> None:
    """One line of talk."""
    err().print(text, markup=False, style="dim" if err().is_terminal else None)


def warn(text: str) -> None:
    """One line that the user should not miss."""
    err().print(f"warning: {text}", markup=False, style="yellow" if err().is_terminal else None)


def print_json(value: Any) -> None:
    """One JSON document on stdout, Chinese text as it is."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, indent=2) + "\n")
