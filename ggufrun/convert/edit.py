"""Change the metadata of a GGUF: in place where that is one small write, else as a copy that takes its place."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ggufrun import jsontext
from ggufrun.checkpoint.gguf import file
from ggufrun.checkpoint.gguf.checks import check_model, kind_of
from ggufrun.checkpoint.gguf.file import SCALARS, Header, Kind, Value, encode
from ggufrun.checkpoint.gguf.header import read_header
from ggufrun.convert.writer import TargetFile, check_targets
from ggufrun.errors import FormatError, GgufrunError, UsageError
from ggufrun.regularfile import open_regular, recorded

STEP = 16 << 20
"""Bytes copied at once."""

PAGE = 4096
"""Bytes: a write within one page is done or not done, whatever becomes of the process."""

FIXED = re.compile(r"general\.alignment|split\..*|GGUF\..*")
"""Keys that say where the tensors lie, or that the format itself counts."""

NAMES: dict[str, Kind] = {
    "u8": Kind.UINT8, "i8": Kind.INT8, "u16": Kind.UINT16, "i16": Kind.INT16, "u32": Kind.UINT32, "i32": Kind.INT32,
    "u64": Kind.UINT64, "i64": Kind.INT64, "f32": Kind.FLOAT32, "f64": Kind.FLOAT64, "bool": Kind.BOOL,
    "str": Kind.STRING,
}  # fmt: skip
"""Types as they are written before a value: ``u32:4096``."""

TRUTH = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def parse_value(key: str, text: str, old: Value | None) -> Value:
    """The value that ``text`` writes for ``key``: of the type before a colon (``u32:4096``), else of the type that the
    key has, else of the type that it looks like. A list is written as JSON. UsageError for text of another type.
    """
    name, colon, rest = text.partition(":")
    if colon and name.lower() in NAMES:
        return _of_kind(key, rest, NAMES[name.lower()])
    if old is not None and old.kind is Kind.ARRAY:
        return _list(key, text, Kind(int.from_bytes(old.raw[:4], "little")))
    if old is not None:
        return _of_kind(key, text, old.kind)
    if text.startswith("["):
        return _list(key, text, None)
    if text.lower() in ("true", "false"):
        return _of_kind(key, text, Kind.BOOL)
    if re.fullmatch(r"\d{1,9}", text):
        return _of_kind(key, text, Kind.UINT32)
    if re.fullmatch(r"-\d{1,9}", text):
        return _of_kind(key, text, Kind.INT32)
    if re.fullmatch(r"-?\d+\.\d*([eE][-+]?\d+)?", text):
        return _of_kind(key, text, Kind.FLOAT32)
    return _of_kind(key, text, Kind.STRING)


def _of_kind(key: str, text: str, kind: Kind) -> Value:
    value: Any = text
    try:
        if kind is Kind.BOOL:
            value = TRUTH[text.strip().lower()]
        elif kind in (Kind.FLOAT32, Kind.FLOAT64):
            value = float(text)
        elif kind in SCALARS:
            value = int(text, 0)
        return encode(value, kind)
    except (ValueError, KeyError, FormatError) as error:
        raise UsageError(
            f"{key} is of the type {kind.name}, and {text[:60]!r} is not", "write another value"
        ) from error


def _list(key: str, text: str, item: Kind | None) -> Value:
    try:
        values = jsontext.parse(text)
        if not isinstance(values, list) or (not values and item is None):
            raise ValueError("not a list")
        return encode(values, Kind.ARRAY, item)
    except (ValueError, FormatError, RecursionError) as error:
        raise UsageError(f"{key} is a list, and {text[:60]!r} is not one", "write it as JSON: [1, 2, 3]") from error


def changed_header(header: Header, values: Mapping[str, Value], removed: Sequence[str]) -> Header:
    """``header`` with ``values`` in place of those of their keys, new keys at the end, and without ``removed``.

    UsageError for a key that is not there to be removed, and for those that no edit may change.
    """
    for key in (*values, *removed):
        if FIXED.fullmatch(key):
            raise UsageError(f"{key} says where the tensors lie, so it cannot be edited", "split or merge the model")
    for key in removed:
        if key not in header.metadata:
            raise UsageError(f"there is no key {key}", "`ggufrun inspect --json` shows the keys")
        if key == "general.architecture":
            raise UsageError(f"{key} cannot be removed", "without it no program reads the file")
    kept = {key: value for key, value in header.metadata.items() if key not in removed}
    return replace(header, metadata=kept | dict(values))


def check_edit(path: Path, before: Header, after: Header) -> None:
    """FormatError for a change after which llama.cpp could not live with a model that it could live with before."""
    if kind_of(before) != "model" or not before.architecture or before.get("split.count", 1) not in (0, 1):
        return
    try:
        check_model(path, before)
    except GgufrunError:
        # it may be what is being mended
        return
    try:
        check_model(path, after)
    except GgufrunError as error:
        raise FormatError(f"after this change the model would not load: {error.what}", "nothing was changed") from error


def write_edit(path: Path, header: Header, target: Path, force: bool) -> bool:
    """Give the GGUF at ``path`` the header, as ``target``, which may be the same file. Whether it was done in place.

    Killed at any moment, it leaves the old file or the new one. Raises TargetError, FormatError or OSError.
    """
    with recorded() as read:
        old = read_header(path)
        head = file.serialize(header)
        if target == path and _write_in_place(path, old, head):
            return True
        size = len(head) + old.file_size - old.data_start
        check_targets([(target, size)], force=force or target == path, sources=() if target == path else (path,))
        made = TargetFile(target, size, force=force or target == path)
        try:
            made.write(0, np.frombuffer(head, np.uint8))
            with open_regular(path) as source:
                source.seek(old.data_start)
                position = len(head)
                while data := source.read(STEP):
                    made.write(position, np.frombuffer(data, np.uint8))
                    position += len(data)
            read.check()
            made.commit()
        finally:
            made.abort()
    return False


def _write_in_place(path: Path, old: Header, head: bytes) -> bool:
    """Write what differs, if the data stays where it is and the difference lies within one page of this file alone."""
    if len(head) != old.data_start or path.is_symlink() or path.stat().st_nlink != 1:
        # another name of the file belongs to another program, which did not ask for the change
        return False
    with path.open("r+b") as target:
        there = target.read(len(head))
        differing = np.flatnonzero(np.frombuffer(there, np.uint8) != np.frombuffer(head, np.uint8))
        if not len(differing):
            return True
        first, last = int(differing[0]), int(differing[-1])
        if first // PAGE != last // PAGE:
            return False
        os.pwrite(target.fileno(), head[first : last + 1], first)
        os.fsync(target.fileno())
    return True
