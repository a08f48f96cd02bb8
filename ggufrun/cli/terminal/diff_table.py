"""``ggufrun inspect FILE --diff OTHER``: what two models do not have in common."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ggufrun.cli.terminal import console, tables
from ggufrun.cli.terminal.progress import bytes_bar

if TYPE_CHECKING:
    from rich.table import Table

    from ggufrun.convert.difference import Difference, TensorDifference

SHOWN = 20
"""Tensors that are listed unless all are asked for: those that differ most."""


def show(left: Path, right: Path, all_tensors: bool, as_json: bool) -> None:
    """Compare two models and print the result; nothing is said of what is the same but how much it is."""
    from ggufrun.convert.difference import bytes_to_read, compare, opened

    with (
        opened(left) as one,
        opened(right) as two,
        bytes_bar(bytes_to_read(one, two), "comparing") as advance,
    ):
        found = compare(one, two, on_progress=advance)
    if as_json:
        console.print_json(_json(found))
        return
    if found.keys:
        tables.show(_keys(found, left, right), console.out())
    if found.tensors:
        listed = found.tensors if all_tensors else sorted(found.tensors, key=_weight)[:SHOWN]
        tables.show(_tensors([item for item in found.tensors if item in listed], left, right), console.out())
        if len(listed) < len(found.tensors):
            console.note(f"and {len(found.tensors) - len(listed)} tensors that differ less; --tensors lists all")
    console.say(_summary(found))


def _summary(found: Difference) -> str:
    if found.none:
        return f"the same: {found.same_keys} keys and {found.same_tensors} tensors, to the last bit"
    return (
        f"keys: {len(found.keys)} differ, {found.same_keys} are the same; "
        f"tensors: {len(found.tensors)} differ, {found.same_tensors} are the same"
    )


def _weight(item: TensorDifference) -> float:
    """What differs most comes first: shapes and absence, then values that are not numbers, then errors."""
    if item.error is None:
        return -math.inf
    return -1e300 if math.isnan(item.error) else -item.error


def _keys(found: Difference, left: Path, right: Path) -> Table:

    table = _table("key", _name(left, right), _name(right, left))
    for item in found.keys:
        table.add_row(
            console.literal(item.key),
            *("-" if side is None else console.literal(side) for side in (item.left, item.right)),
        )
    return table


def _tensors(items: list[TensorDifference], left: Path, right: Path) -> Table:

    table = _table("tensor", _name(left, right), _name(right, left))
    table.add_column("relative error", justify="right", no_wrap=True)
    for item in items:
        sides = [_side(side, shape=item.error is None) for side in (item.left, item.right)]
        table.add_row(console.literal(item.name), *sides, _error(item.error))
    return table


def _side(side: tuple[str, tuple[int, ...]] | None, shape: bool) -> str:
    if side is None:
        return "-"
    return f"{side[0]} {' x '.join(map(str, side[1]))}" if shape else side[0]


def _error(error: float | None) -> str:
    if error is None:
        return "-"
    return "not finite" if not math.isfinite(error) else f"{error:.2e}" if error < 1e-4 else f"{error:.6f}"


def _name(path: Path, other: Path) -> str:
    """A file's name, with its folder where the two files are called alike."""
    return path.name if path.name != other.name else str(path)


def _table(*columns: str) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    for name in columns:
        table.add_column(console.literal(name), overflow="fold")
    return table


def _json(found: Difference) -> dict[str, Any]:
    def side(value: tuple[str, tuple[int, ...]] | None) -> dict[str, Any] | None:
        return None if value is None else {"type": value[0], "shape": list(value[1])}

    return {
        "same": found.none,
        "same_keys": found.same_keys,
        "same_tensors": found.same_tensors,
        "keys": [{"key": item.key, "left": item.left, "right": item.right} for item in found.keys],
        "tensors": [
            {
                "name": item.name,
                "left": side(item.left),
                "right": side(item.right),
                # JSON knows no infinity
                "error": item.error if item.error is not None and math.isfinite(item.error) else None,
            }
            for item in found.tensors
        ],
    }
