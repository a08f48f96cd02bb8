"""The files that an index of shards names (``model.safetensors.index.json``)."""

from __future__ import annotations

from pathlib import Path

from ggufrun import jsontext
from ggufrun.errors import FormatError
from ggufrun.regularfile import read_bytes

MAX_BYTES = 16 << 20


def shard_names(index: Path) -> list[str] | None:
    """A file name for each tensor; None for an index that cannot be read."""
    try:
        value = jsontext.parse(read_bytes(index, MAX_BYTES))
    except (OSError, ValueError, FormatError):
        return None
    entries = value.get("weight_map") if isinstance(value, dict) else None
    if not isinstance(entries, dict) or not all(isinstance(name, str) for name in entries.values()):
        return None
    return list(entries.values())
