"""An importance matrix on disk: the GGUF that llama-imatrix writes, and, for reading, its older binary format.

Source of both formats: llama.cpp's ``tools/imatrix`` and ``common/imatrix-loader.cpp``.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ggufrun.checkpoint.gguf import file
from ggufrun.checkpoint.gguf.file import MAGIC, Header, Kind
from ggufrun.checkpoint.gguf.source import GGUFSource
from ggufrun.checkpoint.gguf.tensor_types import TensorType
from ggufrun.convert.writer import TargetFile, check_targets
from ggufrun.errors import FormatError, NotFoundError
from ggufrun.quantize.imatrix import Floats, Imatrix, ImatrixEntry
from ggufrun.regularfile import read_bytes, read_start

SUMS, COUNTS = ".in_sum2", ".counts"
AGAIN = "make it again with `ggufrun imatrix`"
MAX_BYTES = 8 << 30


def load_imatrix(path: Path) -> Imatrix:
    """NotFoundError for no file, FormatError for one that is damaged or holds values that are not finite."""
    if not path.is_file():
        kind = "is a folder" if path.is_dir() else "is not a regular file" if path.exists() else "is not there"
        raise NotFoundError(f"the importance matrix {path} {kind}", "check the path")
    is_gguf = read_start(path, 4) == MAGIC
    found = _load_gguf(path) if is_gguf else _load_legacy(path)
    if not found.entries:
        raise FormatError(f"{path} holds no importance matrix", AGAIN)
    for name, entry in found.entries.items():
        if not np.isfinite(entry.sums).all() or (entry.sums < 0).any() or (entry.counts < 0).any():
            raise FormatError(f"{path.name}: the entry {name} holds values that no sum of squares has", AGAIN)
    return found


def _load_gguf(path: Path) -> Imatrix:
    source = GGUFSource(path)
    try:
        header = source.header
        if header.get("general.type") != "imatrix":
            raise FormatError(f"{path} is a GGUF, but not an importance matrix", AGAIN)
        entries = {}
        for name, tensor in source.tensors.items():
            if not name.endswith(SUMS):
                continue
            weight = name.removesuffix(SUMS)
            counts = source.tensors.get(weight + COUNTS)
            if counts is None or counts.dtype != "F32" or tensor.dtype != "F32" or counts.n_values != tensor.n_rows:
                raise FormatError(f"{path.name}: sums and counts of {weight} do not fit", AGAIN)
            sums = tensor.rows(0, tensor.n_rows)
            entries[weight] = ImatrixEntry(sums, np.rint(counts.rows(0, counts.n_rows).reshape(-1)).astype(np.int64))
        datasets = header.get("imatrix.datasets", [])
        return Imatrix(
            entries,
            tuple(map(str, datasets)) if isinstance(datasets, list) else (),
            int(header.get("imatrix.chunk_count", 0)),
            int(header.get("imatrix.chunk_size", 0)),
            str(path),
        )
    finally:
        source.close()


def _load_legacy(path: Path) -> Imatrix:
    """Number of entries; name, calls, number of values, values of each; chunks; name of the text.

    The values are means of squares times the calls, so the mean comes out if the calls are taken for the tokens. The
    format does not say how many matrices share an entry: all values are one row here, and cut to size when used.
    """
    data, position = read_bytes(path, MAX_BYTES, AGAIN), 0

    def take(n_bytes: int) -> bytes:
        nonlocal position
        if n_bytes < 0 or position + n_bytes > len(data):
            raise FormatError(f"{path} is cut short, or no importance matrix", AGAIN)
        position += n_bytes
        return data[position - n_bytes : position]

    def integer() -> int:
        return int(struct.unpack("<i", take(4))[0])

    entries = {}
    for _ in range(integer()):
        try:
            name = take(integer()).decode()
        except UnicodeDecodeError as error:
            raise FormatError(f"{path} is not an importance matrix", AGAIN) from error
        calls, count = integer(), integer()
        if count < 1:
            raise FormatError(f"{path.name}: the entry {name} is empty", AGAIN)
        sums = np.frombuffer(take(4 * count), "<f4").astype(np.float32).reshape(1, -1)
        # without calls the values are means already
        entries[name] = ImatrixEntry(sums, np.array([max(calls, 1)], np.int64))
    chunks, datasets = 0, ()
    if position < len(data):
        chunks = integer()
        if position < len(data):
            datasets = (take(integer()).decode(errors="replace"),)  # type: ignore[assignment]
    return Imatrix(entries, datasets, chunks, 0, str(path))


def save_legacy(path: Path, imatrix: Imatrix, *, force: bool = False) -> None:
    """Write ``imatrix`` in the older format (``.dat``), byte for byte as llama-imatrix would: of sums and counts only
    their means are kept. TargetError if ``path`` cannot be written, or exists and ``force`` is not given.
    """
    chunk = max(imatrix.chunk_size, 1)
    parts = [b""]
    count = 0
    for name, entry in sorted(imatrix.entries.items(), key=lambda pair: pair[0].encode()):
        if not entry.counts.any():
            continue
        count += 1
        calls = -(-int(entry.counts.max()) // chunk)
        values = (entry.importance() * np.float32(calls)).reshape(-1)
        text = name.encode()
        parts += (struct.pack("<i", len(text)), text, struct.pack("<ii", calls, values.size))
        parts.append(values.astype("<f4").tobytes())
    dataset = (imatrix.datasets[-1] if imatrix.datasets else "").encode()
    parts[0] = struct.pack("<i", count)
    data = b"".join((*parts, struct.pack("<ii", imatrix.chunk_count, len(dataset)), dataset))
    check_targets([(path, len(data))], force)
    target = TargetFile(path, len(data), force)
    try:
        target.write(0, np.frombuffer(data, np.uint8))
        target.commit()
    finally:
        target.abort()


def save_imatrix(path: Path, imatrix: Imatrix, *, force: bool = False, extra: Mapping[str, str] | None = None) -> None:
    """Write ``imatrix`` as a GGUF, byte for byte as llama-imatrix would; ``extra`` are keys of our own.

    TargetError if ``path`` cannot be written, or stands and ``force`` is not given; it appears whole or not at all.
    """
    metadata = {
        "general.type": file.encode("imatrix", Kind.STRING),
        "imatrix.datasets": file.encode(list(imatrix.datasets), Kind.ARRAY, Kind.STRING),
        "imatrix.chunk_count": file.encode(imatrix.chunk_count, Kind.UINT32),
        "imatrix.chunk_size": file.encode(imatrix.chunk_size, Kind.UINT32),
    }
    metadata |= {key: file.encode(value, Kind.STRING) for key, value in (extra or {}).items()}
    arrays: dict[str, Floats] = {}
    for name, entry in sorted(imatrix.entries.items()):
        arrays[name + SUMS] = entry.sums if len(entry.counts) > 1 else entry.sums.reshape(-1)
        arrays[name + COUNTS] = entry.counts.astype(np.float32).reshape((-1, 1) if len(entry.counts) > 1 else -1)
    alignment = file.DEFAULT_ALIGNMENT
    infos = file.layout(((name, a.shape, TensorType.F32) for name, a in arrays.items()), alignment)
    header = Header(metadata, tuple(infos))
    head = file.serialize(header)
    size = len(head) + header.data_size
    check_targets([(path, size)], force)
    target = TargetFile(path, size, force)
    try:
        target.write(0, np.frombuffer(head, np.uint8))
        for info in infos:
            data = np.ascontiguousarray(arrays[info.name]).reshape(-1).view(np.uint8)
            target.write(len(head) + info.offset, data)
        target.commit()
    finally:
        target.abort()
