"""Backslash escapes in texts from the command line, as llama.cpp reads them (``string_process_escapes``)."""

from __future__ import annotations

import re

SIMPLE: dict[bytes, bytes] = {
    b"n": b"\n",
    b"r": b"\r",
    b"t": b"\t",
    b"'": b"'",
    b'"': b'"',
    b"\\": b"\\",
}
"""What the letter after a backslash stands for."""

ESCAPE = re.compile(rb"\\(?:([nrt'\"\\])|x([0-9a-fA-F]{2}))")


def expand(text: str) -> str:
    r"""``text`` with ``\n``, ``\r``, ``\t``, ``\'``, ``\"``, ``\\`` and ``\xHH`` expanded; any other backslash stays.

    ``\xHH`` is a byte, so that several of them can make one character. A byte that ends up in no character is kept the
    way Python keeps such bytes of a command line (``surrogateescape``).

    >>> expand(r"a\tb \xe5\xba\x8a \d")
    'a\tb 床 \\d'
    """

    def byte(match: re.Match[bytes]) -> bytes:
        letter, digits = match.groups()
        return SIMPLE[letter] if letter else bytes([int(digits, 16)])

    raw = text.encode("utf-8", "surrogateescape")
    return ESCAPE.sub(byte, raw).decode("utf-8", "surrogateescape")
