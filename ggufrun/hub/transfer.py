"""Moving one file: into a partial file beside its place, on from where an earlier transfer stopped, digest checked."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ggufrun.errors import FormatError, NotFoundError
from ggufrun.hub import client
from ggufrun.hub.client import RemoteFile
from ggufrun.hub.digests import Hasher, pieces

RETRIES = 4
"""Attempts in a row that bring no new byte before a transfer is given up."""

PAUSE = 1.0
"""Seconds before the first of these; doubled each time."""

OnDone = Callable[[int], None]
"""Told the bytes of the file that are in place; the number falls when a transfer has to begin again."""

_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")


def fetch_file(repo: str, commit: str, file: RemoteFile, partial: Path, on_done: OnDone) -> None:
    """Bring ``partial`` to the whole content of ``file``, or raise and leave what came so far for the next time.

    FormatError for content that is not what the hub promised; ``partial`` is removed then.
    """
    resumed = _size(partial) > 0
    if _attempt(repo, commit, file, partial, on_done):
        return
    # what an earlier run left may have been the fault
    if not resumed or not _attempt(repo, commit, file, partial, on_done):
        raise damaged(file)


def damaged(file: RemoteFile) -> FormatError:
    """The error for content that is not what the hub promised."""
    return FormatError(f"{file.name} arrived damaged: its digest is not the hub's", "run the same command again")


def _attempt(repo: str, commit: str, file: RemoteFile, partial: Path, on_done: OnDone) -> bool:
    """Transfer until all bytes are there; whether they are the right ones."""
    partial.parent.mkdir(parents=True, exist_ok=True)
    with partial.open("r+b" if partial.exists() else "w+b") as sink:
        transfer = _Transfer(repo, commit, file, sink, on_done)
        transfer.take_over(partial)
        failures = 0
        while transfer.done < file.size:
            before = transfer.done
            try:
                transfer.receive()
                problem: Exception = EOFError("the server closed the connection")
            except Exception as error:
                if not (client.is_network(error) or client.status(error) in client.TRANSIENT):
                    known = client.explain(error, repo, commit) if not isinstance(error, FormatError) else None
                    if known is None:
                        raise
                    raise known from error
                problem = error
            failures = 0 if transfer.done > before else failures + 1
            if transfer.done < file.size:
                if failures >= RETRIES:
                    raise _stopped(file, transfer.done, problem, repo, commit) from problem
                time.sleep(PAUSE * 2 ** max(failures - 1, 0))
        sink.flush()
        os.fsync(sink.fileno())
        sound = transfer.hasher.digest == file.digest
    if not sound:
        partial.unlink()
    return sound


def _stopped(file: RemoteFile, done: int, problem: Exception, repo: str, commit: str) -> Exception:
    why = client.explain(problem, repo, commit)
    words = why.what if why else str(problem)
    return client.ConnectionLostError(
        f"the transfer of {file.name} stopped after {done:,} of {file.size:,} bytes: {words}",
        "run the same command again, it continues from there",
    )


class _Transfer:
    """A partial file being filled; ``done`` bytes of it are written and hashed."""

    def __init__(self, repo: str, commit: str, file: RemoteFile, sink: Any, on_done: OnDone) -> None:
        self._repo, self._commit, self._file = repo, commit, file
        self._sink, self._on_done = sink, on_done
        self._restart()

    def _restart(self) -> None:
        self.done = 0
        self.hasher = Hasher(self._file.digest.kind, self._file.size)

    def take_over(self, partial: Path) -> None:
        """Count what an earlier transfer left; its digest tells whether that was anything of use."""
        for piece in pieces(partial):
            self.hasher.update(piece)
            self.done += len(piece)
        self._sink.seek(self.done)
        self._on_done(self.done)

    def receive(self) -> None:
        """One request from where we are."""
        address = self._file.address or client.url(self._repo, self._commit, self._file.name)
        with client.get(address, self.done) as (response, chunks):
            if self.done and not self._continues(response):
                self._sink.seek(0)
                self._sink.truncate()
                self._restart()
            for chunk in chunks:
                if self.done + len(chunk) > self._file.size:
                    raise FormatError(
                        f"{self._file.name} is longer than the {self._file.size:,} bytes the hub promised",
                        "run the same command again",
                    )
                self._sink.write(chunk)
                self.hasher.update(chunk)
                self.done += len(chunk)
                self._on_done(self.done)

    def _continues(self, response: Any) -> bool:
        """Whether the answer begins where we stopped; a server may ignore the range and begin at the start."""
        found = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        plain = response.headers.get("Content-Encoding", "identity") == "identity"
        if response.status_code != 206:
            return False
        if not plain or found is None or int(found[1]) != self.done:
            raise NotFoundError(
                f"{client.host()} answers a range of {self._file.name} with another one", "remove the partial file"
            )
        return True


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
