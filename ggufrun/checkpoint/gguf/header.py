"""The header of a GGUF file, parsed with suspicion.

It is read in bounded steps: no count, length or offset in it is believed before it has been held against the size of
the file.
"""

from __future__ import annotations

import os
import struct
from math import prod
from pathlib import Path

from ggufrun.checkpoint.gguf import foreign
from ggufrun.checkpoint.gguf.file import (
    DEFAULT_ALIGNMENT,
    MAGIC,
    MAX_DIMENSIONS,
    MAX_NAME,
    SCALARS,
    VERSION,
    Header,
    Kind,
    TensorInfo,
    Value,
    align,
)
from ggufrun.checkpoint.gguf.tensor_types import BLOCKS, TensorType
from ggufrun.errors import FormatError, NotFoundError, UnsupportedError
from ggufrun.regularfile import open_regular

AGAIN = "download or convert it again"

MAX_KEYS = 1 << 16
MAX_KEY_LENGTH = 1 << 16
MAX_TENSORS = 1 << 20


class _Reader:
    """A cursor over the start of a file that never reads past its end."""

    def __init__(self, path: Path) -> None:
        self.name = path.name
        try:
            if path.is_dir():
                raise NotFoundError(f"{path} is a folder, not a GGUF file", "convert it first")
            self._file = open_regular(path, "name a GGUF file")
        except FileNotFoundError as error:
            raise NotFoundError(f"no such file: {path}", "check the path") from error
        self.size = os.fstat(self._file.fileno()).st_size
        self.position = 0

    def __enter__(self) -> _Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def rewind(self, position: int) -> None:
        self._file.seek(position)
        self.position = position

    def take(self, n_bytes: int) -> bytes:
        if n_bytes > self.size - self.position:
            raise _cut(self.name, f"the header ends after {self.size} bytes")
        data = self._file.read(n_bytes)
        if len(data) != n_bytes:
            raise FormatError(f"{self.name} is cut short", AGAIN)
        self.position += n_bytes
        return data

    def number(self, code: str) -> int:
        return int(struct.unpack("<" + code, self.take(struct.calcsize(code)))[0])

    def text(self, limit: int) -> str:
        length = self.number("Q")
        if length > limit:
            raise FormatError(f"{self.name} lies: a name of {length} bytes in its header", AGAIN)
        try:
            found = self.take(length).decode()
        except UnicodeDecodeError as error:
            raise FormatError(f"{self.name} has a name that is not UTF-8 in its header", AGAIN) from error
        # llama.cpp takes names for C strings, and aborts on an empty one
        if not found or "\0" in found:
            raise FormatError(f"{self.name} has the name {found!r} in its header", AGAIN)
        return found

    def value(self, kind: Kind) -> Value:
        return Value(kind, self._raw(kind))

    def kind(self) -> Kind:
        number = self.number("I")
        try:
            return Kind(number)
        except ValueError as error:
            raise FormatError(f"{self.name} has metadata of the unknown type {number}", AGAIN) from error

    def _raw(self, kind: Kind) -> bytes:
        if kind in SCALARS:
            return self.take(struct.calcsize(SCALARS[kind]))
        length = self.take(8) if kind is Kind.STRING else b""
        if kind is Kind.STRING:
            return length + self.take(struct.unpack("<Q", length)[0])
        item = self.kind()
        count = self.number("Q")
        head = struct.pack("<IQ", item, count)
        if item in SCALARS:
            return head + self.take(count * struct.calcsize(SCALARS[item]))
        if item is not Kind.STRING:
            raise FormatError(f"{self.name} has an array of arrays in its header", AGAIN)
        if count * 8 > self.size - self.position:
            raise FormatError(f"{self.name} is cut short or lies: an array of {count} texts", AGAIN)
        parts = [head]
        for _ in range(count):
            length = self.take(8)
            parts += (length, self.take(struct.unpack("<Q", length)[0]))
        return b"".join(parts)


def _cut(name: str, why: str) -> FormatError:
    """The error for a file that ends too early, which a piece of one does by its nature."""
    if found := foreign.piece(name):
        whole, number, count = found
        part = f"part {number} of {count}" if count else f"part {number}"
        return FormatError(f"{name} is {part} of a file that was cut", f"join the parts in order into {whole}")
    return FormatError(f"{name} is cut short: {why}", AGAIN)


def read_header(path: Path) -> Header:
    """Read and check the header of a GGUF file.

    NotFoundError for no file, FormatError for a file that is damaged, cut short or lies, UnsupportedError for another
    version of the format, another byte order or an unknown tensor type.
    """
    with _Reader(path) as reader:
        version, n_tensors, n_keys = _counts(reader)
        metadata: dict[str, Value] = {}
        for _ in range(n_keys):
            key = reader.text(MAX_KEY_LENGTH)
            if key in metadata:
                raise FormatError(f"{path.name} has the metadata key {key} twice", AGAIN)
            metadata[key] = reader.value(reader.kind())
        alignment = _alignment(path.name, metadata)
        tensors = tuple(_tensor_info(reader, alignment) for _ in range(n_tensors))
        header = Header(metadata, tensors, version, align(reader.position, alignment), reader.size)
    _check_layout(path.name, header)
    return header


def read_beginning(path: Path) -> Header:
    """The metadata up to the first list, without tensors: what a file is, told in no time. Raises as `read_header`."""
    with _Reader(path) as reader:
        version, _, n_keys = _counts(reader)
        metadata: dict[str, Value] = {}
        for _ in range(n_keys):
            key, kind = reader.text(MAX_KEY_LENGTH), reader.kind()
            if kind is Kind.ARRAY:
                break
            metadata[key] = reader.value(kind)
        return Header(metadata, (), version, file_size=reader.size)


def _counts(reader: _Reader) -> tuple[int, int, int]:
    """The version, and how many tensors and keys there are."""
    if not reader.size:
        raise FormatError(f"{reader.name} is empty", AGAIN)
    start = reader.take(min(foreign.AHEAD, reader.size))
    reader.rewind(len(MAGIC))
    if not start.startswith(MAGIC):
        raise foreign.not_a_gguf(reader.name, start, reader.size)
    version = reader.number("I")
    if version & 0xFFFF == 0:
        raise UnsupportedError(f"{reader.name} is a big-endian GGUF", "get the little-endian file")
    if not 2 <= version <= VERSION:
        hint = "update ggufrun" if version > VERSION else "convert the model again"
        raise UnsupportedError(f"{reader.name} is GGUF version {version}, not 2 or {VERSION}", hint)
    n_tensors, n_keys = reader.number("Q"), reader.number("Q")
    if n_keys > MAX_KEYS or n_tensors > MAX_TENSORS:
        raise FormatError(f"{reader.name} lies: {n_keys} metadata keys and {n_tensors} tensors", AGAIN)
    return version, n_tensors, n_keys


def _alignment(name: str, metadata: dict[str, Value]) -> int:
    value = metadata.get("general.alignment")
    if value is None:
        return DEFAULT_ALIGNMENT
    number = value.decode()
    if value.kind is not Kind.UINT32:
        raise FormatError(
            f"{name} says general.alignment = {str(number)[:40]} as {value.kind.name}, not as UINT32",
            AGAIN,
        )
    if number == 0 or number & (number - 1) or number > 1 << 20:
        raise FormatError(f"{name} asks for an alignment of {number}", AGAIN)
    return int(number)


def _tensor_info(reader: _Reader, alignment: int) -> TensorInfo:
    name = reader.text(MAX_NAME)
    n_dimensions = reader.number("I")
    if not 1 <= n_dimensions <= MAX_DIMENSIONS:
        raise FormatError(f"{reader.name} lies: {name} has {n_dimensions} dimensions", AGAIN)
    shape = tuple(reversed([reader.number("Q") for _ in range(n_dimensions)]))
    number, offset = reader.number("I"), reader.number("Q")
    try:
        kind = TensorType(number)
        block, _ = BLOCKS[kind]
    except (ValueError, KeyError) as error:
        raise foreign.unknown_type(reader.name, number) from error
    if any(size == 0 for size in shape) or prod(shape) >= 1 << 60 or shape[-1] % block:
        raise FormatError(f"{reader.name} lies: {name} of shape {shape} as {kind.name}", AGAIN)
    if offset % alignment:
        raise FormatError(f"{reader.name} lies: {name} starts at {offset}, which is not aligned", AGAIN)
    return TensorInfo(name, shape, kind, offset)


def _check_layout(name: str, header: Header) -> None:
    seen: set[str] = set()
    position = 0
    for info in header.tensors:
        if info.name in seen:
            raise FormatError(f"{name} has the tensor {info.name} twice", AGAIN)
        seen.add(info.name)
        # llama.cpp wants the data in the order of the header, without gaps
        if info.offset != position:
            raise FormatError(f"{name} lies: {info.name} starts at {info.offset}, not {position}", AGAIN)
        position = align(info.offset + info.n_bytes, header.alignment)
        end = header.data_start + info.offset + info.n_bytes
        if end > header.file_size:
            raise _cut(name, f"{header.file_size} bytes of {end} or more")
