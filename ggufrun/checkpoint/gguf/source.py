"""A GGUF file, or the files of a split one, as a Source."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from math import prod
from pathlib import Path

import numpy as np

from ggufrun.checkpoint.gguf.file import Header, TensorInfo
from ggufrun.checkpoint.gguf.header import AGAIN, read_header
from ggufrun.checkpoint.gguf.tensor_types import TensorType
from ggufrun.checkpoint.randomaccess import RandomAccessFile
from ggufrun.checkpoint.tensor import Rows, Tensor
from ggufrun.errors import FormatError, NotFoundError

PLAIN: dict[TensorType, type[np.generic]] = {
    TensorType.F32: np.float32,
    TensorType.F16: np.float16,
    TensorType.BF16: np.uint16,
    TensorType.F64: np.float64,
    TensorType.I8: np.int8,
    TensorType.I16: np.int16,
    TensorType.I32: np.int32,
    TensorType.I64: np.int64,
}
"""Types that are stored value by value, and what holds them."""

SPLIT_NAME = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")
"""How llama.cpp names the parts of a split model, counted from 1."""

MAX_PARTS = 65535


class GGUFSource:
    """A GGUF: its checked header, and its tensors in the order of the header.

    Of a split model, ``path`` is any of its parts; the header is the first part's with the tensors of all.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._open: list[RandomAccessFile] = []
        self.tensors: dict[str, Tensor] = {}
        try:
            parts = part_paths(path)
            headers = [self._add(part, number, parts) for number, part in enumerate(parts)]
        except BaseException:
            self.close()
            raise
        self.header: Header = replace(
            headers[0],
            tensors=tuple(info for header in headers for info in header.tensors),
            file_size=sum(header.file_size for header in headers),
        )

    def _add(self, path: Path, number: int, parts: tuple[Path, ...]) -> Header:
        header = read_header(path)
        if len(parts) > 1 and (header.get("split.no"), header.get("split.count")) != (number, len(parts)):
            raise FormatError(f"{path.name} is not part {number + 1} of {len(parts)}", AGAIN)
        file = RandomAccessFile(path)
        self._open.append(file)
        for info in header.tensors:
            if info.name in self.tensors:
                raise FormatError(f"{path.name} has the tensor {info.name} of an earlier part", AGAIN)
            self.tensors[info.name] = Tensor(info.name, info.type.name, info.shape, _reader(file, header, info))
        return header

    @property
    def files(self) -> tuple[Path, ...]:
        """The file, or all parts."""
        return tuple(file.path for file in self._open)

    def close(self) -> None:
        """Close the files."""
        for file in self._open:
            file.close()


def part_paths(path: Path) -> tuple[Path, ...]:
    """Every part of the split model that ``path`` belongs to, or just ``path``; NotFoundError names a missing one."""
    header = read_header(path)
    # llama.cpp's gguf-split leaves 0 in what it has merged
    count = header.get("split.count", 1) or 1
    if not isinstance(count, int) or not 1 <= count <= MAX_PARTS:
        raise FormatError(f"{path.name} says it is split into {count} parts", AGAIN)
    if count == 1:
        return (path,)
    match = SPLIT_NAME.fullmatch(path.name)
    if match is None or int(match["count"]) != count:
        raise FormatError(
            f"{path.name} is one of {count} parts, but not called so", f"rename it to NAME-00001-of-{count:05}.gguf"
        )
    parts = tuple(path.with_name(f"{match['stem']}-{number:05}-of-{count:05}.gguf") for number in range(1, count + 1))
    missing = [part.name for part in parts if not part.is_file()]
    if missing:
        raise NotFoundError(f"{len(missing)} of {count} parts are missing, such as {missing[0]}", "download the rest")
    return parts


def _reader(file: RandomAccessFile, header: Header, info: TensorInfo) -> Callable[[int, int], Rows]:
    begin = header.data_start + info.offset
    row_bytes = info.n_bytes * info.shape[-1] // prod(info.shape)

    def rows(start: int, stop: int) -> Rows:
        data = file.read(begin + start * row_bytes, (stop - start) * row_bytes)
        file.will_need(begin + stop * row_bytes, data.nbytes)
        return data.view(PLAIN.get(info.type, np.uint8)).reshape(stop - start, -1)

    return rows
