"""What of a job is safely on the disk, so that a killed one can be continued.

A journal lies beside the first target while a job runs: a line that identifies the job, then the numbers of finished
chunks, each written only after the data of its chunk has been flushed. A job that ends, well or not, removes it; one
that is killed leaves it, together with the partial files.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import os
from collections.abc import Callable, Iterable
from pathlib import Path

from ggufrun.convert.plan import Plan
from ggufrun.errors import FormatError, TargetError
from ggufrun.regularfile import read_bytes

MAX_BYTES = 256 << 20
MAX_DIGITS = 16
"""Of a journal, and of the number of a chunk in it."""

FLUSH_BYTES = 256 << 20
"""Bytes of targets between two flushes: what a killed job has to do again at the most."""


def identity(plan: Plan, chunk: int) -> str:
    """A digest of everything that decides the bytes: the sources, the headers to write, the importance of columns, the
    engine, the chunks.
    """
    digest = hashlib.sha256(f"{chunk} {importlib.metadata.version('llama-cpp-python')}\n".encode())
    for path in plan.source.files:
        status = path.stat()
        digest.update(os.fsencode(f"{path.resolve()} {status.st_size} {status.st_mtime_ns}\n"))
    for target in plan.targets:
        digest.update(os.fsencode(f"{target.path.name} {target.size} {len(target.head)}\n"))
        digest.update(target.head)
        for placed in target.tensors:
            if placed.importance is not None:
                digest.update(placed.importance.tobytes())
    return digest.hexdigest()


class Journal:
    """The finished chunks of one job. ``done`` holds those of the job that is continued."""

    def __init__(self, path: Path, job: str, resume: bool) -> None:
        """TargetError if ``resume`` is asked for and the journal is another job's."""
        self.path = path
        known = _read(path, job) if resume else None
        self.done = known or set()
        self._pending: list[int] = []
        self._bytes = 0
        try:
            self._file = path.open("a" if known is not None else "w", encoding="ascii")
            if known is None:
                self._file.write(f"{job}\n")
                self._file.flush()
        except OSError as error:
            raise TargetError(
                f"cannot write to {path.parent}: {(error.strerror or '').lower()}", "write elsewhere with -o"
            ) from error

    def mark(self, chunk: int, n_bytes: int, flush: Callable[[], None]) -> None:
        """``chunk`` was written, ``n_bytes`` of it; ``flush`` brings all that was written to the disk."""
        self._pending.append(chunk)
        self._bytes += n_bytes
        if self._bytes >= FLUSH_BYTES:
            flush()
            self._write(self._pending)
            self._pending, self._bytes = [], 0

    def _write(self, chunks: Iterable[int]) -> None:
        self._file.write("".join(f"{chunk}\n" for chunk in chunks))
        self._file.flush()
        os.fsync(self._file.fileno())

    def finish(self) -> None:
        """Every chunk is flushed; what follows is only renaming."""
        self._write(self._pending)
        self._pending = []

    def close(self, keep: bool) -> None:
        """Remove the journal, or leave it for a later --resume."""
        self._file.close()
        if not keep:
            with contextlib.suppress(FileNotFoundError):
                self.path.unlink()


def check_journal(path: Path, job: str) -> None:
    """TargetError for a journal of another job: nothing of that is touched then, so that it can still be continued."""
    _read(path, job)


def _read(path: Path, job: str) -> set[int] | None:
    """The finished chunks; None where there is no journal."""
    try:
        first, *lines = read_bytes(path, MAX_BYTES).decode("ascii").split("\n")
    except FileNotFoundError:
        return None
    except (UnicodeDecodeError, FormatError):
        first, lines = "", []
    if first != job:
        raise TargetError(
            f"{path.name} belongs to another job",
            "continue it as it was begun, or run without --resume to start again, as the source changed",
        )
    # the last line may have been cut off in the middle; all others end in a newline
    return {int(line) for line in lines[:-1] if line.isdecimal() and len(line) < MAX_DIGITS}
