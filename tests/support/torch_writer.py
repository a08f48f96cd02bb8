"""Files as ``torch.save`` writes them, made without torch: sound ones, and ones that no torch would write.

That torch reads the sound ones is tested where torch is installed.
"""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

STORAGES = {
    "F64": "DoubleStorage",
    "F32": "FloatStorage",
    "F16": "HalfStorage",
    "BF16": "BFloat16Storage",
    "I64": "LongStorage",
    "I32": "IntStorage",
}
Stored = Mapping[str, tuple[str, npt.NDArray[Any]]]


def text(value: str) -> bytes:
    """The instruction that pushes a string."""
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def number(value: int) -> bytes:
    """The instruction that pushes a whole number."""
    if -(1 << 31) <= value < 1 << 31:
        return b"J" + struct.pack("<i", value)
    data = value.to_bytes(16, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def name(module: str, attribute: str) -> bytes:
    """The instruction that pushes something by its name."""
    return f"c{module}\n{attribute}\n".encode()


def numbers(values: Sequence[int]) -> bytes:
    """The instructions that push a tuple of whole numbers."""
    return b"(" + b"".join(map(number, values)) + b"t"


def call(function: bytes, *arguments: bytes) -> bytes:
    """The instructions that call a function."""
    return function + b"(" + b"".join(arguments) + b"tR"


def dictionary(items: Mapping[str, bytes]) -> bytes:
    """The instructions that push a dictionary."""
    return b"}(" + b"".join(text(key) + value for key, value in items.items()) + b"u"


def program(body: bytes) -> bytes:
    """A whole pickle."""
    return b"\x80\x02" + body + b"."


def storage(key: str, count: int, kind: str = "FloatStorage", module: str = "torch", legacy: bool = False) -> bytes:
    """The instructions that push a storage."""
    end = b"N" if legacy else b""
    return b"(" + text("storage") + name(module, kind) + text(key) + text("cpu") + number(count) + end + b"tQ"


def tensor(held: bytes, shape: Sequence[int], strides: Sequence[int] | None = None, offset: int = 0) -> bytes:
    """The instructions that push a view of a storage."""
    if strides is None:
        strides = [prod(shape[index + 1 :]) for index in range(len(shape))]
    return call(
        name("torch._utils", "_rebuild_tensor_v2"),
        held, number(offset), numbers(shape), numbers(strides), b"\x89", call(name("collections", "OrderedDict")),
    )  # fmt: skip


def archive(pickle: bytes, data: Mapping[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    """The zip format: a pickle and the bytes of its storages."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as target:
        target.writestr("archive/data.pkl", pickle)
        target.writestr("archive/byteorder", "little")
        for key, content in data.items():
            target.writestr(f"archive/data/{key}", content)
        target.writestr("archive/version", "3\n")
    return buffer.getvalue()


def torch_zip(tensors: Stored, shared: Mapping[str, str] | None = None) -> bytes:
    """A state dict in the zip format; ``shared`` maps further names to the tensor whose storage they show."""
    items, data = {}, {}
    for index, (key, (dtype, array)) in enumerate(tensors.items()):
        items[key] = tensor(storage(str(index), array.size, STORAGES[dtype]), array.shape)
        data[str(index)] = np.ascontiguousarray(array).tobytes()
    items |= {key: items[original] for key, original in (shared or {}).items()}
    return archive(program(dictionary(items)), data)


def torch_legacy(tensors: Stored) -> bytes:
    """A state dict in the format before PyTorch 1.6."""
    items = {
        key: tensor(storage(str(index), array.size, STORAGES[dtype], legacy=True), array.shape)
        for index, (key, (dtype, array)) in enumerate(tensors.items())
    }
    sizes = dictionary({"short": number(2), "int": number(4), "long": number(4)})
    system = dictionary({"protocol_version": number(1001), "little_endian": b"\x88", "type_sizes": sizes})
    keys = b"](" + b"".join(text(str(index)) for index in range(len(tensors))) + b"e"
    data = b"".join(
        struct.pack("<q", array.size) + np.ascontiguousarray(array).tobytes() for _, array in tensors.values()
    )
    head = [number(0x1950A86A20F9469CFC6C), number(1001), system, dictionary(items), keys]
    return b"".join(map(program, head)) + data
