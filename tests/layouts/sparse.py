"""A checkpoint without weights: config.json, and a safetensors file of its full size that is all hole.

Only what a reader must know to plan is there: the shapes that compressed-tensors keeps beside packed weights.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tests.layouts.patterns import Entry

BITS = {"F64": 64, "I64": 64, "F32": 32, "I32": 32, "BF16": 16, "F16": 16, "I8": 8, "U8": 8, "BOOL": 8}


def write(folder: Path, config: Mapping[str, Any], tensors: Iterable[Entry]) -> Path:
    """The checkpoint in ``folder``, which is made."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    header: dict[str, Any] = {}
    position = 0
    entries = list(tensors)
    known = _shapes(entries)
    # what is written stands together at the start
    for name, kind, shape in sorted(entries, key=lambda entry: entry[0] not in known):
        size = math.prod(shape) * BITS.get(kind, 8) // 8
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": (position, position + size)}
        position += size
    data = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(data).to_bytes(8, "little") + data)
        file.write(b"".join(known[name] for name in header if name in known))
        # no block of the disk is taken by what is never written
        file.truncate(8 + len(data) + position)
    return folder


def _shapes(entries: Iterable[Entry]) -> dict[str, bytes]:
    """The values of tensors that hold shapes: 8 weights of 4 bits lie in each packed number."""
    packed = {name.removesuffix("_packed"): shape for name, _, shape in entries if name.endswith(".weight_packed")}
    return {
        f"{name}_shape": rows.to_bytes(4, "little") + (8 * columns).to_bytes(4, "little")
        for name, (rows, columns) in packed.items()
    }
