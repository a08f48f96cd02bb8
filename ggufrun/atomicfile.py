"""Small files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def appearing(path: Path, mode: int | None = None) -> Iterator[Path]:
    """A new, empty file beside ``path``, to be written; it takes the place of ``path`` when the block ends without an
    error, and goes when it ends with one. Raises OSError.

    No other file is touched, whatever it is called. ``mode`` are its permissions: without it those of the file that it
    replaces, or of any new one. A link stays one: the file that it leads to is replaced.
    """
    target = Path(os.path.realpath(path))
    # of a long name a part, or the longer one would be none
    temporary = target.with_name(f".{target.name[:40]}.{secrets.token_hex(4)}.part")
    os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666 if mode is None else mode))
    try:
        yield temporary
        if mode is None:
            with contextlib.suppress(FileNotFoundError):
                temporary.chmod(target.stat().st_mode & 0o777)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
