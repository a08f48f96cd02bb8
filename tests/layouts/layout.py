"""One file of tests/golden/layouts: a published checkpoint without its weights.

Written by people, and kept when the rest is recorded:

- ``checkpoint``: its name on the hub, ``config_from``: where its config.json is known from, ``parameters``: how many
  it was published with (the test holds the shapes against that), ``config``: config.json, without keys that are about
  training or generation.
- ``class``: the class of transformers, where ``architectures`` names another. ``for_class``: changes of config.json
  that it needs. ``dtype``: that of the tensors, where config.json says another.
- ``rename``: patterns and replacements that give the tensors their published names, where transformers has since
  changed them. Then ``saved`` are the names that it writes today; with ``published_only`` there is no such list.
- ``types``: patterns of names and the types of those tensors. ``copy``: prefixes, and what else they stand for: layers
  that predict further tokens. ``also``: tensors that the class does not have.
- ``by_hand``: where ``tensors`` come from that transformers has no class for.

Recorded: ``tensors``, lines in the form of ``patterns.py``; ``saved``; ``gguf``: what llama.cpp's converter makes of
them, with a digest of the tensors in their order.
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


def folder(parent: Path, recipe: Mapping[str, Any]) -> Path:
    """Where the checkpoint is written: its own name, which becomes metadata."""
    return parent / str(recipe["checkpoint"]).rpartition("/")[2]


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
        elif not name.endswith(("_scale_inv", "_scales", ".inv_freq", ".attn.bias", ".masked_bias")):
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
    return json.dumps(value, ensure_ascii=False)
