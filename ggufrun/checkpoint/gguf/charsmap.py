"""The table by which a Unigram vocabulary rewrites a text before it is cut up (``precompiled_charsmap``).

The format is SentencePiece's: four bytes that say how long the trie is, a trie of 32-bit nodes (Kanda's XOR-compressed
double array), and the replacements, each ended by a zero. llama.cpp looks characters up in it while it tokenizes a
prompt, where nothing catches its complaint about a table that leads outside.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from ggufrun.checkpoint.gguf.header import AGAIN
from ggufrun.errors import FormatError

MAX_SIZE = 1 << 22
"""Bytes. Those that come with SentencePiece have a quarter of a million."""

AT_ONCE = 4096
"""Nodes whose children are looked for at once: each may have 255."""

Nodes = npt.NDArray[np.uint32]


def check_charsmap(path: Path, data: bytes) -> None:
    """FormatError for a table in which some text leads outside the trie or its replacements."""
    if len(data) < 4:
        raise _broken(path)
    if len(data) > MAX_SIZE:
        raise FormatError(f"{path.name} has a table of characters (precompiled_charsmap) of {len(data)} bytes", AGAIN)
    size = int.from_bytes(data[:4], "little")
    # one byte of replacements at least, as llama.cpp wants it
    if size + 4 >= len(data):
        raise _broken(path)
    nodes = np.frombuffer(data, "<u4", size // 4, 4)
    replacements = data[4 + size :]
    if not len(nodes):
        return
    seen = np.zeros(len(nodes), bool)
    frontier = _base(nodes[:1])
    while len(frontier):
        reached = [_children(path, nodes, frontier[at : at + AT_ONCE]) for at in range(0, len(frontier), AT_ONCE)]
        children = np.unique(np.concatenate(reached))
        # a loop, or a second way to a node, leads nowhere new
        children = children[~seen[children]]
        seen[children] = True
        bases = children ^ _base(nodes[children])
        leaves = bases[(nodes[children] >> np.uint32(8)) & np.uint32(1) == 1]
        if len(leaves):
            if leaves.max() >= len(nodes):
                raise _broken(path)
            starts = nodes[leaves] & np.uint32(0x7FFFFFFF)
            # each replacement ends with a zero
            if int(starts.max()) > replacements.rfind(b"\0"):
                raise _broken(path)
        frontier = np.unique(bases)


def _children(path: Path, nodes: Nodes, bases: Nodes) -> Nodes:
    """The nodes that some letter leads to from one of ``bases``."""
    letters = np.arange(1, 256, dtype=np.uint32)
    places = (bases[:, None] ^ letters).ravel()
    if places.max() >= len(nodes):
        raise _broken(path)
    kept = nodes[places] & np.uint32(0x800000FF) == np.tile(letters, len(bases))
    found: Nodes = places[kept].astype(np.uint32)
    return found


def _base(nodes: Nodes) -> Nodes:
    found: Nodes = (nodes >> np.uint32(10)) << ((nodes & np.uint32(1 << 9)) >> np.uint32(6))
    return found


def _broken(path: Path) -> FormatError:
    return FormatError(f"{path.name} has a table of characters (precompiled_charsmap) that leads outside itself", AGAIN)
