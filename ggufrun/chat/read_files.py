"""``/read``: the text of one or several files as a message."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from ggufrun.errors import FormatError, NotFoundError, UsageError
from ggufrun.regularfile import read_bytes

MAX_READ = 16 << 20
"""Bytes of a file, and characters of all together, that are sent as a message; no context holds more."""

SHOWN = 5
"""Names of files that are told when many are read."""

PATTERN = re.compile(r"[*?\[]")

NAME = re.compile(r"""(?:["']([^"']+)["']|(\S+))(.*)""", re.DOTALL)
"""A file's name and what follows it."""


@dataclass(frozen=True)
class Reading:
    """A message made of files, and lines that say what was read."""

    lines: tuple[str, ...]
    message: str


def read(argument: str) -> Reading:
    """``FILE`` or ``FILE QUESTION``; quotation marks hold a name with spaces together, and a pattern, such as
    ``src/*.py``, stands for all files that fit, each under its name.

    NotFoundError where no file fits, FormatError for what is not text or too much of it.
    """
    if not argument:
        raise UsageError("name a file: /read FILE, or /read FILE QUESTION")
    path, question = _parted(argument)
    paths = [path] if path.exists() or not PATTERN.search(str(path)) else _fitting(path)
    texts = [_text_of(path) for path in paths]
    count = sum(map(len, texts))
    if count > MAX_READ:
        raise FormatError(f"these {len(paths)} files are larger than {MAX_READ >> 20} MiB", "give some of them")
    lines, text = [f"read {paths[0]}: {count} characters"], texts[0]
    if len(paths) > 1:
        more = [f"and {len(paths) - SHOWN} more"] if len(paths) > SHOWN else []
        lines = [f"read {len(paths)} files: {count} characters", *map(str, paths[:SHOWN]), *more]
        text = "\n\n".join(f"{path}:\n\n{text}" for path, text in zip(paths, texts, strict=True))
    return Reading(tuple(lines), f"{question}\n\n{text}" if question else text)


def _parted(argument: str) -> tuple[Path, str]:
    """The file or pattern, and the question after it; a file whose name is the whole argument goes first."""
    whole = Path(argument).expanduser()
    match = NAME.match(argument)
    if whole.is_file() or match is None:
        return whole, ""
    return Path(match[1] or match[2]).expanduser(), match[3].strip()


def _fitting(pattern: Path) -> list[Path]:
    start = Path(pattern.anchor)
    try:
        paths = sorted(found for found in start.glob(str(pattern.relative_to(start))) if found.is_file())
    except ValueError as error:
        raise UsageError(f"{pattern} is not a pattern: {str(error).lower()}") from None
    if not paths:
        raise NotFoundError(f"no file fits {pattern}")
    return paths


def _text_of(path: Path) -> str:
    """A file's text without the last newlines; raises FormatError."""
    try:
        text = read_bytes(path, MAX_READ, "give a part of it").decode("utf-8-sig")
    except UnicodeDecodeError:
        raise FormatError(f"{path} is not UTF-8 text") from None
    except OSError as error:
        raise FormatError(f"{path} cannot be read: {(error.strerror or str(error)).lower()}") from error
    if "\0" in text or not text.strip():
        raise FormatError(f"{path} holds no text")
    return text.rstrip("\r\n")
