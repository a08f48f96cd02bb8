"""A GGUF file as a Source."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np

from ggufrun.checkpoint.gguffile import Header, TensorInfo, read_header
from ggufrun.checkpoint.randomaccess import RandomAccessFile
from ggufrun.checkpoint.tensor import Rows, Tensor

PLAIN: dict[gguf.GGMLQuantizationType, type[np.generic]] = {
    gguf.GGMLQuantizationType.F32: np.float32,
    gguf.GGMLQuantizationType.F16: np.float16,
    gguf.GGMLQuantizationType.BF16: np.uint16,
    gguf.GGMLQuantizationType.F64: np.float64,
    gguf.GGMLQuantizationType.I8: np.int8,
    gguf.GGMLQuantizationType.I16: np.int16,
    gguf.GGMLQuantizationType.I32: np.int32,
    gguf.GGMLQuantizationType.I64: np.int64,
}
"""Types that are stored value by value, and what holds them."""


class GGUFSource:
    """A GGUF file: its header, checked, and its tensors in the order of the header."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.header: Header = read_header(path)
        self._file = RandomAccessFile(path)
        self.tensors: dict[str, Tensor] = {
            info.name: Tensor(info.name, info.type.name, info.shape, self._reader(info)) for info in self.header.tensors
        }

    def _reader(self, info: TensorInfo) -> Callable[[int, int], Rows]:
        begin = self.header.data_start + info.offset
        row_bytes = info.n_bytes * info.shape[-1] // int(np.prod(info.shape, dtype=object))

        def rows(start: int, stop: int) -> Rows:
            data = self._file.read(begin + start * row_bytes, (stop - start) * row_bytes)
            self._file.will_need(begin + stop * row_bytes, data.nbytes)
            return data.view(PLAIN.get(info.type, np.uint8)).reshape(stop - start, -1)

        return rows

    @property
    def files(self) -> tuple[Path, ...]:
        """The one file."""
        return (self.path,)

    def close(self) -> None:
        """Close the file."""
        self._file.close()
