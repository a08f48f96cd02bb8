"""Hugging Face safetensors: an 8-byte length, a JSON header, the data.

Format: https://huggingface.co/docs/safetensors. The header is checked as strictly as the reference reader does, before
anything in it is believed: known types, sizes that match shapes, ranges that follow one another without a gap.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from ggufrun.checkpoint.randomaccess import RandomAccessFile, row_reader
from ggufrun.checkpoint.tensor import STORAGE, Tensor
from ggufrun.errors import FormatError, NotFoundError, UnsupportedError

MAX_HEADER = 100_000_000
"""Bytes; the limit of the reference reader."""

AGAIN = "download it again"


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
        header = json.loads(file.read(8, length).tobytes().decode(), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"the header of {name} is no JSON: {_short(error)}", AGAIN) from error
    if not isinstance(header, dict):
        raise FormatError(f"the header of {name} is no JSON object", AGAIN)
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
    if dtype not in STORAGE:
        raise UnsupportedError(f"{name} in {file_name} has the type {dtype!r}", "convert the checkpoint to BF16 first")
    if shape is None or offsets is None or len(offsets) != 2:
        raise FormatError(f"the header of {file_name} lies about {name}: {json.dumps(value)[:100]}", AGAIN)
    begin, end = offsets
    if end - begin != prod(shape) * np.dtype(STORAGE[dtype]).itemsize:
        raise FormatError(f"the header of {file_name} lies: {name} of shape {shape} in {end - begin} bytes", AGAIN)
    return Entry(name, dtype, shape, start + begin, start + end)


def _naturals(value: Any) -> tuple[int, ...] | None:
    """A JSON list of natural numbers, or None for anything else."""
    # bool is an int to isinstance, and `true` is no dimension
    sound = isinstance(value, list) and all(type(item) is int and 0 <= item < 1 << 63 for item in value)
    return tuple(value) if sound else None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key appears twice")
    return found


def _short(error: Exception) -> str:
    return str(error)[:100] or type(error).__name__


class SafetensorsSource:
    """One or several safetensors files as a Source."""

    least_tokens = 0

    def __init__(self, path: Path, files: list[Path]) -> None:
        self.path = self.tokenizer = path
        self.overrides: Mapping[str, Any] = {}
        self.tensors: dict[str, Tensor] = {}
        self._files: list[RandomAccessFile] = []
        try:
            for file_path in files:
                file = RandomAccessFile(file_path)
                self._files.append(file)
                for entry in parse_header(file):
                    if entry.name in self.tensors:
                        raise FormatError(f"{entry.name} is in two files of {path}", "remove the stray file")
                    rows = row_reader(file, entry.begin, entry.shape, STORAGE[entry.dtype])
                    self.tensors[entry.name] = Tensor(entry.name, entry.dtype, entry.shape, rows)
        except BaseException:
            self.close()
            raise

    @property
    def files(self) -> tuple[Path, ...]:
        """The safetensors files."""
        return tuple(file.path for file in self._files)

    def close(self) -> None:
        """Close the files."""
        for file in self._files:
            file.close()


def open_folder(path: Path) -> SafetensorsSource | None:
    """The safetensors files of a folder, by their index where there is one; None if there are none."""
    index = path / "model.safetensors.index.json"
    if not index.is_file():
        files = sorted(path.glob("model*.safetensors"))
        return SafetensorsSource(path, files) if files else None
    wanted = read_index(index, ".safetensors")
    source = SafetensorsSource(path, [path / name for name in sorted(set(wanted.values()))])
    try:
        check_index(index, wanted, source.tensors)
    except BaseException:
        source.close()
        raise
    return source


def read_index(index: Path, suffix: str) -> Mapping[str, str]:
    """Tensor name -> file, from the index of a sharded checkpoint; NotFoundError if one of the files is missing."""
    try:
        weight_map = json.loads(index.read_text("utf-8"))["weight_map"]
        entries = dict(weight_map.items())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise FormatError(f"{index.name} is no index: {_short(error)}", AGAIN) from error
    for name in entries.values():
        # a plain name: an index must not reach out of its folder
        if not isinstance(name, str) or Path(name).name != name or not name.endswith(suffix):
            raise FormatError(f"{index.name} names the file {name!r}", AGAIN)
    missing = sorted({name for name in entries.values() if not (index.parent / name).is_file()})
    if missing:
        raise NotFoundError(
            f"{index.parent} lacks {len(missing)} of its files, such as {missing[0]}", "download the rest"
        )
    return entries


def check_index(index: Path, wanted: Mapping[str, str], found: Mapping[str, Tensor]) -> None:
    """Refuse files that do not hold what their index says."""
    lost = sorted(wanted.keys() ^ found.keys())
    if lost:
        raise FormatError(f"{index.name} and the files disagree about {lost[0]}", AGAIN)
