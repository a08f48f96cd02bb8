"""Who is at a file: a job that writes it, a transfer that fetches it, a program that has it open."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

PROCESSES = Path("/proc")
"""Linux shows here what every process has open, those of other users to root only. Elsewhere nothing is found."""


def is_locked(path: Path) -> bool:
    """Whether another process holds the lock on a file; a file that a killed job left has none."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        # a file system without locks
        return False
    finally:
        os.close(descriptor)
    return False


def opened_by(paths: Iterable[Path]) -> tuple[Path, str] | None:
    """One of the files that a process has open or mapped into its memory, and which process that is."""
    wanted = {os.path.realpath(path): path for path in paths}
    for process in _processes() if wanted else ():
        for name in _open_in(process):
            if name in wanted:
                return wanted[name], f"process {process.name} ({_program(process)})"
    return None


def _processes() -> list[Path]:
    try:
        return [entry for entry in PROCESSES.iterdir() if entry.name.isdecimal() and int(entry.name) != os.getpid()]
    except OSError:
        return []


def _open_in(process: Path) -> Iterator[str]:
    """The names of the files; none of a process that has ended or is not ours to look into."""
    try:
        for entry in list((process / "fd").iterdir()):
            # one that was closed meanwhile
            with contextlib.suppress(FileNotFoundError):
                yield str(entry.readlink())
        for line in (process / "maps").read_bytes().splitlines():
            # address, rights, offset, device, inode, name
            fields = line.split(maxsplit=5)
            if len(fields) == 6:
                yield os.fsdecode(fields[5].replace(b"\\012", b"\n"))
    except OSError:
        return


def _program(process: Path) -> str:
    try:
        return (process / "comm").read_text("utf-8", "replace").strip()
    except OSError:
        return "?"
