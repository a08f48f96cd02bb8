"""The GGUF file format: what a header says, as records, and their bytes. `header` reads them from a file.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Values are kept as the bytes they are, so that
copying a file's metadata copies it exactly, and decoded on demand.
"""

from __future__ import annotations

import struct
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from ggufrun.checkpoint.gguf.tensor_types import BLOCKS, TensorType
from ggufrun.errors import FormatError

Kind = gguf.GGUFValueType
MAGIC = b"GGUF"
VERSION = 3
DEFAULT_ALIGNMENT = 32

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
        """As Python: int, float, bool, str, or a list of these. Text that is not UTF-8 becomes bytes."""
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


@contextmanager
def hollow(header: Header, name: str = "header.gguf") -> Iterator[Path]:
    """A file called ``name`` with this header and a hole for its data, in a folder of its own while this lasts. It
    takes no room, and llama.cpp plans with it as with a whole one.
    """
    with tempfile.TemporaryDirectory(prefix="ggufrun-") as folder:
        path = Path(folder) / name
        with path.open("wb") as file:
            head = serialize(header)
            file.write(head)
            file.truncate(len(head) + header.data_size)
        yield path
