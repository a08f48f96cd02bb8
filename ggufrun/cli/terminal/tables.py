"""Tables on screens of any width."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

NARROWEST = 10
"""Cells that a column whose text may be broken is given at least."""


def show(table: Table, console: Console) -> None:
    """Print ``table``, all of whose cells are texts. Where the screen is too narrow, each row becomes a list of its
    cells, one below the other, so that no number is cut.
    """
    if not console.is_terminal or _least(table) <= console.width:
        console.print(table)
        return
    if table.title:
        console.print(_text(table.title))
    for record in _records(table):
        console.print()
        console.print(record)


def _cells(table: Table) -> list[list[Text]]:
    """A list a column, its head first."""
    return [[_text(cell) for cell in (column.header, *column.cells)] for column in table.columns]


def _text(cell: object) -> Text:
    from rich.text import Text

    return cell if isinstance(cell, Text) else Text.from_markup(str(cell))


def _least(table: Table) -> int:
    """Cells of width with which the table can be read."""
    total = 1
    for column, cells in zip(table.columns, _cells(table), strict=True):
        whole = max(cell.cell_len for cell in cells)
        total += 3 + (whole if column.no_wrap else min(whole, NARROWEST))
    return total


def _records(table: Table) -> Iterator[Table]:
    """Each row as a small table of heads and cells; cells that are empty are left out."""
    from rich.table import Table as Grid

    columns = _cells(table)
    heads = [column[0] for column in columns]
    for row in zip(*(column[1:] for column in columns), strict=True):
        grid = Grid.grid(padding=(0, 2, 0, 0))
        grid.add_column(style="dim", no_wrap=True, min_width=max(head.cell_len for head in heads))
        grid.add_column(overflow="fold")
        for head, cell in zip(heads, row, strict=True):
            if cell.plain:
                grid.add_row(head, cell)
        yield grid
