"""What a context takes, by type of buffer, as llama.cpp reports it.

``llama_get_memory_breakdown`` and its companions (``src/llama-ext.h`` of the pinned release) are C++ functions, and the
first returns a ``std::map<ggml_backend_buffer_type_t, {size_t model, context, compute}>``. They are called by their
mangled names, and the map's red-black tree is walked here: its layout is part of the ABI that GCC's and Clang's
libraries promise to keep.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ggufrun.errors import EngineError
from ggufrun.native.library import memory_report

Sizes = tuple[int, int, int]
"""Bytes of weights, cache and compute buffers."""

WORD = ctypes.sizeof(ctypes.c_size_t)
ENTRY = 4 * WORD
"""Both libraries' nodes begin with four words (three links and the colour); the pair follows."""

LIMIT = 4096
"""Buffer types: some ten on a large machine. More means that the memory is not what we take it for."""


@dataclass(frozen=True)
class _Layout:
    """Word offsets: of the root and the count in the map, of the children in a node."""

    root: int
    count: int
    left: int
    right: int


GNU = _Layout(root=2, count=5, left=2, right=3)
"""libstdc++: comparison, then a header node {colour, root, leftmost, rightmost}, then the count; a node is {colour,
parent, left, right}.
"""

LLVM = _Layout(root=1, count=2, left=0, right=1)
"""libc++: leftmost, end node {root}, count; a node is {left, right, parent, colour}."""


def breakdown(context: Any) -> list[tuple[int, Sizes]]:
    """Buffer types (their addresses) and what they hold, of a ``llama_context *``. The map's few nodes are left to the
    end of the process: only C++ could free them. Raises EngineError for an engine that does not tell.
    """
    found = memory_report()._Z26llama_get_memory_breakdownPK13llama_context(context)
    layout = LLVM if sys.platform == "darwin" else GNU
    entries = list(_walk(found.words[layout.root], layout))
    if len(entries) != found.words[layout.count]:
        raise EngineError("the engine's report of its memory cannot be read", "use the engine that `make setup` builds")
    return entries


def devices_of(model: Any) -> Iterator[int]:
    """The devices (their addresses) that a ``llama_model *`` is spread over, in the engine's order."""
    report = memory_report()
    for index in range(report._Z21llama_model_n_devicesPK11llama_model(model)):
        yield report._Z22llama_model_get_devicePK11llama_modeli(model, index)


def _walk(node: int, layout: _Layout) -> Iterator[tuple[int, Sizes]]:
    waiting = [node]
    seen = 0
    while waiting and seen < LIMIT:
        if not (node := waiting.pop()):
            continue
        seen += 1
        links = (ctypes.c_size_t * 4).from_address(node)
        key, weights, cache, compute = (ctypes.c_size_t * 4).from_address(node + ENTRY)
        yield key, (weights, cache, compute)
        waiting += [links[layout.right], links[layout.left]]
