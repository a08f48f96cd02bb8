"""Cards that do not exist: CUDA's libraries, stood in for by `cuda.c`, which counts memory and computes nothing.

With them the engine of ``make cuda`` runs anywhere, and what ggml-cuda really takes and really refuses is seen for any
number of cards and any size of model. `build` compiles them; variables from `environment` put them before NVIDIA's.

=========================  ==========================================================================================
``STANDIN_CARDS``          ``TOTAL[:FREE[:ROOM]]`` a card, MiB, with commas: the card's, said to be free, really given
``STANDIN_FULL_ERROR``     what a card says of which nothing is free: 2 (out of memory), or 46 (another has it)
``STANDIN_CAPABILITY``     ``90`` for 9.0
``STANDIN_DRIVER``         what CUDA the driver runs, ``13000`` for 13.0
``STANDIN_COUNT_ERROR``    what CUDA says when it is asked for its cards, ``35`` where the driver is too old
``STANDIN_NO_KERNEL``      1: the kernels are for another architecture
``STANDIN_LOST_AFTER``     launches of a kernel after which a card fails, with ``STANDIN_LOST_ERROR``
``STANDIN_CODE``           MiB that a card takes for its code when the first kernel is launched
``STANDIN_COPY_UP_TO``     bytes: larger copies are left out, so that weights take no memory
``STANDIN_DELAY``          nanoseconds that a kernel takes; a graph takes a hundred times as long
``STANDIN_NOISE``          1: what comes back from a card is noise, not zeros
``STANDIN_SEEN``           a file for what was seen, which outlives the process: see `Seen`
=========================  ==========================================================================================
"""

from __future__ import annotations

import os
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent

NAMES = ("libcudart.so.13", "libcublas.so.13", "libcuda.so.1")
"""One library under three names: the loader knows by the file that it is one."""

CARDS = 16
MIB = 1 << 20


@dataclass(frozen=True)
class Seen:
    """Of each card: the most memory that was taken at once (bytes), how often memory was refused, kernels launched."""

    peak: tuple[int, ...]
    refused: tuple[int, ...]
    launches: tuple[int, ...]


def build(folder: Path) -> Path:
    """Compile the libraries into ``folder``; returns it."""
    compiler = os.environ.get("CC", "cc")
    flags = ["-shared", "-fPIC", "-O1", f"-Wl,-soname,{NAMES[0]}", f"-Wl,--version-script={HERE / 'versions.map'}"]
    target = ["-o", str(folder / NAMES[0]), "-lpthread"]
    subprocess.run([compiler, *flags, str(HERE / "cuda.c"), *target], check=True)
    for name in NAMES[1:]:
        (folder / name).symlink_to(NAMES[0])
    return folder


def environment(folder: Path, cards: str, seen: Path | None = None, **more: object) -> dict[str, str]:
    """Variables for a process that shall see ``cards``; ``more`` are those of the table above, without ``STANDIN_``."""
    named = {f"STANDIN_{name.upper()}": str(value) for name, value in {"cards": cards, **more}.items()}
    return {"LD_LIBRARY_PATH": str(folder), **named, **({"STANDIN_SEEN": str(seen)} if seen else {})}


def read(path: Path) -> Seen:
    """What a process wrote."""
    rows = struct.iter_unpack(f"={CARDS}Q", path.read_bytes())
    _, peak, refused, launches = (tuple(row) for row in rows)
    return Seen(peak, refused, launches)
