"""Tables on screens that are too narrow for them."""

from __future__ import annotations

import io

import pytest
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ggufrun.cli.terminal import bench_table, console, tables


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


@pytest.mark.parametrize("width", [40, 60, 80, 100, 130])
@pytest.mark.parametrize("asked", [set(), {"model"}, {"model", "threads"}])
def test_the_table_of_bench_fits_the_screen(
    width: int, asked: set[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What tells its rows apart stays, unless there is no room for that; a pipe gets all of llama-bench's columns."""
    screen = Console(width=width, force_terminal=True, color_system=None)
    monkeypatch.setattr(console, "out", lambda: screen)
    row = {
        "model_size": 7 << 30,
        "model_n_params": 7e9,
        "model_type": "llama 7B Q4_0",
        "backends": "CPU",
        "n_gpu_layers": -1,
        "n_threads": 8,
        "flash_attn": "auto",
        "test": "pp512",
        "avg_ts": 1234.5,
        "stddev_ts": 1.25,
    }
    shown = bench_table.columns(asked)
    bench_table.print_head(shown)
    bench_table.print_row(row, shown)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 and len({len(line) for line in lines}) == 1
    assert len(lines[0]) <= width or (width, asked) == (40, {"model", "threads"})
    assert "pp512" in lines[2] and "1234.50" in lines[2]
    assert ("llama 7B Q4_0" in lines[2]) == ("model" in asked or width >= 80)
    assert (" ± 1.25" in lines[2]) == (width > 40 or not asked)
    wide = Console(width=width, force_terminal=False)
    monkeypatch.setattr(console, "out", lambda: wide)
    assert len(bench_table.columns(asked)) == len(bench_table.COLUMNS) - 2
