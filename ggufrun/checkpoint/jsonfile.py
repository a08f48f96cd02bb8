"""JSON files of reasonable size, read with suspicion."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ggufrun.errors import FormatError, NotFoundError

MAX_BYTES = 16 << 20


def read_json(path: Path) -> Any:
    """A JSON file of reasonable size. NotFoundError, FormatError."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise FormatError(f"{path} is larger than any {path.name} should be", "download it again")
        return json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise NotFoundError(f"no {path.name} in {path.parent}", "name the folder that holds the checkpoint") from error
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path} is no JSON: {str(error)[:100]}", "download it again") from error


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file. NotFoundError, FormatError."""
    value = read_json(path)
    if not isinstance(value, dict):
        raise FormatError(f"{path} is no JSON object", "download it again")
    return value
