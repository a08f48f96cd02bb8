"""The GGUF file format: parsing a header with suspicion, and writing one.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. A header is read in bounded steps: no count, length
or offset in it is believed before it has been held against the size of the file. Values are kept as the bytes they
are, so that copying a file's metadata copies it exactly, and decoded on demand.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from ggufrun.checkpoint.tensortypes import BLOCKS, TensorType
from ggufrun.errors import FormatError, NotFoundError, UnsupportedError

Kind = gguf.GGUFValueType
MAGIC = b"GGUF"
VERSION = 3
DEFAULT_ALIGNMENT = 32
AGAIN = "download or convert it again"

MAX_KEYS = 1 << 16
MAX_KEY_LENGTH = 1 << 16
MAX_TENSORS = 1 << 20
MAX_DIMENSIONS = 4
"""``GGML_MAX_DIMS``."""
MAX_NAME = 63
"""Bytes; llama.cpp keeps names in ``GGML_MAX_NAME`` = 64 with a final zero."""

SCALARS: dict[Kind, str] = {
    Kind.UINT8: "B",
    Kind.INT8: "b",
    Kind.UINT16: "H",
    Kind.INT16: "h",
    Kind.UINT32: "I",
    Kind.INT32: "i",
    Kind.FLOAT32: "f",
    Kind.BOOL: "?",
    Kind.UINT64: "Q",
    Kind.INT64: "q",
    Kind.FLOAT64: "d",
}
"""``struct`` codes of the fixed-size value types."""


@dataclass(frozen=True)
class Value:
    """A metadata value: its type and its bytes as they stand in the file (without the type)."""

    kind: Kind
    raw: bytes

    def decode(self) -> Any:
        """As Python: int, float, bool, str, or a list of these. Text that is no UTF-8 becomes bytes."""
        return _decode(self.kind, memoryview(self.raw), 0)[0]

    def __len__(self) -> int:
        """Elements of an array; 1 for anything else."""
        return int(struct.unpack_from("<Q", self.raw, 4)[0]) if self.kind is Kind.ARRAY else 1


@dataclass(frozen=True)
class TensorInfo:
    """Where a tensor lies: ``shape`` in numpy's order, ``offset`` in bytes from the start of the data."""

    name: str
    shape: tuple[int, ...]
    type: TensorType
    offset: int

    @property
    def n_bytes(self) -> int:
        """Bytes of data, without padding."""
        return tensor_bytes(self.shape, self.type)


@dataclass(frozen=True)
class Header:
    """Everything before the data."""

    metadata: dict[str, Value]
    tensors: tuple[TensorInfo, ...]
    version: int = VERSION
    data_start: int = 0
    file_size: int = field(default=0, compare=False)

    def get(self, key: str, default: Any = None) -> Any:
        """A decoded metadata value."""
        value = self.metadata.get(key)
        return default if value is None else value.decode()

    @property
    def alignment(self) -> int:
        """Bytes to which tensors are aligned."""
        return int(self.get("general.alignment", DEFAULT_ALIGNMENT))

    @property
    def architecture(self) -> str:
        """``general.architecture``, or an empty string."""
        return str(self.get("general.architecture", ""))

    @property
    def data_size(self) -> int:
        """Bytes of data with padding."""
        return max((align(info.offset + info.n_bytes, self.alignment) for info in self.tensors), default=0)


def align(position: int, alignment: int) -> int:
    """The next multiple of ``alignment``."""
    return (position + alignment - 1) // alignment * alignment


def tensor_bytes(shape: tuple[int, ...], kind: TensorType) -> int:
    """Bytes of a tensor; the last dimension must be whole blocks."""
    block, size = BLOCKS[kind]
    return prod(shape) // block * size


class _Reader:
    """A cursor over the start of a file that never reads past its end."""

    def __init__(self, path: Path) -> None:
        self.name = path.name
        try:
            self._file = path.open("rb")
        except FileNotFoundError as error:
            raise NotFoundError(f"no such file: {path}", "check the path") from error
        except IsADirectoryError as error:
            raise NotFoundError(f"{path} is a folder, not a GGUF file", "convert it first") from error
        self.size = os.fstat(self._file.fileno()).st_size
        self.position = 0

    def __enter__(self) -> _Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def take(self, n_bytes: int) -> bytes:
        if n_bytes > self.size - self.position:
            raise FormatError(f"{self.name} is cut short: the header ends after {self.size} bytes", AGAIN)
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
            raise FormatError(f"{self.name} has a name that is no UTF-8 in its header", AGAIN) from error
        # llama.cpp takes names for C strings, and aborts on an empty one
        if not found or "\0" in found:
            raise FormatError(f"{self.name} has the name {found!r} in its header", AGAIN)
        return found

    def value(self) -> Value:
        kind = self._kind()
        return Value(kind, self._raw(kind))

    def _kind(self) -> Kind:
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
        item = self._kind()
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


def read_header(path: Path) -> Header:
    """Read and check the header of a GGUF file.

    NotFoundError for no file, FormatError for a file that is damaged, cut short or lies, UnsupportedError for another
    version of the format, another byte order or an unknown tensor type.
    """
    with _Reader(path) as reader:
        if reader.size < 24 or reader.take(4) != MAGIC:
            raise FormatError(f"{path.name} is not a GGUF file", "convert a checkpoint with `ggufrun convert`")
        version = reader.number("I")
        if version & 0xFFFF == 0:
            raise UnsupportedError(f"{path.name} is a big-endian GGUF", "get the little-endian file")
        if not 2 <= version <= VERSION:
            hint = "update ggufrun" if version > VERSION else "convert the model again"
            raise UnsupportedError(f"{path.name} is GGUF version {version}, not 2 or {VERSION}", hint)
        n_tensors, n_keys = reader.number("Q"), reader.number("Q")
        if n_keys > MAX_KEYS or n_tensors > MAX_TENSORS:
            raise FormatError(f"{path.name} lies: {n_keys} metadata keys and {n_tensors} tensors", AGAIN)
        metadata: dict[str, Value] = {}
        for _ in range(n_keys):
            key = reader.text(MAX_KEY_LENGTH)
            if key in metadata:
                raise FormatError(f"{path.name} has the metadata key {key} twice", AGAIN)
            metadata[key] = reader.value()
        alignment = _alignment(path.name, metadata)
        tensors = tuple(_tensor_info(reader, alignment) for _ in range(n_tensors))
        header = Header(metadata, tensors, version, align(reader.position, alignment), reader.size)
    _check_layout(path.name, header)
    return header


def _alignment(name: str, metadata: dict[str, Value]) -> int:
    value = metadata.get("general.alignment")
    if value is None:
        return DEFAULT_ALIGNMENT
    number = value.decode()
    if value.kind is not Kind.UINT32 or number == 0 or number & (number - 1) or number > 1 << 20:
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
        raise UnsupportedError(f"{reader.name} has a tensor of the unknown type {number}", "update ggufrun") from error
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
            raise FormatError(f"{name} is cut short: {header.file_size} bytes of {end} or more", AGAIN)


def _decode(kind: Kind, raw: memoryview, position: int) -> tuple[Any, int]:
    if kind in SCALARS:
        code = "<" + SCALARS[kind]
        return struct.unpack_from(code, raw, position)[0], position + struct.calcsize(code)
    if kind is Kind.STRING:
        (length,) = struct.unpack_from("<Q", raw, position)
        end = position + 8 + length
        data = bytes(raw[position + 8 : end])
        try:
            return data.decode(), end
        except UnicodeDecodeError:
            return data, end
    item, count = struct.unpack_from("<IQ", raw, position)
    position += 12
    if item in SCALARS:
        code = np.dtype(SCALARS[Kind(item)]).newbyteorder("<")
        # through bytes: the stubs of older numpy know no memoryview here
        values = np.frombuffer(bytes(raw[position : position + count * code.itemsize]), code).tolist()
        return values, position + count * code.itemsize
    values = []
    for _ in range(count):
        value, position = _decode(Kind(item), raw, position)
        values.append(value)
    return values, position


def encode(value: Any, kind: Kind, item: Kind | None = None) -> Value:
    """A Python value as GGUF bytes; ``item`` is the element type of an array."""
    try:
        if kind in SCALARS:
            return Value(kind, struct.pack("<" + SCALARS[kind], value))
        if kind is Kind.STRING:
            return Value(kind, _text(value))
    except (struct.error, TypeError, AttributeError, UnicodeEncodeError, OverflowError) as error:
        raise FormatError(f"a GGUF cannot hold {str(value)[:60]!r} here", "correct the model's files") from error
    try:
        if item is None:
            item = Kind.UINT8 if isinstance(value, bytes) else Kind.get_type(value[0])
        head = struct.pack("<IQ", item, len(value))
        if item in SCALARS:
            return Value(kind, head + struct.pack(f"<{len(value)}{SCALARS[item]}", *value))
        return Value(kind, head + b"".join(map(_text, value)))
    except (struct.error, ValueError, TypeError, AttributeError, IndexError) as error:
        raise FormatError(f"a GGUF cannot hold the list {str(value)[:60]}", "correct the model's files") from error


def _text(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(data)) + data


def layout(tensors: Iterable[tuple[str, tuple[int, ...], int]], alignment: int) -> list[TensorInfo]:
    """Place tensors (name, shape, ggml type) one after another, each aligned."""
    infos, offset = [], 0
    for name, shape, kind in tensors:
        infos.append(TensorInfo(name, shape, TensorType(kind), offset))
        offset = align(offset + infos[-1].n_bytes, alignment)
    return infos


def serialize(header: Header) -> bytes:
    """The bytes of a header, padded to where the data starts, if there is any."""
    parts = [MAGIC, struct.pack("<IQQ", VERSION, len(header.tensors), len(header.metadata))]
    for key, value in header.metadata.items():
        parts += (_text(key), struct.pack("<I", value.kind), value.raw)
    for info in header.tensors:
        parts += (_text(info.name), struct.pack("<I", len(info.shape)))
        parts += (struct.pack(f"<{len(info.shape)}Q", *reversed(info.shape)),)
        parts += (struct.pack("<IQ", info.type, info.offset),)
    data = b"".join(parts)
    return data.ljust(align(len(data), header.alignment), b"\0") if header.tensors else data
