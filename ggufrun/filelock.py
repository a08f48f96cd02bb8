"""One job at a time on a file: the second one hears of the first at once, and a killed one leaves nothing locked."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from ggufrun.errors import TargetError

_HELD: dict[str, int] = {}
"""What this process has claimed, and how many times."""


def lock_path(path: Path) -> Path:
    """The file that is locked for ``path``: an empty one beside it, while somebody is at work."""
    target = Path(os.path.realpath(path))
    return target.with_name(f".{target.name[:200]}.lock")


@contextlib.contextmanager
def claimed(path: Path, todo: str) -> Iterator[None]:
    """While this lasts, no other process can claim ``path``, which need not exist yet.

    TargetError, with ``todo`` for the user, where another process has it or the folder cannot be written to. The system
    lets go of the claim of a process that is killed; the empty file that it leaves is used by the next.
    """
    lock = lock_path(path)
    name = str(lock)
    descriptor = -1 if name in _HELD else _acquire(lock, path, todo)
    _HELD[name] = _HELD.get(name, 0) + 1
    try:
        yield
    finally:
        _HELD[name] -= 1
        if not _HELD[name]:
            del _HELD[name]
        if descriptor >= 0:
            # while it is locked, so that it cannot be another's by now
            with contextlib.suppress(OSError):
                lock.unlink()
            os.close(descriptor)


def _acquire(lock: Path, path: Path, todo: str) -> int:
    while True:
        try:
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
        except OSError as error:
            why = (error.strerror or str(error)).lower()
            raise TargetError(f"{path} cannot be written: {why}", todo) from error
        try:
            if lock_descriptor(descriptor) and not _is(lock, descriptor):
                # the one who had it has just removed it
                os.close(descriptor)
                continue
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        except BlockingIOError:
            owner = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip()
            os.close(descriptor)
            by = f" (process {owner})" if owner.isdecimal() else ""
            raise TargetError(f"{path} is in use by another ggufrun{by}", todo) from None
        except OSError:
            # a full disk holds no number, and the lock all the same
            pass
        return descriptor


def lock_descriptor(descriptor: int) -> bool:
    """Lock an open file; False on a file system that has no locks. BlockingIOError where another process has it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        return False
    return True


def _is(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.lstat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
