"""Sizes in bytes as people write and read them."""

from __future__ import annotations

import re

from ggufrun.errors import UsageError

SIZE_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


def parse_size(text: str) -> int:
    """``500M`` or ``4G`` in bytes, powers of 1000 as gguf-split takes them; ``4GiB`` in powers of 1024."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(I?B)?", text.strip().upper())
    if match is None or float(match[1]) == 0:
        raise UsageError(f"{text!r} is not a size", "write for example 4G or 500M")
    binary = match[3] == "IB"
    unit = 1024 ** (" KMGT".index(match[2] or " ")) if binary else SIZE_UNITS[match[2]]
    return int(float(match[1]) * unit)


def size_text(n_bytes: float) -> str:
    """Bytes as people write them, in powers of 1024; a debt is negative.

    >>> size_text(3 << 20), size_text(-3 << 29)
    ('3.0 MiB', '-1.50 GiB')
    """
    for unit in ("B", "KiB", "MiB"):
        if abs(n_bytes) < 1024:
            return f"{n_bytes:.0f} {unit}" if unit == "B" else f"{n_bytes:.1f} {unit}"
        n_bytes /= 1024
    return f"{n_bytes:.2f} GiB"
