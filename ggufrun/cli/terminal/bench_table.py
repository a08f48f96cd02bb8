"""The table of ``ggufrun bench``: llama-bench's, and as much of it as a screen is wide."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

from ggufrun.cli.terminal import console

Columns = Sequence[tuple[str, int]]

COLUMNS: Columns = (
    ("model", -30),
    ("size", 10),
    ("params", 10),
    ("backend", -10),
    ("ngl", 3),
    ("threads", 7),
    ("fa", 3),
    ("test", 15),
    ("t/s", 20),
)
"""llama-bench's columns and their widths, negative for text that starts at the left."""

OPTIONAL = {"ngl", "fa"}
"""Columns that are there only when they are asked for."""

LESS = ("backend", "params", "threads", "size", "model")
"""Columns that go where the screen is too narrow, in this order, but for those that tell rows apart."""

NARROW = ({"model": -14, "test": 6, "t/s": 17}, {"t/s": 9})
"""Widths where even so there is no room; in the smallest the deviation goes."""


def columns(asked: Collection[str]) -> Columns:
    """What is shown on this screen, or in a pipe: all, but of the optional columns only those that are ``asked``."""
    found = [(name, width) for name, width in COLUMNS if name not in OPTIONAL or name in asked]
    if not console.out().is_terminal:
        return found
    for less in LESS:
        if _width(found) > console.out().width and less not in asked:
            found = [column for column in found if column[0] != less]
    for narrow in NARROW:
        if _width(found) > console.out().width:
            found = [(name, narrow.get(name, width)) for name, width in found]
    return found


def _width(shown: Columns) -> int:
    return 1 + sum(abs(width) + 3 for _, width in shown)


def print_head(shown: Columns) -> None:
    """Names, and the line below them."""
    _line(f" {_pad(name, width)} |" for name, width in shown)
    _line(f" {'-' * (abs(width) - 1)}{':' if width > 0 else '-'} |" for _, width in shown)


def print_row(row: dict[str, Any], shown: Columns) -> None:
    """One result."""
    size, parameters = row["model_size"], row["model_n_params"]
    cells = {
        "model": row["model_type"],
        "size": f"{size / 2**20:.2f} MiB" if size < 2**30 else f"{size / 2**30:.2f} GiB",
        "params": f"{parameters / 1e6:.2f} M" if parameters < 1e9 else f"{parameters / 1e9:.2f} B",
        "backend": row["backends"],
        "ngl": str(row["n_gpu_layers"]),
        "threads": str(row["n_threads"]),
        "fa": row["flash_attn"],
        "test": row["test"],
        "t/s": f"{row['avg_ts']:.2f}" + (f" ± {row['stddev_ts']:.2f}" if dict(shown)["t/s"] > NARROW[1]["t/s"] else ""),
    }
    _line(f" {_pad(cells[name], width)} |" for name, width in shown)


def _pad(text: str, width: int) -> str:
    return text.ljust(-width) if width < 0 else text.rjust(width)


def _line(cells: Iterable[str]) -> None:
    console.out().print(console.literal("|" + "".join(cells)), soft_wrap=True)
