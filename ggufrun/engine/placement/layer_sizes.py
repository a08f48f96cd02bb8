"""The sizes of a GGUF's tensors by layer, read from its header alone."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ggufrun.errors import EngineError
from ggufrun.native.library import ggml
from ggufrun.native.structures import GgufInitParams

LAYER = re.compile(r"^blk\.(\d+)\.")
EXPERT = re.compile(r"\.ffn_(up|down|gate_up|gate)_(ch|)exps")
PART = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$")
INPUT = ("token_embd", "per_layer_token_embd", "token_embd_norm", "position_embd", "token_types")
"""Tensors that stay with the processor: looking rows up needs no speed."""


@dataclass(frozen=True)
class Outline:
    """Bytes: of every layer without its experts, of its experts, and of what comes after the last layer."""

    dense: tuple[int, ...]
    experts: tuple[int, ...]
    output: int


def parts(path: Path) -> list[Path]:
    """All files of a model that was split: ``NAME-00001-of-00003.gguf`` and its companions."""
    match = PART.search(path.name)
    if not match:
        return [path]
    count = int(match[2])
    names = [f"{path.name[: match.start()]}-{number:05d}-of-{count:05d}.gguf" for number in range(1, count + 1)]
    return [path.with_name(name) for name in names]


def outline(path: Path) -> Outline:
    """The outline of the model at ``path``. Raises EngineError when a header cannot be read."""
    return sum_by_layer((name, size) for part in parts(path) for name, size in tensor_sizes(part))


def sum_by_layer(tensors: Iterator[tuple[str, int]]) -> Outline:
    """The outline of named sizes. A model without an output matrix uses that of its tokens once more."""
    dense: dict[int, int] = {}
    experts: dict[int, int] = {}
    output, embedding, tied = 0, 0, True
    for name, size in tensors:
        if layer := LAYER.match(name):
            kind = experts if EXPERT.search(name) else dense
            kind[int(layer[1])] = kind.get(int(layer[1]), 0) + size
        elif name.split(".", 1)[0] in INPUT:
            embedding = size if name == "token_embd.weight" else embedding
        else:
            output += size
            tied = tied and name != "output.weight"
    count = max([*dense, *experts], default=-1) + 1
    return Outline(
        tuple(dense.get(layer, 0) for layer in range(count)),
        tuple(experts.get(layer, 0) for layer in range(count)),
        output + (embedding if tied else 0),
    )


def tensor_sizes(path: Path) -> Iterator[tuple[str, int]]:
    """Name and bytes of every tensor of one file."""
    lib = ggml()
    header = lib.gguf_init_from_file(os.fsencode(path), GgufInitParams(True, None))
    if not header:
        raise EngineError(f"{path.name}: the header cannot be read", "the file may be damaged; `ggufrun verify` tells")
    try:
        for index in range(lib.gguf_get_n_tensors(header)):
            name = lib.gguf_get_tensor_name(header, index).decode("utf-8", "replace")
            yield name, lib.gguf_get_tensor_size(header, index)
    finally:
        lib.gguf_free(header)
