"""Asking whoever sits at the terminal."""

from __future__ import annotations

import sys

from ggufrun.cli.terminal.console import shown

YES = ("y", "yes", "是", "好")


def at_terminal() -> bool:
    """Is there somebody who can be asked?"""
    return sys.stdin.isatty() and sys.stderr.isatty()


def confirm(question: str, otherwise: bool = True) -> bool:
    """Ask on stderr; Enter means ``otherwise``, and the end of the input no."""
    sys.stderr.write(f"{shown(question)} [{'Y/n' if otherwise else 'y/N'}] ")
    sys.stderr.flush()
    answer = sys.stdin.readline()
    if not answer:
        sys.stderr.write("\n")
        return False
    return answer.strip().lower() in YES or (otherwise and not answer.strip())
