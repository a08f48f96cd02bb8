"""One file to write: its header, every tensor's type and place, and the importance that weighs its encoding."""

from __future__ import annotations

import bisect
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath, PureWindowsPath
from types import MappingProxyType

import gguf
import numpy as np

from ggufrun.checkpoint.gguf import file
from ggufrun.checkpoint.gguf.file import Header, Kind, Value
from ggufrun.checkpoint.tensor import Tensor
from ggufrun.errors import FormatError, UsageError
from ggufrun.quantize import ggml
from ggufrun.quantize.imatrix import Imatrix
from ggufrun.quantize.plan import QuantizeOptions, TypePlan, requires_imatrix
from ggufrun.quantize.types import FileType

BLOCK = re.compile(r"blk\.(\d+)\.")
FILE_TYPE = gguf.Keys.General.FILE_TYPE
QUANTIZATION_VERSION = gguf.Keys.General.QUANTIZATION_VERSION
NO_IMPORTANCE: Mapping[str, ggml.Floats] = MappingProxyType({})

Types = Sequence[tuple[str, int]]
"""(tensor, ggml type), in the order of the file."""


@dataclass(frozen=True)
class Model:
    """A GGUF in the abstract: metadata, and tensors under their GGUF names, not yet of any type."""

    metadata: Mapping[str, Value]
    tensors: Mapping[str, Tensor]

    def header(self, types: Types) -> Header:
        """The header of a file that holds the tensors as ``types`` say."""
        metadata = dict(self.metadata)
        alignment = Header(metadata, ()).alignment
        infos = [(name, self.tensors[name].shape, kind) for name, kind in types]
        return Header(metadata, tuple(file.layout(infos, alignment)))


@dataclass(frozen=True)
class Placed:
    """One tensor of a target: ``kind`` is its ggml type, ``offset`` its place in bytes from the start of the file.

    ``importance`` weighs the columns of each of its matrices, float32 of shape (n_mat, n_per_row).
    """

    tensor: Tensor
    name: str
    kind: int
    offset: int
    importance: ggml.Floats | None = None

    @property
    def row_bytes(self) -> int:
        """Bytes of one encoded row."""
        return ggml.block_type(self.kind).row_bytes(self.tensor.n_per_row)

    @property
    def n_bytes(self) -> int:
        """Bytes of the encoded tensor."""
        return self.row_bytes * self.tensor.n_rows


@dataclass(frozen=True)
class Target:
    """One file to write."""

    path: Path
    file_type: FileType
    header: Header
    head: bytes
    tensors: tuple[Placed, ...]
    size: int
    n_fallback: int = 0

    @property
    def bits_per_weight(self) -> float:
        """Bits of tensor data a weight."""
        values = sum(placed.tensor.n_values for placed in self.tensors)
        return 8 * sum(placed.n_bytes for placed in self.tensors) / values if values else 0.0


def make_target(
    path: Path,
    file_type: FileType,
    model: Model,
    types: Types,
    n_fallback: int = 0,
    importance: Mapping[str, ggml.Floats] = NO_IMPORTANCE,
) -> Target:
    """Lay out a file."""
    header = model.header(types)
    head = file.serialize(header)
    placed = tuple(
        Placed(model.tensors[info.name], info.name, int(info.type), len(head) + info.offset, importance.get(info.name))
        for info in header.tensors
    )
    return Target(path, file_type, header, head, placed, len(head) + header.data_size, n_fallback)


def split_target(target: Target, max_bytes: int) -> list[Target]:
    """The same as several files of at most ``max_bytes`` of tensor data each, as llama.cpp's gguf-split makes them.

    The first has all metadata, the others only their number. A tensor is never cut, so one that is larger than
    ``max_bytes`` has a file of its own.
    """
    return _shards(target, _groups(target, max_bytes))


def split_target_by_count(target: Target, max_tensors: int) -> list[Target]:
    """The same as several files of at most ``max_tensors`` tensors each."""
    tensors = list(target.tensors)
    return _shards(target, [tensors[n : n + max_tensors] for n in range(0, len(tensors), max_tensors)] or [[]])


def _groups(target: Target, max_bytes: int) -> list[list[Placed]]:
    groups: list[list[Placed]] = [[]]
    size = 0
    for placed in target.tensors:
        padded = file.align(placed.n_bytes, target.header.alignment)
        if groups[-1] and size + padded > max_bytes:
            groups.append([])
            size = 0
        groups[-1].append(placed)
        size += padded
    return groups


def _shards(target: Target, groups: list[list[Placed]]) -> list[Target]:
    if len(groups) == 1:
        return [target]
    shards = []
    for number, group in enumerate(groups):
        metadata = dict(target.header.metadata) if number == 0 else {}
        metadata["split.no"] = file.encode(number, Kind.UINT16)
        metadata["split.tensors.count"] = file.encode(len(target.tensors), Kind.INT32)
        metadata["split.count"] = file.encode(len(groups), Kind.UINT16)
        shards.append(
            make_target(
                target.path.with_name(f"{target.path.stem}-{number + 1:05}-of-{len(groups):05}.gguf"),
                target.file_type,
                Model(metadata, {placed.name: placed.tensor for placed in group}),
                [(placed.name, placed.kind) for placed in group],
                target.n_fallback if number == 0 else 0,
                {placed.name: placed.importance for placed in group if placed.importance is not None},
            )
        )
    return shards


def quantized_target(
    path: Path,
    file_type: FileType,
    model: Model,
    planned: TypePlan,
    existing: Mapping[str, int],
    options: QuantizeOptions,
    imatrix: Imatrix | None,
) -> Target:
    """Lay out a file as ``llama_model_quantize`` would: its types, its order, its keys.

    ``existing`` are the tensors' ggml types before. UsageError where an importance matrix is missing or is of another
    model.
    """
    if planned.needs_imatrix:
        needing = [(name, kind) for name, kind in planned.tensors if requires_imatrix(name, kind, file_type)]
        # the dry run also counts tensors that are of this type already, which are copied
        changing = [(name, kind) for name, kind in needing if ggml.block_types()[kind].id != existing[name]]
        if changing or not needing:
            which = f" ({changing[0][0]} as {changing[0][1]})" if changing else ""
            raise UsageError(
                f"{file_type.name} needs an importance matrix{which}",
                "give one with --imatrix FILE, measure one with --imatrix auto, or choose a larger type, such as IQ3_S",
            )
    model = Model(model.metadata, {name: _as_ggml(tensor) for name, tensor in model.tensors.items()})
    types = [(name, ggml.block_types()[kind].id) for name, kind in planned.tensors]
    if sorted(name for name, _ in types) != sorted(existing):
        raise FormatError("llama.cpp's plan names other tensors than the model has", "report this")
    # it drops the split keys and writes these two last, then whatever its caller added
    values = {key: value for key, value in model.metadata.items() if not key.startswith("split.")}
    for key, number in ((QUANTIZATION_VERSION, gguf.GGML_QUANT_VERSION), (FILE_TYPE, file_type.ftype)):
        values.pop(key, None)
        values[key] = file.encode(number, Kind.UINT32)
    importance = NO_IMPORTANCE
    if imatrix is not None:
        importance = _importance(imatrix, model, planned, existing, file_type)
        values |= _imatrix_keys(imatrix)
    if imatrix is not None or not options.has_imatrix:
        _check_importance(types, existing, importance, file_type)
    if options.prune:
        key = f"{Header(values, ()).architecture}.block_count"
        values.pop(key, None)
        values[key] = file.encode(len(_layers(model.tensors)), Kind.UINT32)
    return make_target(path, file_type, Model(values, model.tensors), types, planned.n_fallback, importance)


def _as_ggml(tensor: Tensor) -> Tensor:
    """With the dimensions that ggml counts, and so its quantizer writes: outer ones of size one are none to it."""
    first = next((index for index, size in enumerate(tensor.shape) if size != 1), len(tensor.shape) - 1)
    return replace(tensor, shape=tensor.shape[first:]) if first > 0 else tensor


def without_layers(model: Model, layers: Collection[int]) -> Model:
    """The model without some layers, the others renumbered; tensors keep their own names in ``Tensor.name``."""
    if not layers:
        return model
    gone, there = sorted(set(layers)), _layers(model.tensors)
    if not set(gone) < there:
        raise UsageError(
            f"the layers {', '.join(map(str, gone))} cannot be left out",
            f"the model has the layers 0 to {max(there, default=0)}, and one must stay",
        )
    tensors = {}
    for name, tensor in model.tensors.items():
        match = BLOCK.match(name)
        if match is None:
            tensors[name] = tensor
        elif int(match[1]) not in gone:
            tensors[f"blk.{int(match[1]) - bisect.bisect(gone, int(match[1]))}.{name[match.end() :]}"] = tensor
    return Model(model.metadata, tensors)


def _layers(names: Collection[str]) -> set[int]:
    return {int(match[1]) for match in map(BLOCK.match, names) if match}


def _importance(
    imatrix: Imatrix, model: Model, planned: TypePlan, existing: Mapping[str, int], file_type: FileType
) -> dict[str, ggml.Floats]:
    """The importance of every tensor that will be encoded; refuses a matrix that was measured on another model."""
    if not any(tensor.name in imatrix.entries for tensor in model.tensors.values()):
        raise UsageError(
            f"{imatrix.path} was measured on another model: it knows {next(iter(imatrix.entries))} and the like",
            "make one for this model with `ggufrun imatrix`",
        )
    found = {}
    for name, kind in planned.tensors:
        tensor = model.tensors[name]
        if ggml.block_type(existing[name]).name.lower() == kind:
            continue
        entry = imatrix.entries.get(tensor.name)
        if entry is None:
            if requires_imatrix(name, kind, file_type):
                raise UsageError(
                    f"{imatrix.path} has no entry for {tensor.name}, which {file_type.name} needs",
                    "make one from a longer text, or choose a larger type",
                )
            continue
        n_mat = tensor.shape[0] if len(tensor.shape) > 2 else 1
        if entry.sums.size != n_mat * tensor.n_per_row:
            if name == "token_embd.weight":
                # looked up, not multiplied: an entry of its tied twin may have another size
                continue
            raise UsageError(
                f"{imatrix.path} has {entry.sums.size} values for {tensor.name}, the model {n_mat * tensor.n_per_row}",
                "make one for this model with `ggufrun imatrix`",
            )
        found[name] = np.ascontiguousarray(entry.importance().reshape(n_mat, tensor.n_per_row))
    return found


def _check_importance(
    types: Types, existing: Mapping[str, int], importance: Mapping[str, ggml.Floats], file_type: FileType
) -> None:
    """Refuse what the kernels cannot do: llama.cpp lets it pass for the embeddings and the output, and then aborts."""
    for name, kind in types:
        if kind != existing[name] and name not in importance and ggml.requires_imatrix(kind):
            flag = "--token-embedding-type" if "token_embd" in name else "--output-tensor-type"
            raise UsageError(
                f"{file_type.name} would make {name} {ggml.block_type(kind).name}, for which it needs an importance",
                f"choose another type for it, such as {flag} q4_k",
            )


def _imatrix_keys(imatrix: Imatrix) -> dict[str, Value]:
    """The keys that llama-quantize writes of an importance matrix; it cuts texts to 127 bytes."""

    def text(value: str) -> Value:
        if PurePosixPath(value).is_absolute() or PureWindowsPath(value).is_absolute():
            # whoever gets the file has no use for the folders of this machine
            value = PureWindowsPath(value).name
        return file.encode(value.encode()[:127].decode(errors="ignore"), Kind.STRING)

    keys = {"quantize.imatrix.file": text(imatrix.path)}
    if imatrix.datasets:
        keys["quantize.imatrix.dataset"] = text(imatrix.datasets[0])
    keys["quantize.imatrix.entries_count"] = file.encode(len(imatrix.entries), Kind.UINT32)
    if imatrix.chunk_count > 0:
        keys["quantize.imatrix.chunks_count"] = file.encode(imatrix.chunk_count, Kind.UINT32)
    return keys
