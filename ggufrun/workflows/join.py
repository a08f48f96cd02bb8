"""Pieces of one GGUF that was cut by bytes (``.part1of2``, ``-split-a``) become the file again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ggufrun.checkpoint.gguf.header import read_header
from ggufrun.convert.writer import TargetFile, check_targets
from ggufrun.errors import FormatError, GgufrunError
from ggufrun.regularfile import open_regular

STEP = 16 << 20
"""Bytes copied at once."""


def join_pieces(pieces: Sequence[Path], whole: Path) -> bool:
    """Write ``whole`` from ``pieces`` in their order, check that it is a sound GGUF of just this size, and remove them.

    False where that was done before and no piece is left. Raises FormatError for pieces that make no GGUF (they stay),
    TargetError or OSError.
    """
    if whole.is_file() and not any(path.exists() for path in pieces):
        return False
    size = sum(path.stat().st_size for path in pieces)
    check_targets([(whole, size)], force=True)
    target = TargetFile(whole, size, force=True)
    try:
        position = 0
        for path in pieces:
            with open_regular(path) as source:
                while data := source.read(STEP):
                    target.write(position, np.frombuffer(data, np.uint8))
                    position += len(data)
        target.commit()
    finally:
        target.abort()
    try:
        header = read_header(whole)
        if header.data_start + header.data_size < size - header.alignment:
            raise FormatError(f"{whole.name} is longer than its header says")
    except GgufrunError as error:
        whole.unlink()
        raise FormatError(
            f"the pieces of {whole.name} do not make a GGUF: {error.what}", "fetch another type, or tell the uploader"
        ) from error
    for path in pieces:
        path.unlink()
    return True
