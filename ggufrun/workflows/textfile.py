"""Texts that are read whole, from files, pipes and stdin. What is not text is refused, and told what it seems to be; so
is what has no end.
"""

from __future__ import annotations

import codecs
import re
import sys
from pathlib import Path
from typing import IO

from ggufrun.errors import FormatError, NotFoundError
from ggufrun.regularfile import open_regular

MAX_FED = 64 << 20
"""Bytes of a text that is to be fed, or comes through a pipe, which may have no end; no context holds more."""

MAX_MEASURED = 1 << 30
"""Bytes of a file to measure on."""

SAMPLE = 1 << 20
"""Bytes by which is judged whether something is text."""

FOREIGN = 0.1
"""The share of bytes that are not UTF-8 above which something is not text; fewer are read, as llama.cpp does."""

FEW = 3
"""So many of them may be in any text."""

KINDS = (
    (b"GGUF", "a GGUF, which holds a model", "give a text file here"),
    (b"\xff\xfe", "UTF-16", "convert it: iconv -f utf-16 -t utf-8"),
    (b"\xfe\xff", "UTF-16", "convert it: iconv -f utf-16 -t utf-8"),
    (b"PK\x03\x04", "a ZIP archive, as .docx and .xlsx are", "save it as plain text"),
    (b"%PDF-", "a PDF", "save it as plain text, as pdftotext does"),
    (b"\x1f\x8b", "compressed by gzip", "unpack it with gunzip"),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd", "unpack it with unzstd"),
    (b"\xfd7zXZ\x00", "compressed by xz", "unpack it with unxz"),
    (b"BZh", "compressed by bzip2", "unpack it with bunzip2"),
    (b"\x7fELF", "a program", "give a text file"),
    (b"\x89PNG", "an image", "give a text file"),
    (b"\xff\xd8\xff", "an image", "give a text file"),
)
"""How files that are not UTF-8 text begin, what they are, and what to do about it."""

ENCODINGS = {"gb18030": "的一是不了在人有我他这中大来上国", "big5": "的一是不了在人有我他這中大來上國"}
"""Older encodings of Chinese, and characters that any text has."""


def read(path: Path, what: str, limit: int = MAX_FED) -> str:
    """The text at ``path``, or what comes from a pipe or, as ``-``, from stdin; bytes that are not UTF-8 survive it.

    ``what`` names it in errors: NotFoundError, FormatError for what is not text or more than ``limit`` bytes.
    """
    if str(path) == "-":
        return read_stdin()
    if path.is_dir():
        raise NotFoundError(f"{what}: a folder", "give the path of a text file")
    try:
        # a pipe is waited for, as the user meant it; a regular file never is
        with open_regular(path) if path.is_file() else path.open("rb") as file:
            return _decoded(file, what, limit if path.is_file() else min(limit, MAX_FED))
    except BlockingIOError as error:
        raise FormatError(f"{what} is not a text file", "give the path of a text file") from error
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFoundError(f"{what}: no such file", "check the path") from error


def read_stdin() -> str:
    """All of stdin as it stands."""
    return _decoded(sys.stdin.buffer, "stdin", MAX_FED)


def _decoded(file: IO[bytes], what: str, limit: int) -> str:
    start: bytes | None = file.read(SAMPLE)
    if start is None:
        raise BlockingIOError
    _check(start, what)
    # not read on at a terminal, where the end is typed
    data = start + (file.read(limit + 1 - len(start)) if len(start) == SAMPLE else b"")
    if len(data) > limit:
        amount = f"{limit >> 20} MiB" if limit < MAX_MEASURED else f"{limit >> 30} GiB"
        raise FormatError(f"{what} holds more than {amount}, or has no end", "give a part of it, as a file")
    if b"\0" in data:
        raise _no_text(data, what)
    return data.decode("utf-8", "surrogateescape")


def _check(start: bytes, what: str) -> None:
    """FormatError unless what begins so may be text."""
    bad = len(re.findall("[\udc80-\udcff]", start.decode("utf-8", "surrogateescape")))
    has_bom = start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    if b"\0" in start or has_bom or bad > max(FEW, FOREIGN * len(start)):
        raise _no_text(start, what)


def _no_text(data: bytes, what: str) -> FormatError:
    for magic, kind, todo in KINDS:
        if data.startswith(magic):
            return FormatError(f"{what} is {kind}, no UTF-8 text", todo)
    if b"\0" in data:
        return FormatError(f"{what} holds NUL bytes, and is not text", "give a text file in UTF-8")
    found = _encoding(data[:SAMPLE])
    if found:
        return FormatError(
            f"{what} is in {found}, by its looks, not in UTF-8", f"convert it: iconv -f {found} -t utf-8"
        )
    return FormatError(f"{what} is not UTF-8 text", "give a text file in UTF-8")


def _encoding(data: bytes) -> str:
    """The encoding in which ``data`` is Chinese, or nothing."""
    best, most = "", 0
    for name, usual in ENCODINGS.items():
        try:
            # the last character may be cut
            text = codecs.getincrementaldecoder(name)().decode(data)
        except UnicodeDecodeError:
            continue
        count = sum(map(text.count, usual))
        # one in a hundred at least; in running text it is one in ten
        if count > max(most, len(text) // 100):
            best, most = name, count
    return best
