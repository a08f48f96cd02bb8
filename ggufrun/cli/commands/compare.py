"""``ggufrun compare``: quantizations of one model, ranked by what they lost."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ggufrun.atomicfile import appearing
from ggufrun.cli.flags import common, measuring, placement
from ggufrun.cli.terminal import console, tables
from ggufrun.errors import TargetError
from ggufrun.units import size_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ggufrun.engine.chunks import ChunkParams
    from ggufrun.evaluate.plot import Point
    from ggufrun.evaluate.statistics import Comparison


COLUMNS = ("type", "size", "bits", "KLD", "±", "99%", "max", "same top", "RMS Δp", "PPL")
ONLY_WIDE = {"type", "bits", "±", "max"}
WIDE = 104
"""Characters that all columns take beside the name."""


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command()(placement.with_flags(compare))


@dataclass(frozen=True)
class Ranked:
    """One model of the table; ``size`` in bytes of file, ``bits`` a weight."""

    path: Path
    type: str
    size: int
    bits: float
    found: Comparison


def compare(
    reference_name: Annotated[
        str,
        typer.Argument(
            autocompletion=common.model_names,
            metavar="REFERENCE",
            help="GGUF file in full precision.",
            show_default=False,
        ),
    ],
    names: Annotated[
        list[str],
        typer.Argument(autocompletion=common.model_names, metavar="MODEL", help="Quantizations of REFERENCE."),
    ],
    text: measuring.TextFile = None,
    ctx_size: measuring.Length = 512,
    batch_size: measuring.Batch = 2048,
    ubatch_size: measuring.MicroBatch = 512,
    chunks: measuring.ChunkLimit = None,
    threads: measuring.Threads = None,
    place: placement.PlaceFlags = placement.PLAIN,
    svg: Annotated[
        Path | None,
        typer.Option(
            "--svg", metavar="FILE", readable=False, help="Draw a chart of size against divergence into an SVG file."
        ),
    ] = None,
    force: common.Force = False,
    as_json: common.Json = False,
) -> None:
    """Rank quantizations by what they lost.

    That is how far their predictions are from the reference's. The table is sorted by KL divergence, the smallest
    first.
    """
    from ggufrun.engine.chunks import ChunkParams
    from ggufrun.evaluate.text import SAMPLE

    params = ChunkParams(ctx_size, batch_size, ubatch_size, threads)
    reference = measuring.find(reference_name)
    sources = list(dict.fromkeys(map(measuring.find, names)))
    if svg is not None:
        _check_drawing(svg, force, [reference, *sources])
    whole = measuring.read_text(text, SAMPLE)
    measured = _measure(reference, sources, whole, params, chunks, place)
    ranked = sorted(measured, key=lambda one: one.found.kld.value)
    if svg is not None:
        _write_svg(svg, ranked, f"What quantization cost, beside {reference.name}")
    if as_json:
        console.print_json(
            {
                "reference": str(reference),
                "text": measuring.text_name(text, SAMPLE),
                "context": ctx_size,
                "models": [_as_dict(one) for one in ranked],
            }
        )
        return
    _print(reference, ranked)
    if svg is not None:
        console.note(f"drawn in {svg}")


def _check_drawing(path: Path, force: bool, models: Sequence[Path]) -> None:
    from ggufrun.convert.writer import check_targets

    try:
        check_targets([(path, 1 << 16)], force, models)
    except TargetError as error:
        raise TargetError(error.what, error.todo.replace("-o", "--svg")) from error


def _measure(
    reference: Path,
    sources: Sequence[Path],
    whole: str,
    params: ChunkParams,
    chunks: int | None,
    place: placement.PlaceFlags,
) -> list[Ranked]:
    from ggufrun.cli.terminal.watch import TERMINAL
    from ggufrun.convert.describe import describe
    from ggufrun.workflows.compare_models import compare_models

    described = [describe(path)[0] for path in sources]
    found = compare_models(reference, sources, whole, params, chunks, placement.where(place), TERMINAL)
    return [
        Ranked(path, about.file_type, about.file_bytes, about.bits_per_weight, one)
        for path, about, one in zip(sources, described, found, strict=True)
    ]


def _points(ranked: Sequence[Ranked]) -> list[Point]:
    from ggufrun.evaluate.plot import Point

    names = [one.type for one in ranked]
    labels = names if len(set(names)) == len(names) else [one.path.stem for one in ranked]
    return [Point(label, one.size, one.found.kld.value) for label, one in zip(labels, ranked, strict=True)]


def _write_svg(path: Path, ranked: Sequence[Ranked], title: str) -> None:
    from ggufrun.evaluate.plot import svg_plot

    with appearing(path) as temporary:
        temporary.write_bytes(svg_plot(_points(ranked), title).encode("utf-8", "replace"))


def _print(reference: Path, ranked: Sequence[Ranked]) -> None:
    from rich import box
    from rich.table import Table

    from ggufrun.evaluate.plot import letter, text_plot

    terminal = console.out().is_terminal
    base = ranked[0].found.reference
    title = f"beside {reference.name}: perplexity {base.value:.4f} ± {base.error:.4f}, {ranked[0].found.tokens} tokens"
    table = Table(title=console.literal(title), box=box.SIMPLE_HEAD, title_justify="left")
    if terminal:
        table.add_column("")
    table.add_column("model", overflow="fold")
    wide = not terminal or console.out().width >= WIDE + max(len(one.path.name) for one in ranked)
    columns = [name for name in COLUMNS if wide or name not in ONLY_WIDE]
    for name in columns:
        table.add_column(name, justify="left" if name == "type" else "right", no_wrap=True)
    for number, one in enumerate(ranked):
        found = one.found
        cells = {
            "type": one.type,
            "size": size_text(one.size),
            "bits": f"{one.bits:.2f}",
            "KLD": f"{found.kld.value:.6f}",
            "±": f"{found.kld.error:.6f}",
            "99%": f"{found.kld_spread.at(0.99):.4f}",
            "max": f"{found.kld_spread.maximum:.4f}",
            "same top": f"{100 * found.same_top.value:.2f}%",
            "RMS Δp": f"{100 * found.rms_change.value:.3f}%",
            "PPL": f"{found.perplexity.value:.4f}",
        }
        signs = [letter(number)] if terminal else []
        table.add_row(*signs, console.literal(one.path.name), *(cells[name] for name in columns))
    tables.show(table, console.out())
    if terminal and len(ranked) > 1:
        for line in text_plot(_points(ranked), width=min(72, console.out().width - 10)):
            console.say(line)


def _as_dict(one: Ranked) -> dict[str, Any]:
    from ggufrun.cli.jobs.comparison import as_dict

    return {
        "path": str(one.path),
        "type": one.type,
        "bytes": one.size,
        "bits_per_weight": round(one.bits, 3),
    } | as_dict(one.found)
