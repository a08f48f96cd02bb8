"""``quantize --fit`` at a terminal: which type is looked at, and what was considered as a table."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from ggufrun.cli.terminal import console, tables
from ggufrun.units import size_text

if TYPE_CHECKING:
    from ggufrun.quantize.plan import QuantizeOptions
    from ggufrun.quantize.types import FileType
    from ggufrun.workflows.fit_type import Fit, Limit


def chosen_type(
    source: Path, asked: Sequence[FileType], options: QuantizeOptions, limit: Limit
) -> tuple[FileType, Fit]:
    """The best of ``asked`` that fits; what was considered is shown. EngineError when none does."""
    from ggufrun.workflows.fit_type import choose_type, nothing_fits

    terminal = console.err().is_terminal
    opening = console.literal(f"{source.name}: what fits?")
    with console.err().status(opening) if terminal else nullcontext() as status:

        def on_type(file_type: FileType) -> None:
            if status is not None:
                status.update(console.literal(f"{source.name}: does {file_type.name} fit?"))

        fit = choose_type(source, asked, options, limit, on_type)
    show(source, fit, limit)
    if fit.chosen is None:
        raise nothing_fits(source, fit, limit)
    return fit.chosen, fit


def show(source: Path, fit: Fit, limit: Limit) -> None:
    """The table."""
    from rich import box
    from rich.table import Table

    title = f"{source.name}: what fits into {limit.asked} ({size_text(fit.limit)}) with {fit.context} tokens of context"
    console.err().print(console.literal(title))
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("type", no_wrap=True)
    for name in ("file", "bits", "in memory"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("", overflow="fold")
    word = "fits as it is" if fit.own_fits else "too large"
    table.add_row("the input", size_text(fit.own_weights), "", size_text(fit.own), word)
    for one in fit.considered:
        if one.problem:
            table.add_row(one.name, "", "", "", one.problem, style="dim")
            continue
        picked = fit.chosen is not None and one.name == fit.chosen.name
        word = "chosen" if picked else "fits" if one.fits else "too large"
        cells = (size_text(one.size or 0), f"{one.bits:.2f}", size_text(one.memory or 0))
        table.add_row(one.name, *cells, word, style="bold" if picked else "" if one.fits else "dim")
    tables.show(table, console.err())
