"""Add metadata to a GGUF that stands: the file is written anew, the tensors as they are, and takes its place whole."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from ggufrun.checkpoint.gguf import file
from ggufrun.checkpoint.gguf.file import Value
from ggufrun.checkpoint.gguf.header import read_header
from ggufrun.convert.writer import TargetFile, check_targets
from ggufrun.regularfile import open_regular, recorded

STEP = 16 << 20
"""Bytes copied at once."""


def annotate(path: Path, prefix: str, values: Mapping[str, Value]) -> None:
    """Put ``values`` at the end of the metadata of ``path``, in place of all keys that start with ``prefix``.

    Killed at any moment, it leaves the old file or the new one. Raises TargetError, FormatError or OSError.
    """
    with recorded() as read:
        header = read_header(path)
        kept = {key: value for key, value in header.metadata.items() if not key.startswith(prefix)}
        head = file.serialize(replace(header, metadata=kept | dict(values)))
        size = len(head) + header.file_size - header.data_start
        check_targets([(path, size)], force=True)
        target = TargetFile(path, size, force=True)
        try:
            target.write(0, np.frombuffer(head, np.uint8))
            _copy(path, header.data_start, target, len(head))
            read.check()
            target.commit()
        finally:
            target.abort()


def _copy(path: Path, start: int, target: TargetFile, position: int) -> None:
    """The bytes of ``path`` from ``start`` on, to ``position`` of the target."""
    with open_regular(path) as source:
        source.seek(start)
        while data := source.read(STEP):
            target.write(position, np.frombuffer(data, np.uint8))
            position += len(data)
        # what was read need not stay in memory
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(source.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
