"""Digests of files: computing them, reading lists of them, and finding those that the hub's client left behind."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

from ggufrun.errors import FormatError
from ggufrun.regularfile import open_descriptor, read_text

PIECE = 4 << 20
MAX_LIST = 16 << 20
MAX_NOTE = 4096
"""Bytes of a list of checksums, and of a note that ``huggingface_hub`` left about a file."""

GIT_SHA1 = "git-sha1"
"""What git, and the hub for small files, calls a file: the SHA-1 of ``blob SIZE\\0`` and the content."""

BY_LENGTH = {32: "md5", 40: "sha1", 56: "sha224", 64: "sha256", 96: "sha384", 128: "sha512"}
METADATA = Path(".cache") / "huggingface" / "download"
"""Where ``huggingface_hub`` notes what it put into a folder: ``NAME.metadata``, lines of commit, etag and time."""

_LIST_NAME = re.compile(r"(?i)(checklist\.chk|(md5|sha\d{1,3})(sums?)?(\.(txt|list))?|.*\.(md5|sha\d{1,3})(sums?)?)")
_PLAIN = re.compile(r"(\\?)([0-9A-Fa-f]{32,128})(?: [ *]|\s+)(\S.*)")
_TAGGED = re.compile(r"(\\?)([A-Za-z0-9-]+) ?\((.+)\) ?= ?([0-9A-Fa-f]{32,128})")
_OLLAMA_BLOB = re.compile("sha256-([0-9a-f]{64})")
_BARE = re.compile(r"[0-9A-Fa-f]{32,128}")


@dataclass(frozen=True)
class Digest:
    """``kind`` as :mod:`hashlib` calls it, or ``git-sha1``; ``hex`` in lower case."""

    kind: str
    hex: str


@dataclass(frozen=True)
class Expected:
    """What ``source`` says that the file at ``path`` is. ``digest`` None: ``problem`` says why it cannot be checked."""

    path: Path
    digest: Digest | None
    source: str
    problem: str = ""


class Hasher:
    """Computes a digest piece by piece; ``size`` is the file's, which git's digest begins with."""

    def __init__(self, kind: str, size: int) -> None:
        self.kind = kind
        self._hash = hashlib.new("sha1" if kind == GIT_SHA1 else kind, usedforsecurity=False)
        if kind == GIT_SHA1:
            self._hash.update(b"blob %d\0" % size)

    def update(self, data: bytes | memoryview) -> None:
        """Feed the next piece."""
        self._hash.update(data)

    @property
    def digest(self) -> Digest:
        """The digest of everything fed."""
        return Digest(self.kind, self._hash.hexdigest())


def hub_digest(etag: str) -> Digest | None:
    """The digest that an etag of the hub is: SHA-256 of large files, git's of small ones."""
    text = etag.lower()
    if re.fullmatch("[0-9a-f]{64}", text):
        return Digest("sha256", text)
    return Digest(GIT_SHA1, text) if re.fullmatch("[0-9a-f]{40}", text) else None


def pieces(path: Path) -> Iterator[memoryview]:
    """The content of a file, bounded pieces of it; each is valid until the next."""
    buffer = bytearray(PIECE)
    with os.fdopen(open_descriptor(path), "rb", buffering=0) as file:
        while count := file.readinto(buffer):
            yield memoryview(buffer)[:count]


def file_digest(path: Path, kind: str, on_bytes: Callable[[int], None] | None = None) -> Digest:
    """The digest of a file."""
    hasher = Hasher(kind, path.stat().st_size)
    for piece in pieces(path):
        hasher.update(piece)
        if on_bytes:
            on_bytes(len(piece))
    return hasher.digest


def is_list(path: Path) -> bool:
    """Whether a file's name says that it holds checksums: ``checklist.chk``, ``SHA256SUMS``, ``model.gguf.sha256``."""
    return _LIST_NAME.fullmatch(path.name) is not None


def read_list(path: Path) -> list[Expected]:
    """The lines of a list as md5sum, sha256sum (plain or ``--tag``) or the BSD tools write them; names are relative.

    A name that leaves the list's folder is refused, with its line. Raises FormatError for what is not a list.
    """
    lines = read_text(path, MAX_LIST, "name a list, or the file to check").removeprefix("\ufeff").splitlines()
    found = [
        _line(path, number, line.strip())
        for number, line in enumerate(lines, 1)
        if line.strip() and not line.lstrip().startswith(("#", ";"))
    ]
    if not found:
        raise FormatError(f"{path.name} is empty", "fetch the list again")
    return found


def _line(path: Path, number: int, line: str) -> Expected:
    tagged, plain = _TAGGED.fullmatch(line), _PLAIN.fullmatch(line)
    if tagged:
        escape, kind, name, text = tagged.groups()
        # openssl 3 says SHA2-256
        kind = kind.lower().replace("sha2-", "sha").replace("-", "")
    elif plain:
        escape, text, name = plain.groups()
        kind = BY_LENGTH.get(len(text), "")
    elif _BARE.fullmatch(line) and path.suffix:
        # model.gguf.sha256 with nothing but the sum
        escape, text, name, kind = "", line, path.stem, BY_LENGTH.get(len(line), "")
    else:
        raise FormatError(f"line {number} of {path.name} is not a checksum", "fetch the list again")
    if BY_LENGTH.get(len(text)) != kind:
        raise FormatError(f"line {number} of {path.name} has {len(text)} digits, which no known checksum has", "")
    if escape:
        name = name.replace("\\n", "\n").replace("\\r", "\r").replace("\\\\", "\\")
    name = name.removeprefix("./")
    if not is_inside(name):
        return Expected(path, None, path.name, f"{name!r} reaches out of the folder: refused")
    return Expected(path.parent / name, Digest(kind, text.lower()), path.name)


def is_inside(name: str) -> bool:
    """Whether a relative name stays below its folder, under the rules of POSIX and of Windows."""
    parts = name.replace("\\", "/").split("/")
    if not name or "\0" in name or any(part in ("", ".", "..") for part in parts):
        return False
    return not any(PureWindowsPath(part).drive or PureWindowsPath(part).root for part in parts) and not (
        PurePosixPath(name).is_absolute()
    )


def recorded(path: Path) -> Expected | None:
    """What the hub said that a file is, as ``huggingface_hub`` left it: in a folder's notes or in the cache's names.

    A blob of Ollama's store has its digest for a name, too.
    """
    target = path.resolve()
    blob = _OLLAMA_BLOB.fullmatch(target.name)
    if target.parent.name == "blobs" and blob:
        return Expected(path, Digest("sha256", blob[1]), "Ollama")
    if path.is_symlink() and target.parent.name == "blobs":
        digest = hub_digest(target.name)
        return Expected(path, digest, "hub") if digest else None
    absolute = path.absolute()
    for folder in absolute.parents:
        note = folder / METADATA / f"{absolute.relative_to(folder)}.metadata"
        if note.is_file():
            known = read_note(note)
            digest = hub_digest(known[1]) if known else None
            return Expected(path, digest, "hub") if digest else None
    return None


def notes(folder: Path) -> list[Path]:
    """The files that ``huggingface_hub`` put into a folder, whether they are still there or not."""
    base = folder / METADATA
    if not base.is_dir():
        return []
    names = (note.relative_to(base) for note in sorted(base.rglob("*.metadata")))
    return [folder / name.with_name(name.name.removesuffix(".metadata")) for name in names]


def read_note(note: Path) -> tuple[str, str, float] | None:
    """Commit, etag and time (seconds) of a ``.metadata`` file; None for a damaged one."""
    try:
        commit, etag, time = read_text(note, MAX_NOTE).split("\n")[:3]
        return commit.strip(), etag.strip(), float(time)
    except (OSError, ValueError, FormatError):
        return None
