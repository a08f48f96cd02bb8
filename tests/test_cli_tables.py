"""Tables on screens that are too narrow for them."""

from __future__ import annotations

import io

import pytest
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ggufrun.cli import tables


def shown(width: int, terminal: bool = True) -> str:
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("name", overflow="fold")
    table.add_column("parameters", justify="right", no_wrap=True)
    table.add_column("", overflow="fold")
    table.add_row(Text("a[bold]long-name-without-any-space"), "3,410,176", "")
    table.add_row("模型", "7,000,000,000", "damaged")
    console = Console(file=io.StringIO(), width=width, force_terminal=terminal, color_system=None)
    tables.show(table, console)
    assert isinstance(console.file, io.StringIO)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines())


@pytest.mark.parametrize("width", [42, 60, 100])
def test_where_there_is_room_it_is_a_table(width: int) -> None:
    lines = shown(width).splitlines()
    assert "name" in lines[1] and "parameters" in lines[1]
    assert sum("3,410,176" in line for line in lines) == 1 and any("7,000,000,000" in line for line in lines)
    assert "".join(line[:20].strip() for line in lines).count("a[bold]") == 1


@pytest.mark.parametrize("width", [12, 24, 36])
def test_else_a_list(width: int) -> None:
    text = shown(width)
    assert "─" not in text
    if width == 36:
        assert text.splitlines() == [
            "",
            "name        a[bold]long-name-without",
            "            -any-space",
            "parameters  3,410,176",
            "",
            "name        模型",
            "parameters  7,000,000,000",
            "            damaged",
        ]


def test_a_pipe_gets_the_table() -> None:
    assert "─" in shown(36, terminal=False)
