"""Files that are read whole: regular ones, of at most a stated size.

A name in a stranger's folder may lead anywhere: to a pipe that nobody writes to, to a device without an end, to a file
of the kernel's that waits for news. Nothing here waits, and nothing reads more than its caller allows.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import BinaryIO

from ggufrun.errors import FormatError

WANTED = "give a regular file"

Identity = tuple[int, int, int, int]
"""Device, inode, size and time of the last change."""


class FilesRead:
    """The files that were opened in a `recorded` block, as they were when they were opened first."""

    def __init__(self) -> None:
        self._files: dict[Path, Identity] = {}

    def note(self, path: Path, status: os.stat_result) -> None:
        """``path`` has been opened. FormatError if it is not what it was before."""
        found = _identity(status)
        if self._files.setdefault(path, found) != found:
            raise _changed(path)

    def check(self) -> None:
        """FormatError if one of the files is not what it was. One that is gone has been read as it was."""
        for path, before in self._files.items():
            try:
                now = _identity(path.stat())
            except OSError:
                continue
            if now != before:
                raise _changed(path)


_reading: ContextVar[FilesRead | None] = ContextVar("reading", default=None)


@contextmanager
def recorded() -> Iterator[FilesRead]:
    """Note every file that this thread opens here while this lasts."""
    token = _reading.set(FilesRead())
    try:
        found = _reading.get()
        assert found is not None
        yield found
    finally:
        _reading.reset(token)


def _identity(status: os.stat_result) -> Identity:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _changed(path: Path) -> FormatError:
    return FormatError(
        f"{path} changed while it was read", "run this again when nothing, such as a download, writes to it any more"
    )


def open_descriptor(path: Path, todo: str = WANTED) -> int:
    """A descriptor to read the regular file ``path`` by. FormatError for any other kind of file, OSError."""
    # some devices do something when they are opened, so they are not
    _check(path, path.stat().st_mode, todo)
    # without O_NONBLOCK, opening a pipe that has just taken the file's place would wait for a writer
    kinds = (getattr(os, name, 0) for name in ("O_BINARY", "O_CLOEXEC", "O_NONBLOCK"))
    descriptor = os.open(path, sum(kinds, os.O_RDONLY))
    try:
        status = os.fstat(descriptor)
        _check(path, status.st_mode, todo)
        if (reading := _reading.get()) is not None:
            reading.note(path, status)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def open_regular(path: Path, todo: str = WANTED) -> BinaryIO:
    """The regular file ``path``, open for reading. FormatError for any other kind of file, OSError."""
    return os.fdopen(open_descriptor(path, todo), "rb")


def read_bytes(path: Path, limit: int, todo: str = "download it again") -> bytes:
    """All of a regular file of at most ``limit`` bytes. FormatError for any other file, OSError.

    ``todo`` is what the error tells the user to do about one that is too large.
    """
    with open_regular(path) as file:
        try:
            # the size of a file in /proc is 0, whatever it holds
            size = os.fstat(file.fileno()).st_size
            # a buffer of the limit's size is not made for a small file
            data: bytes | None = file.read(size + 1) if size <= limit else b""
            if data and len(data) > size:
                data += file.read(limit + 1 - len(data)) or b""
        except BlockingIOError:
            data = None
    if data is None:
        raise FormatError(f"{path} is not a regular file", WANTED)
    if size > limit or len(data) > limit:
        raise FormatError(f"{path} is larger than {size_text(limit)}, as no {path.name} should be", todo)
    return data


def read_text(path: Path, limit: int, todo: str = "download it again") -> str:
    """The same as text. FormatError also for what is not UTF-8."""
    try:
        return read_bytes(path, limit, todo).decode("utf-8")
    except UnicodeDecodeError as error:
        raise FormatError(f"{path} is not UTF-8 text", todo) from error


def read_start(path: Path, n_bytes: int) -> bytes:
    """The first ``n_bytes`` of a regular file, or all that it has. FormatError for any other kind of file, OSError."""
    with open_regular(path) as file:
        try:
            return file.read(n_bytes) or b""
        except BlockingIOError:
            return b""


def size_text(n_bytes: int) -> str:
    """A limit in the unit that it is a whole number of.

    >>> size_text(16 << 20), size_text(1 << 30), size_text(5)
    ('16 MiB', '1 GiB', '5 bytes')
    """
    for shift, unit in ((30, "GiB"), (20, "MiB"), (10, "KiB")):
        if n_bytes and not n_bytes % (1 << shift):
            return f"{n_bytes >> shift} {unit}"
    return f"{n_bytes} bytes"


def _check(path: Path, mode: int, todo: str) -> None:
    if stat.S_ISDIR(mode):
        raise FormatError(f"{path} is a folder", todo)
    if not stat.S_ISREG(mode):
        raise FormatError(f"{path} is not a regular file", todo)
