"""How the files that a conversion or a quantization writes are called."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from ggufrun.errors import UsageError
from ggufrun.quantize.types import FILE_TYPES, FileType

PART = re.compile(r"-\d{5}-of-\d{5}$")
"""What llama.cpp adds to the name of each part of a split model."""


def target_namer(output: Path | None, stem: str, n_types: int) -> Callable[[FileType], Path]:
    """How targets are called: ``output`` is a file, a folder, or None for the current folder."""
    if output is not None and not output.is_dir():
        if n_types > 1 and not output.exists() and output.suffix != ".gguf":
            raise UsageError(f"there is no folder {output}, and {n_types} types are asked for", f"mkdir -p {output}")
        if n_types > 1:
            raise UsageError(f"{output} is one file, {n_types} types are asked for", "name an existing folder with -o")
        return lambda file_type: output
    folder = output or Path()
    return lambda file_type: folder / f"{stem}-{file_type.name}.gguf"


def base_name(path: Path) -> str:
    """The stem of a GGUF's name without its type and the number of a part: ``model-f16-00001-of-00002.gguf`` is
    ``model``.
    """
    stem = PART.sub("", path.stem)
    for separator in "-.":
        head, _, tail = stem.rpartition(separator)
        if head and tail.upper() in FILE_TYPES:
            return head
    return stem
