"""Files written by ``torch.save``, read without torch: ``pytorch_model*.bin``, ``consolidated.*.pth``, adapters.

Such a file is a pickle that describes tensors, each a view (offset, shape, strides) of a storage, and the bytes of the
storages: since PyTorch 1.6 as uncompressed members of a zip archive, before that one after another behind the pickles.
Nothing in it is executed (see ``unpickle``); every size and offset is held against the file before it is used.

Source of both layouts: ``torch/serialization.py`` and ``torch/_utils.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from ggufrun.checkpoint.folder import AGAIN, Format
from ggufrun.checkpoint.randomaccess import RandomAccessFile, row_reader
from ggufrun.checkpoint.storedzip import read_members
from ggufrun.checkpoint.tensor import STORAGE, Rows, Tensor
from ggufrun.checkpoint.unpickle import Cursor, Symbol, load
from ggufrun.errors import FormatError, GgufrunError, UnsupportedError

ZIP_MAGIC = b"PK\3\4"
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001

MAX_DIMENSIONS = 8
MAX_OVERLAP = 1 << 24
"""Values of a view larger than its storage (an expanded tensor): more is a trap, not a weight."""
DENSE = 4
"""A view is read with its gaps, and these cut out, while they make up less than three quarters."""
SMALL_SPAN = 1 << 20

STORAGE_TYPES = {
    "DoubleStorage": "F64",
    "FloatStorage": "F32",
    "HalfStorage": "F16",
    "BFloat16Storage": "BF16",
    "LongStorage": "I64",
    "IntStorage": "I32",
    "ShortStorage": "I16",
    "CharStorage": "I8",
    "ByteStorage": "U8",
    "BoolStorage": "BOOL",
    "ComplexFloatStorage": "C64",
    "ComplexDoubleStorage": "C128",
}
DTYPES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint8": "U8",
    "bool": "BOOL",
    "uint64": "U64",
    "uint32": "U32",
    "uint16": "U16",
    "complex64": "C64",
    "complex128": "C128",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "float8_e8m0fnu": "F8_E8M0",
    "float8_e4m3fnuz": "F8_E4M3FNUZ",
    "float8_e5m2fnuz": "F8_E5M2FNUZ",
}
UNTYPED = "untyped"


@dataclass
class Storage:
    """Bytes in the file: ``begin`` is known at last, in the older format only after the pickle has been read."""

    key: str
    dtype: str
    n_bytes: int
    begin: int = -1


@dataclass(frozen=True)
class View:
    """A tensor: ``offset`` and ``strides`` count values, not bytes."""

    storage: Storage
    dtype: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def _integers(values: Any) -> tuple[int, ...]:
    if not isinstance(values, (tuple, list)) or len(values) > MAX_DIMENSIONS:
        raise TypeError("something that is not a shape")
    if not all(type(value) is int and 0 <= value < 1 << 48 for value in values):
        raise ValueError("a negative or huge dimension")
    return tuple(values)


def _view(storage: Any, dtype: str, offset: Any, shape: Any, strides: Any) -> View:
    shape, strides = _integers(shape), _integers(strides)
    (offset,) = _integers((offset,))
    if not isinstance(storage, Storage) or len(shape) != len(strides):
        raise TypeError("a tensor without a storage, or with too few strides")
    width = np.dtype(STORAGE[dtype]).itemsize
    n_values = prod(shape)
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    if n_values and (last + 1) * width > storage.n_bytes:
        raise ValueError(f"a tensor of shape {shape} reaches behind its {storage.n_bytes} bytes")
    if n_values * width > max(storage.n_bytes, MAX_OVERLAP):
        raise ValueError(f"a tensor of shape {shape} in {storage.n_bytes} bytes")
    return View(storage, dtype, offset, shape, strides)


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> View:
    if not isinstance(storage, Storage) or storage.dtype == UNTYPED:
        raise TypeError("a tensor without a type")
    return _view(storage, storage.dtype, offset, shape, strides)


def _rebuild_tensor_v3(
    storage: Any, offset: Any, shape: Any, strides: Any, grad: Any, hooks: Any, dtype: Any, *_: Any
) -> View:
    if not isinstance(dtype, Symbol) or dtype.name not in DTYPES:
        raise TypeError("a tensor without a type")
    return _view(storage, DTYPES[dtype.name], offset, shape, strides)


def _rebuild_parameter(data: Any, *_: Any) -> View:
    if not isinstance(data, View):
        raise TypeError("a parameter that is not a tensor")
    return data


def _rebuild_from_type(function: Any, kind: Any, arguments: Any, state: Any) -> View:
    """A tensor with attributes of its own, which do not matter here."""
    if not isinstance(function, Symbol) or function.name not in REBUILDERS or not isinstance(arguments, tuple):
        raise TypeError("a tensor built by something unknown")
    return REBUILDERS[function.name](*arguments)


def _ordered_dict(pairs: Any = ()) -> dict[Any, Any]:
    if not all(isinstance(pair, (list, tuple)) and len(pair) == 2 and isinstance(pair[0], str) for pair in pairs):
        raise TypeError("something that is not a dictionary")
    return {pair[0]: pair[1] for pair in pairs}


REBUILDERS: dict[str, Callable[..., View]] = {
    "_rebuild_tensor": _rebuild_tensor,
    "_rebuild_tensor_v2": _rebuild_tensor,
    "_rebuild_tensor_v3": _rebuild_tensor_v3,
    "_rebuild_parameter": _rebuild_parameter,
    "_rebuild_parameter_with_state": _rebuild_parameter,
}

ADMITTED: dict[tuple[str, str], Symbol] = {
    ("collections", "OrderedDict"): Symbol("OrderedDict", _ordered_dict),
    ("torch", "Size"): Symbol("Size", _integers),
    ("torch", "Tensor"): Symbol("Tensor"),
    ("torch.nn.parameter", "Parameter"): Symbol("Parameter"),
    ("torch._tensor", "_rebuild_from_type_v2"): Symbol("_rebuild_from_type_v2", _rebuild_from_type),
    ("torch.storage", "UntypedStorage"): Symbol(UNTYPED),
    **{("torch._utils", name): Symbol(name, call) for name, call in REBUILDERS.items()},
    **{("torch", name): Symbol(name) for name in (*STORAGE_TYPES, *DTYPES)},
}
"""All that a pickle of weights may name. Every function is one of ours."""


class _Storages:
    """The persistent ids of a file: ('storage', type, key, device, number of values[, nothing])."""

    def __init__(self) -> None:
        self.found: dict[str, Storage] = {}

    def __call__(self, identity: Any) -> Storage:
        if not isinstance(identity, tuple) or not 5 <= len(identity) <= 6 or identity[0] != "storage":
            raise TypeError("a persistent id that names no storage")
        kind, key, _, count = identity[1:5]
        if len(identity) == 6 and identity[5] is not None:
            raise TypeError("a view of a storage, which only very old files have")
        if not isinstance(kind, Symbol) or not isinstance(key, str):
            raise TypeError("a persistent id that names no storage")
        (count,) = _integers((count,))
        dtype = UNTYPED if kind.name == UNTYPED else STORAGE_TYPES[kind.name]
        width = 1 if dtype == UNTYPED else np.dtype(STORAGE[dtype]).itemsize
        storage = self.found.setdefault(key, Storage(key, dtype, count * width))
        if (storage.dtype, storage.n_bytes) != (dtype, count * width):
            raise ValueError(f"the storage {key[:20]} described in two ways")
        return storage


def _read_zip(file: RandomAccessFile) -> Any:
    members = read_members(file)
    pickles = [name for name in members if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(pickles) != 1:
        raise FormatError(f"{file.path.name} is a zip archive, but none of torch.save", AGAIN)
    root = pickles[0].removesuffix("data.pkl")
    order = members.get(f"{root}byteorder")
    if order is not None and file.read(order.begin, min(order.end - order.begin, 8)).tobytes() != b"little":
        raise UnsupportedError(f"{file.path.name} was written on a big-endian machine", "save it again elsewhere")
    storages = _Storages()
    value = load(Cursor(file, members[pickles[0]].begin, members[pickles[0]].end), ADMITTED, storages)
    for key, storage in storages.found.items():
        member = members.get(f"{root}data/{key}")
        if member is None or member.end - member.begin != storage.n_bytes:
            raise FormatError(f"{file.path.name} lacks the {storage.n_bytes} bytes of its storage {key[:20]}", AGAIN)
        storage.begin = member.begin
    return value


def _read_legacy(file: RandomAccessFile) -> Any:
    def refuse(identity: Any) -> Any:
        raise TypeError("a persistent id where none is due")

    name = file.path.name
    cursor = Cursor(file, 0, file.size)
    try:
        magic, protocol, system = (load(cursor, {}, refuse) for _ in range(3))
    except GgufrunError as error:
        raise FormatError(f"{name} is not a torch.save file", AGAIN) from error
    if magic != LEGACY_MAGIC or protocol != LEGACY_PROTOCOL or not isinstance(system, dict):
        raise FormatError(f"{name} is not a torch.save file", AGAIN)
    if system.get("little_endian") is not True:
        raise UnsupportedError(f"{name} was written on a big-endian machine", "save it again elsewhere")
    storages = _Storages()
    value = load(cursor, ADMITTED, storages)
    keys = load(cursor, {}, refuse)
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise FormatError(f"{name} does not list its storages", AGAIN)
    if len(set(keys)) != len(keys) or set(keys) != set(storages.found):
        raise FormatError(f"{name} lists other storages than it uses", AGAIN)
    position = cursor.position
    for key in keys:
        storage = storages.found[key]
        width = 1 if storage.dtype == UNTYPED else np.dtype(STORAGE[storage.dtype]).itemsize
        if position + 8 > file.size:
            raise FormatError(f"{name} is cut short", AGAIN)
        count = int.from_bytes(file.read(position, 8).tobytes(), "little")
        storage.begin = position + 8
        position = storage.begin + storage.n_bytes
        if count * width != storage.n_bytes or position > file.size:
            raise FormatError(f"{name} lacks the {storage.n_bytes} bytes of its storage {key[:20]}", AGAIN)
    return value


def _gather(file: RandomAccessFile, view: View, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> Rows:
    """Some values of a view, wherever they lie: ``offset`` and ``strides`` in values."""
    dtype: np.dtype[Any] = np.dtype(STORAGE[view.dtype]).newbyteorder("<")
    if not prod(shape):
        return np.empty(shape, dtype)
    reach = [(size - 1) * stride for size, stride in zip(shape, strides, strict=True)]
    span = 1 + sum(reach)
    if span <= max(DENSE * prod(shape), SMALL_SPAN):
        data = file.read(view.storage.begin + offset * dtype.itemsize, span * dtype.itemsize).view(dtype)
        steps = [stride * dtype.itemsize for stride in strides]
        return np.ascontiguousarray(np.lib.stride_tricks.as_strided(data, shape, steps))
    # too much between the values: one read for each step along the dimension that reaches farthest
    axis = int(np.argmax(reach))
    result: Rows = np.empty(shape, dtype)
    inner = tuple(1 if index == axis else size for index, size in enumerate(shape))
    for index in range(shape[axis]):
        place = tuple(slice(index, index + 1) if number == axis else slice(None) for number in range(len(shape)))
        result[place] = _gather(file, view, offset + index * strides[axis], inner, strides)
    return result


def _reader(file: RandomAccessFile, view: View) -> Callable[[int, int], Rows]:
    dense, expected = True, 1
    for size, stride in zip(reversed(view.shape), reversed(view.strides), strict=True):
        dense = dense and (size == 1 or stride == expected)
        expected *= size
    if dense:
        width = np.dtype(STORAGE[view.dtype]).itemsize
        return row_reader(file, view.storage.begin + view.offset * width, view.shape, STORAGE[view.dtype])
    lead, last = view.strides[:-1], view.strides[-1]
    n_per_row = view.shape[-1]
    if len(lead) == 1:

        def rows(start: int, stop: int) -> Rows:
            return _gather(file, view, view.offset + start * lead[0], (stop - start, n_per_row), (lead[0], last))

    else:

        def rows(start: int, stop: int) -> Rows:
            places = np.array(np.unravel_index(np.arange(start, stop), view.shape[:-1])).T @ np.array(lead, np.int64)
            parts = [_gather(file, view, view.offset + int(place), (1, n_per_row), (0, last)) for place in places]
            return np.concatenate(parts)

    if not lead:
        return lambda start, stop: _gather(file, view, view.offset, (stop - start, n_per_row), (0, last))
    return rows


@dataclass(frozen=True)
class TorchFile:
    """One file: its tensors in its own order, and which of them are the same bytes as an earlier one."""

    file: RandomAccessFile
    tensors: Mapping[str, Tensor]
    aliases: Mapping[str, str] = field(default_factory=dict)


def read_torch_file(path: Path) -> TorchFile:
    """Open a file that holds one dictionary of tensors; its ``file`` is to be closed."""
    file = RandomAccessFile(path)
    try:
        start = file.read(0, min(file.size, len(ZIP_MAGIC))).tobytes()
        value = _read_zip(file) if start == ZIP_MAGIC else _read_legacy(file)
        if not isinstance(value, dict):
            raise UnsupportedError(f"{path.name} holds no dictionary of tensors", "name the model's weights")
        first: dict[Any, str] = {}
        tensors, aliases = {}, {}
        for name, view in value.items():
            if not isinstance(name, str) or not isinstance(view, View):
                raise UnsupportedError(
                    f"{path.name} holds {str(name)[:60]!r}, which is not a tensor", "save only the weights (state_dict)"
                )
            tensors[name] = Tensor(name, view.dtype, view.shape, _reader(file, view))
            where = (view.storage.key, view.dtype, view.offset, view.shape, view.strides)
            if where in first:
                aliases[name] = first[where]
            first.setdefault(where, name)
        return TorchFile(file, tensors, aliases)
    except BaseException:
        file.close()
        raise


TORCH = Format("pytorch_model*.bin", "pytorch_model.bin.index.json", read_torch_file)
GPTQ_TORCH = Format("gptq_model*.bin", "gptq_model*.bin.index.json", read_torch_file)
"""As AutoGPTQ called its files."""
