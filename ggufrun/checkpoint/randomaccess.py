"""Reading parts of a large file from several threads without mapping it.

A mapping would count every page touched as resident memory and turn a file cut short while it is read into SIGBUS.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ggufrun.checkpoint.tensor import Rows
from ggufrun.errors import FormatError, NotFoundError
from ggufrun.regularfile import open_descriptor

MAX_READ_AHEAD = 64 << 20


class RandomAccessFile:
    """A file open for positional reads."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._descriptor = open_descriptor(path, "name a model file")
        except FileNotFoundError as error:
            raise NotFoundError(f"no such file: {path}", "check the path") from error
        self.size = os.fstat(self._descriptor).st_size

    def read(self, offset: int, n_bytes: int) -> npt.NDArray[np.uint8]:
        """``n_bytes`` from ``offset`` as uint8; FormatError if the file ends before."""
        buffer = np.empty(n_bytes, np.uint8)
        view, done = buffer.data, 0
        while done < n_bytes:
            count = os.preadv(self._descriptor, [view[done:]], offset + done)
            if count == 0:
                raise FormatError(f"{self.path.name} ends at byte {offset + done}", "download it again")
            done += count
        return buffer

    def will_need(self, offset: int, n_bytes: int) -> None:
        """Tell the system to read ahead; it may not."""
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self._descriptor, offset, n_bytes, os.POSIX_FADV_WILLNEED)

    def close(self) -> None:
        """Close the file; again is a no-op."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def row_reader(
    file: RandomAccessFile, begin: int, shape: tuple[int, ...], storage: type[np.generic]
) -> Callable[[int, int], Rows]:
    """The ``rows`` of a Tensor that lies in one piece from byte ``begin``, little-endian."""
    dtype: np.dtype[Any] = np.dtype(storage).newbyteorder("<")
    n_per_row = shape[-1] if shape else 1
    row_bytes = n_per_row * dtype.itemsize
    end = begin + prod(shape[:-1]) * row_bytes

    def rows(start: int, stop: int) -> Rows:
        offset = begin + start * row_bytes
        data: Rows = file.read(offset, (stop - start) * row_bytes).view(dtype).reshape(stop - start, n_per_row)
        # the next reader of this tensor will ask for what follows
        ahead = min(end - (begin + stop * row_bytes), data.nbytes, MAX_READ_AHEAD)
        if ahead > 0:
            file.will_need(begin + stop * row_bytes, ahead)
        return data

    return rows
