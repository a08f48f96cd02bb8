"""``ggufrun split`` and ``ggufrun merge``: the same tensors in another number of files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ggufrun.cli.flags import common, records


def register(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    app.command()(records.with_records_expanded(split))
    app.command()(records.with_records_expanded(merge))


Model = Annotated[
    str, typer.Argument(autocompletion=common.model_names, metavar="FILE", help="GGUF file.", show_default=False)
]
Output = Annotated[
    Path | None,
    typer.Option("-o", "--output", metavar="PATH", parser=common.output_path, help="File to write, or its folder."),
]


def split(
    model: Model,
    max_size: Annotated[
        str | None, typer.Option("--max-size", "--split-max-size", metavar="SIZE", help="Of each file, such as 4G.")
    ] = None,
    max_tensors: Annotated[
        int | None,
        typer.Option("--max-tensors", "--split-max-tensors", metavar="N", min=1, help="In each file.  [default: 128]"),
    ] = None,
    output: Output = None,
    how: common.WriteFlags = common.AS_USUAL,
) -> None:
    """Split a GGUF into several files.

    They are those that llama-gguf-split writes, and no tensor changes. Every program that is given the first file finds
    the others next to it.
    """
    from ggufrun.cli.jobs.output import write
    from ggufrun.convert.repack import plan_split
    from ggufrun.errors import UsageError
    from ggufrun.hub import resolve_model
    from ggufrun.units import parse_size

    if max_size and max_tensors:
        raise UsageError("--max-size and --max-tensors exclude each other", "give one of them")
    path = resolve_model(model, gguf_only=True)
    limit = parse_size(max_size) if max_size else None
    write(plan_split(path, _target(path, path.name, output), limit, max_tensors), how)


def merge(model: Model, output: Output = None, how: common.WriteFlags = common.AS_USUAL) -> None:
    """Merge the parts of a split GGUF.

    One file is written, no tensor changes, and the parts stay.
    """
    from ggufrun.checkpoint.gguf.source import SPLIT_NAME
    from ggufrun.cli.jobs.output import write
    from ggufrun.convert.repack import plan_merge
    from ggufrun.hub import resolve_model

    path = resolve_model(model, gguf_only=True)
    name = SPLIT_NAME.fullmatch(path.name)
    whole = f"{name['stem']}.gguf" if name else path.name
    write(plan_merge(path, _target(path, whole, output)), how)


def _target(path: Path, name: str, output: Path | None) -> Path:
    """The file that is named, or ``name`` in the folder that is, or next to the input."""
    if output is None:
        return path.with_name(name)
    return output / name if output.is_dir() else output
