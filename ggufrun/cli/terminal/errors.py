"""How a failure is said: one line on stderr, and an exit status."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import sys
from typing import NoReturn

from ggufrun.cli.terminal.console import shown


def fail(line: str, status: int) -> NoReturn:
    """Print one line on stderr and exit with ``status``."""
    with contextlib.suppress(OSError):
        sys.stderr.write(f"ggufrun: {one_line(line)}\n")
    let_go()
    sys.exit(status)


def let_go() -> None:
    """Say what stdout still holds; where that fails it leads nowhere from now on, or Python would try again at its end
    and print what is wrong in its own way.
    """
    try:
        sys.stdout.flush()
    except OSError:
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def one_line(text: str) -> str:
    """A message on one line, whatever it quotes. One of several lines has blanks around their ends; a newline alone is
    part of a file's name.
    """
    return shown(re.sub(r"\s*\n\s+|\s+\n\s*", " ", text.strip()))


def explain(error: OSError) -> str:
    """What the system says is wrong, where, and what to do about it."""
    where = f" ({error.filename})" if error.filename else ""
    hints = {
        errno.ENOSPC: "free some space, or write elsewhere (-o, TMPDIR)",
        errno.EDQUOT: "your quota is used up; free some space, or write elsewhere (-o, TMPDIR)",
        errno.EFBIG: "a limit on the size of files (`ulimit -f`), or this disk's; write elsewhere (-o, TMPDIR)",
        errno.EACCES: "check the permissions",
        errno.EROFS: "write elsewhere with -o",
    }
    hint = hints.get(error.errno or 0)
    return f"{(error.strerror or str(error)).lower()}{where}" + (f"; {hint}" if hint else "")
