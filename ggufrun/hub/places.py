"""Where fetched files go: the cache that all programs share, or a folder of one's own."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ggufrun.errors import TargetError
from ggufrun.hub import client
from ggufrun.hub.client import Listing, RemoteFile
from ggufrun.hub.digests import METADATA, PIECE, Hasher, file_digest, is_inside, read_note
from ggufrun.hub.select import piece
from ggufrun.regularfile import open_regular, read_text


class Place(Protocol):
    """A place for the files of one repository at one commit."""

    @property
    def folder(self) -> Path:
        """Where the files are found under their names."""

    def has(self, file: RemoteFile) -> bool:
        """Whether the file is there already; TargetError for another file in its place."""

    def partial(self, file: RemoteFile) -> Path:
        """Where it grows; the same in the next run."""

    def lock(self, file: RemoteFile) -> Path:
        """What keeps two processes from the same partial file."""

    def keep(self, file: RemoteFile) -> None:
        """Put the whole partial file into place."""

    def download(self, file: RemoteFile) -> Path:
        """Leave it to the client; where it is then."""

    def finish(self) -> None:
        """All files are there."""


@dataclass(frozen=True)
class Cache:
    """The client's cache: content under its digest in ``blobs``, names in ``snapshots/COMMIT``, branches in ``refs``.

    Layout: https://huggingface.co/docs/huggingface_hub/guides/manage-cache.
    """

    listing: Listing

    @property
    def _base(self) -> Path:
        return repo_folder(self.listing.repo)

    @property
    def folder(self) -> Path:
        """The snapshot."""
        return self._base / "snapshots" / self.listing.commit

    def has(self, file: RemoteFile) -> bool:
        """By name and size: the cache's files are named by digest when they are made, and nobody edits them."""
        found = client.in_cache(self.listing.repo, self.listing.commit, file.name)
        if found is not None and found.stat().st_size == file.size:
            return True
        blob = self._blob(file)
        if found is None and blob.is_file() and blob.stat().st_size == file.size:
            # another commit holds the same content
            self._link(file)
            return True
        return False

    def _link(self, file: RemoteFile) -> None:
        client.link_into_cache(self.listing.repo, self.listing.commit, file.name)

    def _blob(self, file: RemoteFile) -> Path:
        return self._base / "blobs" / file.digest.hex

    def partial(self, file: RemoteFile) -> Path:
        """Beside the blob."""
        return self._base / "blobs" / f"{file.digest.hex}.incomplete"

    def lock(self, file: RemoteFile) -> Path:
        """Where the client has its locks."""
        return client.cache_folder() / ".locks" / self._base.name / f"{file.digest.hex}.ggufrun.lock"

    def keep(self, file: RemoteFile) -> None:
        """Rename to the digest; the client makes the name."""
        self.partial(file).replace(self._blob(file))
        self._link(file)

    def download(self, file: RemoteFile) -> Path:
        """Into the cache."""
        return client.download(self.listing.repo, self.listing.commit, file.name, None)

    def finish(self) -> None:
        """Note what the branch or tag stands for, which offline runs need."""
        revision, commit = self.listing.revision, self.listing.commit
        if revision == commit or not is_inside(revision):
            return
        ref = self._base / "refs" / revision
        ref.parent.mkdir(parents=True, exist_ok=True)
        ref.write_text(commit, encoding="utf-8")


@dataclass(frozen=True)
class Folder:
    """A plain folder with the client's notes in ``.cache/huggingface``, so that `hf download` and verify know it."""

    listing: Listing
    folder: Path
    force: bool

    def has(self, file: RemoteFile) -> bool:
        """By the note that was made when it came, else by its digest; an unknown file stands unless forced."""
        path = self.folder / file.name
        if not os.path.lexists(path):
            return self._is_joined(file)
        if path.is_file() and path.stat().st_size == file.size:
            known = read_note(self._note(file))
            # a second's grace, as the client gives: file systems round times
            if known and known[1] == file.digest.hex and path.stat().st_mtime - 1 <= known[2]:
                return True
            if file_digest(path, file.digest.kind) == file.digest:
                self._write_note(file)
                return True
        if self.force and not path.is_dir():
            return False
        raise TargetError(f"{path} exists and is not the hub's", "move it away, or use --force to replace it")

    def _is_joined(self, file: RemoteFile) -> bool:
        """Whether the file is a piece of one that lies here whole, as its digest says."""
        own = piece(file.name)
        whole = self.folder / own[0] if own else None
        if own is None or whole is None or not whole.is_file():
            return False
        before = [name for name in self.listing.names if (one := piece(name)) and one[0] == own[0] and one[1] < own[1]]
        start = sum(self.listing.file(name).size for name in before)
        hasher = Hasher(file.digest.kind, file.size)
        with open_regular(whole) as source:
            source.seek(start)
            left = file.size
            while data := source.read(min(left, PIECE)):
                hasher.update(data)
                left -= len(data)
        return left == 0 and hasher.digest == file.digest

    def _note(self, file: RemoteFile) -> Path:
        return self.folder / METADATA / f"{file.name}.metadata"

    def partial(self, file: RemoteFile) -> Path:
        """Among the notes, under name and digest."""
        return self.folder / METADATA / f"{file.name}.{file.digest.hex[:16]}.incomplete"

    def lock(self, file: RemoteFile) -> Path:
        """Beside the partial file."""
        return self.partial(file).with_suffix(".lock")

    def keep(self, file: RemoteFile) -> None:
        """Rename, and note what it is."""
        path = self.folder / file.name
        path.parent.mkdir(parents=True, exist_ok=True)
        self.partial(file).replace(path)
        self._write_note(file)

    def _write_note(self, file: RemoteFile) -> None:
        note = self._note(file)
        note.parent.mkdir(parents=True, exist_ok=True)
        note.write_text(f"{self.listing.commit}\n{file.digest.hex}\n{time.time()}\n", encoding="utf-8")
        ignore = self.folder / METADATA.parent / ".gitignore"
        if not ignore.exists():
            ignore.write_text("*", encoding="utf-8")

    def download(self, file: RemoteFile) -> Path:
        """Into the folder."""
        return client.download(self.listing.repo, self.listing.commit, file.name, self.folder)

    def finish(self) -> None:
        """Nothing is left to do."""


def repo_folder(repo: str) -> Path:
    """A repository's part of the cache."""
    return client.cache_folder() / f"models--{repo.replace('/', '--')}"


def cached_commit(repo: str, revision: str) -> str:
    """The commit that a revision stood for when the cache last heard of it; a commit stands for itself."""
    if not is_inside(revision):
        return revision
    ref = repo_folder(repo) / "refs" / revision
    return read_text(ref, 4096).strip() if ref.is_file() else revision
