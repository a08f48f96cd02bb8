"""How a failure is said: one line on stderr, and an exit status."""

from __future__ import annotations

import contextlib
import errno
import sys
from typing import NoReturn


def fail(line: str, status: int) -> NoReturn:
    """Print one line on stderr and exit with ``status``."""
    with contextlib.suppress(OSError):
        sys.stderr.write(f"ggufrun: {' '.join(line.split())}\n")
    sys.exit(status)


def explain(error: OSError) -> str:
    """What the system says is wrong, where, and what to do about it."""
    where = f" ({error.filename})" if error.filename else ""
    hints = {
        errno.ENOSPC: "free some space, or write elsewhere (-o, TMPDIR)",
        errno.EDQUOT: "your quota is used up; free some space, or write elsewhere (-o, TMPDIR)",
        errno.EACCES: "check the permissions",
        errno.EROFS: "write elsewhere with -o",
    }
    hint = hints.get(error.errno or 0)
    return f"{(error.strerror or str(error)).lower()}{where}" + (f"; {hint}" if hint else "")
