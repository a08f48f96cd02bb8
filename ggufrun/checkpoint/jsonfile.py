"""The JSON files of a checkpoint: regular files of reasonable size, parsed within bounds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ggufrun import jsontext
from ggufrun.errors import FormatError, NotFoundError
from ggufrun.regularfile import read_bytes

MAX_BYTES = 16 << 20
AGAIN = "download it again"


def read_json(path: Path, limit: int = MAX_BYTES) -> Any:
    """What a JSON file of at most ``limit`` bytes holds. NotFoundError, FormatError."""
    try:
        return jsontext.parse(read_bytes(path, limit))
    except FileNotFoundError as error:
        raise NotFoundError(f"no {path.name} in {path.parent}", "name the folder that holds the checkpoint") from error
    except ValueError as error:
        raise FormatError(f"{path} is not JSON that can be read: {str(error)[:100]}", AGAIN) from error


def read_object(path: Path, limit: int = MAX_BYTES) -> dict[str, Any]:
    """The JSON object in a file. NotFoundError, FormatError."""
    value = read_json(path, limit)
    if not isinstance(value, dict):
        raise FormatError(f"{path} is not a JSON object", AGAIN)
    return value


def read_weight_map(index: Path) -> dict[str, str]:
    """Which file each tensor is in, from an index of shards. NotFoundError, FormatError.

    The names are plain names of files in the index's folder.
    """
    entries = read_object(index).get("weight_map")
    if not isinstance(entries, dict):
        raise FormatError(f"{index.name} is not an index of shards", AGAIN)
    for name in entries.values():
        if not isinstance(name, str) or Path(name).name != name or "\\" in name or "\0" in name:
            raise FormatError(f"{index.name} names the file {jsontext.shown(name)}", AGAIN)
    return entries
