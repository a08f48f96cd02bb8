"""Hugging Face safetensors: an 8-byte length, a JSON header, the data.

Format: https://huggingface.co/docs/safetensors. The header is checked as strictly as the reference reader does, before
anything in it is believed: sizes that match shapes, ranges that follow one another without a gap. A tensor of a type
that is not known here is an entry like any other: it may belong to a part of the model that nobody will ask for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from ggufrun import jsontext
from ggufrun.checkpoint.folder import AGAIN, Format
from ggufrun.checkpoint.randomaccess import RandomAccessFile, row_reader
from ggufrun.checkpoint.tensor import STORAGE, Rows, Tensor
from ggufrun.errors import FormatError, UnsupportedError

MAX_HEADER = 100_000_000
"""Bytes; the limit of the reference reader."""


BITS = {"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6}
"""Types of the format whose values share bytes."""


@dataclass(frozen=True)
class Entry:
    """One line of the header: ``begin`` and ``end`` are bytes from the start of the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def parse_header(file: RandomAccessFile) -> list[Entry]:
    """The tensors of one file, in the order of their names (which is how the reference reader lists them)."""
    name = file.path.name
    if file.size < 8:
        raise FormatError(f"{name} is cut short: {file.size} bytes", AGAIN)
    length = int.from_bytes(file.read(0, 8).tobytes(), "little")
    if length > min(MAX_HEADER, file.size - 8):
        raise FormatError(f"{name} is cut short or no safetensors file: its header claims {length} bytes", AGAIN)
    try:
        header = jsontext.parse(file.read(8, length).tobytes(), unique=True)
    except ValueError as error:
        raise FormatError(f"the header of {name} is not JSON that can be read: {str(error)[:100]}", AGAIN) from error
    if not isinstance(header, dict):
        raise FormatError(f"the header of {name} is not a JSON object", AGAIN)
    start = 8 + length
    entries = [_entry(name, key, value, start) for key, value in header.items() if key != "__metadata__"]
    position = start
    for entry in sorted(entries, key=lambda entry: (entry.begin, entry.end)):
        if entry.begin != position:
            raise FormatError(f"the header of {name} lies: {entry.name} starts at {entry.begin}, not {position}", AGAIN)
        position = entry.end
    if position != file.size:
        raise FormatError(f"{name} has {file.size} bytes, its header describes {position}: cut short", AGAIN)
    return sorted(entries, key=lambda entry: entry.name)


def _entry(file_name: str, name: str, value: Any, start: int) -> Entry:
    if not isinstance(value, dict):
        raise FormatError(f"the header of {file_name} says nothing useful of {name}", AGAIN)
    dtype, shape, offsets = value.get("dtype"), _naturals(value.get("shape")), _naturals(value.get("data_offsets"))
    if not isinstance(dtype, str) or shape is None or offsets is None or len(offsets) != 2:
        raise FormatError(f"the header of {file_name} lies about {name}: {jsontext.shown(value, 100)}", AGAIN)
    begin, end = offsets
    bits = 8 * np.dtype(STORAGE[dtype]).itemsize if dtype in STORAGE else BITS.get(dtype)
    if end < begin or (bits is not None and 8 * (end - begin) != prod(shape) * bits):
        raise FormatError(f"the header of {file_name} lies: {name} of shape {shape} in {end - begin} bytes", AGAIN)
    return Entry(name, dtype, shape, start + begin, start + end)


def _naturals(value: Any) -> tuple[int, ...] | None:
    """A JSON list of natural numbers, or None for anything else."""
    # bool is an int to isinstance, and `true` is no dimension
    sound = isinstance(value, list) and all(type(item) is int and 0 <= item < 1 << 63 for item in value)
    return tuple(value) if sound else None


@dataclass(frozen=True)
class SafetensorsFile:
    """One file, open, and its tensors by name."""

    file: RandomAccessFile
    tensors: Mapping[str, Tensor]


def read_safetensors(path: Path) -> SafetensorsFile:
    """Open a file; its ``file`` is to be closed."""
    file = RandomAccessFile(path)
    try:
        tensors = {
            entry.name: Tensor(entry.name, entry.dtype, entry.shape, _rows(file, entry)) for entry in parse_header(file)
        }
    except BaseException:
        file.close()
        raise
    return SafetensorsFile(file, tensors)


def _rows(file: RandomAccessFile, entry: Entry) -> Callable[[int, int], Rows]:
    if entry.dtype in STORAGE:
        return row_reader(file, entry.begin, entry.shape, STORAGE[entry.dtype])

    def refuse(start: int, stop: int) -> Rows:
        raise UnsupportedError(
            f"{entry.name} in {file.path.name} has the type {entry.dtype[:20]}, which ggufrun cannot read",
            "save the checkpoint in BF16",
        )

    return refuse


SAFETENSORS = Format("model*.safetensors", "model.safetensors.index.json", read_safetensors)
OTHER_SAFETENSORS = Format(
    "*.safetensors",
    "*.safetensors.index.json",
    read_safetensors,
    ("adapter_*.safetensors", "consolidated*.safetensors", "optimizer*.safetensors"),
)
"""Files of any name, such as AutoGPTQ's ``gptq_model-4bit-128g.safetensors``, for a folder without the usual ones."""
