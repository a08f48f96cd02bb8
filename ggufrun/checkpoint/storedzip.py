"""Where the members of an uncompressed zip archive lie in the file.

PyTorch keeps every storage as an uncompressed member, so that its bytes can be read in place. The directory is read by
the standard library's ``zipfile``; everything it says is then held against the local headers and the size of the file.

Format: https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT.
"""

from __future__ import annotations

import io
import struct
import zipfile
from dataclasses import dataclass

from ggufrun.checkpoint.randomaccess import RandomAccessFile
from ggufrun.errors import FormatError, UnsupportedError

MAX_DIRECTORY = 16 << 20
"""Bytes of the directory; a model of sixty thousand tensors has a third of it."""

LOCAL_HEADER = struct.Struct("<4sHHHHHIIIHH")
ENCRYPTED = 1
AGAIN = "download it again"


@dataclass(frozen=True)
class Member:
    """Bytes ``begin`` to ``end`` of the archive."""

    begin: int
    end: int


class _Stream(io.RawIOBase):
    """A RandomAccessFile as the seekable stream that ``zipfile`` wants; large reads are refused."""

    def __init__(self, file: RandomAccessFile) -> None:
        self._file, self._position = file, 0

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._file.size}[whence]
        if base + offset < 0:
            raise OSError("a position before the start")
        self._position = base + offset
        return self._position

    def read(self, count: int | None = -1) -> bytes:
        rest = max(0, self._file.size - self._position)
        count = rest if count is None or count < 0 else min(count, rest)
        if count > MAX_DIRECTORY:
            raise OSError(f"a directory of {count} bytes")
        data = self._file.read(self._position, count).tobytes()
        self._position += count
        return data


def read_members(file: RandomAccessFile) -> dict[str, Member]:
    """Every member by its name. FormatError for a lying archive, UnsupportedError for a compressed member."""
    name = file.path.name
    try:
        with zipfile.ZipFile(_Stream(file)) as archive:
            infos, directory = archive.infolist(), archive.start_dir
    except (zipfile.BadZipFile, OSError, ValueError, KeyError, struct.error, NotImplementedError, EOFError) as error:
        raise FormatError(f"{name} is cut short or damaged: {str(error)[:100]}", AGAIN) from error
    members: dict[str, Member] = {}
    position = 0
    for info in sorted(infos, key=lambda info: info.header_offset):
        member = _member(file, info)
        if info.filename in members:
            raise FormatError(f"{name} holds {info.filename[:100]!r} twice", AGAIN)
        # a hole between members is padding; an overlap is a lie
        if info.header_offset < position or member.end > directory:
            raise FormatError(f"{name} lies about where {info.filename[:100]!r} is", AGAIN)
        position = member.end
        members[info.filename] = member
    return members


def _member(file: RandomAccessFile, info: zipfile.ZipInfo) -> Member:
    name, label = file.path.name, repr(info.filename[:100])
    if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & ENCRYPTED:
        raise UnsupportedError(f"{label} in {name} is compressed or encrypted", "save it again with torch.save")
    parts = info.orig_filename.split("/")
    if "\\" in info.orig_filename or "\0" in info.orig_filename or any(part in ("", ".", "..") for part in parts):
        raise FormatError(f"{name} holds a member named {label}", AGAIN)
    if not 0 <= info.header_offset <= file.size - LOCAL_HEADER.size or info.compress_size != info.file_size:
        raise FormatError(f"{name} lies about {label}", AGAIN)
    header = LOCAL_HEADER.unpack(file.read(info.header_offset, LOCAL_HEADER.size).tobytes())
    signature, method, name_length, extra_length = header[0], header[3], header[9], header[10]
    begin = info.header_offset + LOCAL_HEADER.size + name_length + extra_length
    end = begin + info.file_size
    if signature != b"PK\3\4" or method != zipfile.ZIP_STORED or end > file.size:
        raise FormatError(f"{name} lies about {label}", AGAIN)
    local = file.read(info.header_offset + LOCAL_HEADER.size, name_length).tobytes()
    if local not in (info.orig_filename.encode("utf-8", "replace"), info.orig_filename.encode("cp437", "replace")):
        raise FormatError(f"{name} calls {label} by two names", AGAIN)
    return Member(begin, end)
