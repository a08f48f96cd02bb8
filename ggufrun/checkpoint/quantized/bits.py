"""Whole numbers of a few bits each, unpacked from a little-endian stream: number i is in bits i * b to (i + 1) * b."""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt

Codes = npt.NDArray[np.uint8]


def unpack(packed: Codes, bits: int) -> Codes:
    """(rows, bytes) as (rows, numbers): all that the bytes hold whole. ``bits`` is 1 to 8.

    Bits other than 1, 2, 4 and 8 need rows of a multiple of ``bits`` bytes; what is more is left out.
    """
    rows, size = packed.shape
    if bits == 8:
        return packed
    if bits in (1, 2, 4):
        return np.take(_table(bits), packed).view(np.uint8)
    count = size // bits
    groups = packed[:, : count * bits].reshape(rows, count, bits)
    words = np.zeros((rows, count), np.uint32 if bits == 3 else np.uint64)
    for index in range(bits):
        words |= groups[:, :, index].astype(words.dtype) << words.dtype.type(8 * index)
    found = np.empty((rows, count, 8), np.uint8)
    mask = words.dtype.type((1 << bits) - 1)
    for index in range(8):
        found[:, :, index] = (words >> words.dtype.type(bits * index)) & mask
    return found.reshape(rows, count * 8)


@cache
def _table(bits: int) -> npt.NDArray[np.unsignedinteger]:
    """The numbers in each byte, side by side in one wider number, so that one look-up yields all of them."""
    count = 8 // bits
    values = np.arange(256)[:, None] >> (bits * np.arange(count)) & ((1 << bits) - 1)
    table: npt.NDArray[np.unsignedinteger] = values.astype(np.uint8).view(f"<u{count}").reshape(-1)
    return table
