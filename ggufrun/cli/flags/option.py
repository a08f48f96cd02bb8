"""How a flag is declared, and the words that switches take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from ggufrun.errors import UsageError
from ggufrun.workflows import textfile

SWITCH_VALUES: dict[str, str] = {
    **dict.fromkeys(("on", "1", "true", "enabled"), "on"),
    **dict.fromkeys(("off", "0", "false", "disabled"), "off"),
    **dict.fromkeys(("auto", "-1"), "auto"),
}
"""The words for on, off and auto that llama.cpp understands."""


def option(*names: str, help: str, metavar: str | None = None) -> Any:
    """A flag. What it is without being given belongs into its ``help``."""
    # whether a file can be read is found out where it is read
    return typer.Option(*names, help=help, metavar=metavar, show_default=False, readable=False)


def switch(flag: str, value: str | None) -> str | None:
    """``on``, ``off`` or ``auto``; None for a flag that is not given. Raises UsageError."""
    if value is None:
        return None
    if value.lower() not in SWITCH_VALUES:
        raise UsageError(f"{flag} {value}", "choose from on, off, auto")
    return SWITCH_VALUES[value.lower()]


def read_text(path: Path, flag: str) -> str:
    """The file that ``flag`` names, or a pipe such as ``<(command)`` or ``-``, without its last newline."""
    return textfile.read(path, f"{flag} {path}").removesuffix("\n")
