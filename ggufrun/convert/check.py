"""Whether model files are sound: their structure, and the values in every block of a GGUF."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ggufrun.checkpoint.gguf.checks import NO_MODELS, check_model, kind_of
from ggufrun.checkpoint.gguf.file import Header
from ggufrun.checkpoint.gguf.header import read_header
from ggufrun.checkpoint.gguf.source import SPLIT_NAME
from ggufrun.checkpoint.jsonfile import read_weight_map
from ggufrun.checkpoint.randomaccess import RandomAccessFile
from ggufrun.checkpoint.safetensors import parse_header
from ggufrun.errors import FormatError, GgufrunError, NotFoundError
from ggufrun.quantize import ggml

PIECE = 4 << 20
STRETCH = 512
SMALLEST_HOLE = 16 << 10
"""Bytes: of the stretches that are looked at for zeros, and of a matrix that is."""

AGAIN = "download it again"

Feed = Callable[[memoryview], None]
"""Takes the bytes of a file in order: for digests that are computed in the same read."""


@dataclass(frozen=True)
class _Segment:
    """Bytes ``begin`` to ``end`` of a file; ``kind`` is the ggml type of the blocks in them, None for anything."""

    begin: int
    end: int
    name: str = ""
    kind: int | None = None
    is_matrix: bool = False


def check_gguf(path: Path, feed: Feed | None = None) -> str:
    """Read a GGUF file through: its header, and every block's numbers. Returns what was found sound, in words.

    ``feed`` gets the whole file even when a tensor is bad. Raises what :func:`read_header` raises, and FormatError
    that names the first tensor with a value that is not finite, or says why llama.cpp could not run the model.
    """
    header = read_header(path)
    file = RandomAccessFile(path)
    problem = _misnamed(path, header) or _unusable(path, header)
    try:
        for segment in _segments(header):
            zeros = 0
            size = PIECE if segment.kind is None else PIECE // ggml.block_type(segment.kind).size
            step = size if segment.kind is None else size * ggml.block_type(segment.kind).size
            for begin in range(segment.begin, segment.end, step):
                data = file.read(begin, min(step, segment.end - begin))
                if segment.kind is not None and problem is None:
                    try:
                        ggml.validate(segment.kind, data)
                    except FormatError as error:
                        problem = FormatError(f"{segment.name}: {error.what}", AGAIN)
                    zeros += _zero_bytes(data)
                if feed:
                    feed(data.data)
            if problem is None and segment.is_matrix and 2 * zeros > segment.end - segment.begin:
                share = 100 * zeros // (segment.end - segment.begin)
                problem = FormatError(f"{segment.name} is all zeros over {share}% of its bytes", AGAIN)
    finally:
        file.close()
    if problem:
        raise problem
    values = sum(prod(info.shape) for info in header.tensors)
    return f"GGUF, {len(header.tensors)} tensors, {values:,} values"


def _zero_bytes(data: npt.NDArray[np.uint8]) -> int:
    """Bytes in stretches of `STRETCH` that are all zero: a hole that a cut download left, not a value or two."""
    whole = len(data) // STRETCH * STRETCH
    rows = data[:whole].view(np.uint64).reshape(-1, STRETCH // 8)
    return STRETCH * int((~rows.any(axis=1)).sum())


def _misnamed(path: Path, header: Header) -> GgufrunError | None:
    """Why the file is not the shard that its name says, such as a copy of another one."""
    count, number = header.get("split.count", 1), header.get("split.no", 0)
    name = SPLIT_NAME.fullmatch(path.name)
    if name is None or not isinstance(count, int) or not isinstance(number, int) or count < 2:
        return None
    if (int(name["number"]), int(name["count"])) == (number + 1, count):
        return None
    return FormatError(f"{path.name} is in truth part {number + 1} of {count}", AGAIN)


def _unusable(path: Path, header: Header) -> GgufrunError | None:
    """Why no engine should be given this model; None for parts of one, and for what is not a model."""
    if not header.architecture or kind_of(header) in NO_MODELS or header.get("split.count", 1) not in (0, 1):
        return None
    try:
        check_model(path, header)
    except GgufrunError as error:
        return error
    return None


def _segments(header: Header) -> Iterator[_Segment]:
    """The file from its first byte to its last."""
    position = 0
    for info in header.tensors:
        begin = header.data_start + info.offset
        if begin > position:
            yield _Segment(position, begin)
        position = begin + info.n_bytes
        is_matrix = info.name.endswith(".weight") and sum(size > 1 for size in info.shape) > 1
        yield _Segment(begin, position, info.name, int(info.type), is_matrix and info.n_bytes >= SMALLEST_HOLE)
    if header.file_size > position:
        yield _Segment(position, header.file_size)


def check_safetensors(path: Path) -> str:
    """Check that the header of a safetensors file describes the file exactly."""
    file = RandomAccessFile(path)
    try:
        return f"safetensors, {len(parse_header(file))} tensors"
    finally:
        file.close()


def check_torch(path: Path) -> str:
    """Check the sums in a PyTorch file, which is a zip archive; nothing in it is unpickled."""
    if not zipfile.is_zipfile(path):
        return "PyTorch's older format, which holds no sums"
    try:
        with zipfile.ZipFile(path) as archive:
            if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
                raise FormatError(f"{path.name} is compressed, which PyTorch's files are not", AGAIN)
            bad = archive.testzip()
            count = len(archive.infolist())
    except (zipfile.BadZipFile, EOFError, NotImplementedError, ValueError, RuntimeError) as error:
        raise FormatError(f"{path.name} is a damaged archive: {str(error)[:100]}", AGAIN) from error
    if bad is not None:
        raise FormatError(f"{path.name}: {bad[:100]} does not have the sum it should", AGAIN)
    return f"PyTorch archive, {count} members"


CHECKS: dict[str, Callable[[Path], str]] = {
    ".safetensors": check_safetensors,
    ".bin": check_torch,
    ".pth": check_torch,
    ".pt": check_torch,
}
"""By suffix, for files whose structure can be checked without reading every value."""


def check_index(path: Path) -> tuple[str, list[str]]:
    """Check an index of shards: that the tensors it names are in the files it names, as far as they are there.

    Returns what was found sound, and the files that are missing. Raises FormatError.
    """
    entries = read_weight_map(path)
    files = sorted(set(entries.values()))
    missing = [name for name in files if not (path.parent / name).is_file()]
    for name in files:
        if name not in missing and name.endswith(".safetensors"):
            _check_shard(path, name, {key for key, value in entries.items() if value == name})
    return f"index of {len(files)} files, {len(entries)} tensors", missing


def _check_shard(index: Path, name: str, expected: set[str]) -> None:
    try:
        file = RandomAccessFile(index.parent / name)
    except NotFoundError:
        return
    try:
        lost = sorted(expected - {entry.name for entry in parse_header(file)})
    except GgufrunError:
        # the file's own row tells
        return
    finally:
        file.close()
    if lost:
        raise FormatError(f"{name} lacks {lost[0]}, which {index.name} places there", AGAIN)
