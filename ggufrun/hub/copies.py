"""Files that another program has fetched before: taken into a folder without a second download."""

from __future__ import annotations

import errno
import os
import shutil
from collections import defaultdict
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

from ggufrun.hub.client import RemoteFile
from ggufrun.hub.digests import Hasher, pieces
from ggufrun.hub.stores import label, models_in_stores

SMALLEST = 1 << 20
"""Bytes; what is smaller is fetched faster than it is looked for."""

OnDone = Callable[[int], None]
"""Hears the bytes of a file that have been read."""


class Copies:
    """The files of all stores, by size; looked for when a file is first asked for."""

    @cached_property
    def _by_size(self) -> dict[int, list[tuple[Path, str]]]:
        found: dict[int, list[tuple[Path, str]]] = defaultdict(list)
        for model in models_in_stores():
            for path in model.files:
                if path.is_file():
                    found[path.stat().st_size].append((Path(os.path.realpath(path)), model.store))
        return found

    def take(self, file: RemoteFile, target: Path, on_done: OnDone) -> str | None:
        """Make ``target`` the content of ``file`` if a store has it, as its digest says; the store's label.

        The new name is a second one of the same file where the file system allows that, else a copy.
        """
        if file.size < SMALLEST:
            return None
        for path, store in self._by_size.get(file.size, []):
            # a blob's name is its digest; of others of this size any may be it
            if path.parent.name == "blobs" and not path.name.endswith(file.digest.hex):
                continue
            if _take(path, file, target, on_done):
                return label(store)
        return None


def _take(path: Path, file: RemoteFile, target: Path, on_done: OnDone) -> bool:
    try:
        if _digest_is_right(path, file, on_done) and (_linked(path, target) or _copied(path, target)):
            # the copy is what is kept: it is held against the digest like a transfer
            if path.samefile(target) or _digest_is_right(target, file, on_done):
                return True
            target.unlink(missing_ok=True)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise
    return False


def _digest_is_right(path: Path, file: RemoteFile, on_done: OnDone) -> bool:
    hasher = Hasher(file.digest.kind, file.size)
    done = 0
    for piece in pieces(path):
        hasher.update(piece)
        done += len(piece)
        on_done(done)
    return hasher.digest == file.digest


def _linked(path: Path, target: Path) -> bool:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    try:
        os.link(path, target)
    except OSError:
        # another file system, or a file of another user
        return False
    return True


def _copied(path: Path, target: Path) -> bool:
    try:
        shutil.copyfile(path, target)
    except OSError:
        target.unlink(missing_ok=True)
        raise
    return True
