"""Small files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path

from ggufrun.filelock import lock_descriptor

TOKEN = re.compile(r"[0-9a-f]{16}\.part")
"""What stands behind the target's name in the name of a file in the making."""

_LOOKED_AT: set[Path] = set()


@contextlib.contextmanager
def appearing(path: Path, mode: int | None = None, *, durable: bool = True) -> Iterator[Path]:
    """A new, empty file beside ``path``, to be written; it takes the place of ``path`` when the block ends without an
    error, and goes when it ends with one. Raises OSError.

    With ``durable`` the new content is on the disk before it takes the name, and the name is when this returns: what
    comes after a power failure is the old file or the new one. No other file is touched, whatever it is called, but
    what a killed process left of this very target. ``mode`` are its permissions: without it those of the file that it
    replaces, or of any new one. A link stays one: the file that it leads to is replaced.
    """
    target = Path(os.path.realpath(path))
    _collect(target)
    temporary, descriptor = _make(target, 0o666 if mode is None else mode)
    try:
        yield temporary
        if mode is None:
            with contextlib.suppress(FileNotFoundError):
                temporary.chmod(target.stat().st_mode & 0o777)
        if durable:
            os.fsync(descriptor)
        temporary.replace(target)
        if durable:
            sync_folder(target.parent)
    finally:
        temporary.unlink(missing_ok=True)
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk, where the system can do that."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _make(target: Path, mode: int) -> tuple[Path, int]:
    """A file in the making, locked for as long as its descriptor is open: so a dead process's can be told."""
    while True:
        # of a long name a part, or the longer one would be none
        temporary = target.with_name(f".{target.name[:40]}.{secrets.token_hex(8)}.part")
        descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, mode)
        with contextlib.suppress(BlockingIOError):
            lock_descriptor(descriptor)
            # another process may have taken it for a dead one's, just before it was locked
            if temporary.exists():
                return temporary, descriptor
        os.close(descriptor)


def _collect(target: Path) -> None:
    """Remove what killed processes left of ``target``; once a process, for a folder may be long."""
    if target in _LOOKED_AT:
        return
    _LOOKED_AT.add(target)
    start = f".{target.name[:40]}."
    with contextlib.suppress(OSError):
        for entry in os.scandir(target.parent):
            if entry.name.startswith(start) and TOKEN.fullmatch(entry.name, len(start)):
                _remove_dead(Path(entry.path))


def _remove_dead(path: Path) -> None:
    """Remove a file in the making whose process is gone."""
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            # without locks there is no telling
            if lock_descriptor(descriptor):
                path.unlink()
        finally:
            os.close(descriptor)
