"""A target file that appears whole or not at all.

The data goes to a temporary file beside the target, is flushed to the disk, and only then takes the target's name.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ggufrun.errors import TargetError

WRITE_BACK = 64 << 20
"""Bytes after which the system is asked to start writing to the disk, so that the last flush finds little to do."""

RESERVE = 16 << 20
"""Bytes of disk that are left alone."""


class TargetFile:
    """A file of ``size`` bytes in the making; written from one thread, at any offset.

    ``resume`` keeps what an earlier, killed job has written, if it was the same ``job``: until the file is whole, that
    name stands behind its data. ``continues`` says whether something was kept. TargetError if another job is at it.
    """

    def __init__(self, path: Path, size: int, force: bool, resume: bool = False, job: str = "") -> None:
        self.path = path
        self.continues = False
        self._size = size
        self._force = force
        self._temporary = partial_path(path)
        self._dirty = 0
        try:
            self._descriptor = os.open(self._temporary, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise TargetError(
                f"cannot write to {path.parent}: {(error.strerror or '').lower()}", "write elsewhere with -o"
            ) from error
        self._lock()
        try:
            mark = job.encode()
            self.continues = resume and os.pread(self._descriptor, len(mark) + 1, size) == mark != b""
            if not self.continues:
                os.ftruncate(self._descriptor, 0)
                os.ftruncate(self._descriptor, size)
                if mark:
                    os.pwrite(self._descriptor, mark, size)
        except OSError as error:
            self.abort(keep=self.continues)
            raise TargetError(
                f"cannot make a file of {size} bytes in {path.parent}: {(error.strerror or '').lower()}",
                "write elsewhere with -o",
            ) from error

    def write(self, offset: int, data: npt.NDArray[np.uint8]) -> None:
        """Put ``data`` at ``offset``."""
        view = data.data
        done = 0
        try:
            while done < len(view):
                done += os.pwrite(self._descriptor, view[done:], offset + done)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.path)) from error
        self._dirty += done
        if self._dirty >= WRITE_BACK and hasattr(os, "posix_fadvise"):
            # dirty pages are not dropped by this, but Linux starts to write them
            os.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            self._dirty = 0

    def flush(self) -> None:
        """Bring everything written so far to the disk."""
        os.fsync(self._descriptor)

    def _lock(self) -> None:
        """Hold the partial file against other jobs for as long as it is open; a killed job's lock ends with it."""
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # the other job may have renamed its file between our opening it and its letting go
            ours = self._temporary.exists() and self._temporary.stat().st_ino == os.fstat(self._descriptor).st_ino
        except BlockingIOError:
            ours = False
        except OSError:
            # a file system without locks
            return
        if not ours:
            os.close(self._descriptor)
            self._descriptor = -1
            raise TargetError(f"another job is writing {self.path}", "wait for it, or write elsewhere with -o")

    def commit(self) -> None:
        """Flush, and give the file its name. TargetError if the name was taken meanwhile and force was not given."""
        os.ftruncate(self._descriptor, self._size)
        self.flush()
        if self._force:
            self._temporary.replace(self.path)
        else:
            self._link()
        os.close(self._descriptor)
        self._descriptor = -1
        with contextlib.suppress(OSError):
            folder = os.open(self.path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

    def _link(self) -> None:
        try:
            # unlike rename, link never replaces what another process put there a moment ago
            os.link(self._temporary, self.path)
        except FileExistsError as error:
            self.abort()
            raise _exists(self.path) from error
        except OSError:
            # no hard links on this file system
            if self.path.exists():
                self.abort()
                raise _exists(self.path) from None
            self._temporary.replace(self.path)
        else:
            self._temporary.unlink()

    def abort(self, keep: bool = False) -> None:
        """Leave nothing behind, or the partial file to ``keep``; after commit or again a no-op."""
        if self._descriptor < 0:
            return
        # unlinked while the lock is held, so that it cannot be another job's file by now
        if not keep:
            with contextlib.suppress(FileNotFoundError):
                self._temporary.unlink()
        os.close(self._descriptor)
        self._descriptor = -1


def partial_path(path: Path) -> Path:
    """Where a target is written before it takes its name."""
    return path.with_name(f".{path.name}.part")


def check_targets(sizes: Iterable[tuple[Path, int]], force: bool, sources: Sequence[Path] = ()) -> None:
    """Raise TargetError before any work: a folder that is missing or not ours to write to, a target that stands, too
    little room.

    ``sources`` are the files that the targets are made from: those are not replaced even with ``force``.
    """
    needed: dict[Path, int] = {}  # bytes a folder
    seen: set[Path] = set()
    for path, size in sizes:
        if not path.parent.is_dir():
            raise TargetError(f"no such folder: {path.parent}", "make it first")
        if not os.access(path.parent, os.W_OK):
            raise TargetError(f"cannot write to {path.parent}", "check its permissions, or write elsewhere with -o")
        if path.resolve() in seen:
            raise TargetError(f"two outputs would be {path}", "name a folder with -o")
        seen.add(path.resolve())
        if path.is_dir():
            raise TargetError(f"{path} is a folder", "name a file with -o")
        if path.exists() and not path.is_file():
            # renamed onto /dev/null, a file would take its place for the whole machine
            raise TargetError(f"{path} is not a regular file, and would be replaced by one", "name a file with -o")
        if path.exists() and any(path.samefile(source) for source in sources):
            raise TargetError(f"{path} is what it would be made from", "write elsewhere with -o")
        if path.exists() and not force:
            raise _exists(path)
        partial = partial_path(path)
        there = partial.stat().st_blocks * 512 if partial.exists() else 0
        needed[path.parent] = needed.get(path.parent, 0) + max(0, size - there)
    for folder, size in needed.items():
        free, wanted = shutil.disk_usage(folder).free, size + RESERVE
        if wanted > free:
            raise TargetError(
                f"no space left in {folder}: {_amount(wanted)} needed, {_amount(free)} free",
                "free some or write elsewhere with -o",
            )


def _amount(n_bytes: int) -> str:
    """In powers of 1000, as disks are sold."""
    return f"{n_bytes / 1e9:.2f} GB" if n_bytes >= 1e9 else f"{n_bytes / 1e6:.1f} MB"


def _exists(path: Path) -> TargetError:
    return TargetError(f"{path} exists", "pass --force to replace it, or -o to write elsewhere")
