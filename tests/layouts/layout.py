"""One file of tests/golden/layouts: a published checkpoint without its weights.

Written by people, and kept when the rest is recorded:

- ``checkpoint``: its name on the hub. ``config``: its config.json, without keys about training or generation;
  ``config_from``: where it is known from. ``parameters``: how many it was published with (the test holds the shapes
  against that; left out where none was published).
- ``class``: the class of transformers, where ``architectures`` names another. ``for_class``: changes of config.json
  that it needs. ``dtype``: that of the tensors, where config.json says another.
- ``in_memory``: the published names are those of the class in memory, not those that it is saved with. ``types``:
  patterns of names and the types of those tensors. ``copy``: prefixes, and what else they stand for: layers that
  predict further tokens. ``rename``: patterns and replacements that give the tensors their published names; an empty
  one leaves a tensor out. ``transposed``: a pattern of those whose last two dimensions were published the other way
  round. ``also``: tensors that the class does not have. ``also_saved``: transformers writes other names or shapes
  today, which are kept as ``saved`` and must become the same GGUF, or with ``saved_differs`` that of ``saved_gguf``.
- ``converter_config``, ``hidden_from_converter``, ``shown_to_converter``: what llama.cpp's converter needs to be told,
  a pattern of tensors that it must not see, and tensors that it sees in their place, to get through at all (some it
  pads at once, which takes tens of gigabytes).
- ``files``: other JSON files of the checkpoint that say what becomes of it, by name.
- ``by_hand``: where ``tensors`` come from that transformers has no class for.

Recorded: ``tensors``, lines in the form of ``patterns.py``; ``saved``; ``gguf``: what llama.cpp's converter makes of
them, with a digest of the tensors in their order.

A long list that repeats itself is kept as ``{"times": 16, "list": [...]}``.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tests.layouts.patterns import Entry, expand

FOLDER = Path(__file__).parent.parent / "golden" / "layouts"


def load(path: Path) -> dict[str, Any]:
    """The content of a file, its lists in full."""
    found: dict[str, Any] = _unpacked(json.loads(path.read_text("utf-8")))
    return found


def _unpacked(value: Any) -> Any:
    if isinstance(value, dict):
        if value.keys() == {"times", "list"}:
            return value["list"] * value["times"]
        return {key: _unpacked(item) for key, item in value.items()}
    return value


def _packed(value: list[Any]) -> Any:
    for period in range(1, len(value) // 2 + 1):
        if len(value) > 8 and len(value) % period == 0 and value == value[:period] * (len(value) // period):
            return {"times": len(value) // period, "list": value[:period]}
    return value


def folder(parent: Path, recipe: Mapping[str, Any]) -> Path:
    """Where the checkpoint is written: its own name, which becomes metadata."""
    return parent / str(recipe["checkpoint"]).rpartition("/")[2]


def write_files(folder: Path, recipe: Mapping[str, Any]) -> None:
    """The other files, next to what is there."""
    for name, value in recipe.get("files", {}).items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(value), "utf-8")


def outtype(recipe: Mapping[str, Any]) -> str:
    """The plain type that the checkpoint is converted to: its own."""
    kinds = {line.split(" ")[1] for line in recipe["tensors"]}
    return next((kind.lower() for kind in ("BF16", "F16", "F32") if kind in kinds), "bf16")


def digest(entries: Iterable[Entry]) -> str:
    """Changes with any entry, and with their order."""
    lines = [f"{name} {kind} {'x'.join(map(str, shape))}\n" for name, kind, shape in entries]
    return hashlib.sha256("".join(lines).encode()).hexdigest()[:16]


def n_values(recipe: Mapping[str, Any]) -> int:
    """How many weights the checkpoint has: no tables of positions, and of a quantized one no scales."""
    total = 0
    for name, _, shape in expand(recipe["tensors"]):
        if name.endswith("_blocks"):
            total += 2 * math.prod(shape)
        elif not name.endswith(("_scale_inv", "_scales", ".inv_freq", ".attn.bias", ".attention.bias", ".masked_bias")):
            total += math.prod(shape)
    return total


def text(recipe: Mapping[str, Any]) -> str:
    """The file: a line a key, a line a tensor."""
    return _text(recipe, 0) + "\n"


def _text(value: Any, depth: int) -> str:
    pad = " " * (depth + 1)
    if isinstance(value, Mapping) and value and (depth < 2 or len(json.dumps(value)) > 100):
        lines = [f"{pad}{json.dumps(key)}: {_text(item, depth + 1)}" for key, item in value.items()]
        return "{\n" + ",\n".join(lines) + "\n" + " " * depth + "}"
    if isinstance(value, list) and value and isinstance(value[0], str) and " " in value[0]:
        return "[\n" + ",\n".join(pad + json.dumps(item) for item in value) + "\n" + " " * depth + "]"
    return json.dumps(_packed(value) if isinstance(value, list) else value, ensure_ascii=False)
