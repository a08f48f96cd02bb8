"""``ggufrun list``: the models on this machine."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ggufrun.cli.flags import common
from ggufrun.cli.terminal import console, tables
from ggufrun.errors import GgufrunError
from ggufrun.units import size_text

if TYPE_CHECKING:
    from ggufrun.hub.scan import LocalModel


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command("list")(list_models)


def list_models(
    folder: Annotated[
        Path | None, typer.Argument(help="Show the models of this folder only.", show_default=False, readable=False)
    ] = None,
    catalogue: Annotated[
        bool, typer.Option("--catalogue", help="Show well-known models that pull and chat fetch by name.")
    ] = False,
    as_json: common.Json = False,
) -> None:
    """Show the models on this machine.

    These are the models folder (GGUFRUN_MODELS, else ./models if there is one, else ggufrun's folder among your data),
    the current folder, and what LM Studio, Ollama, the hub's client and llama.cpp keep. Names work wherever a command
    takes a MODEL. Shards count as one model; what is damaged or incomplete is marked.
    """
    from ggufrun.cli.jobs import catalogue_table
    from ggufrun.errors import NotFoundError, UsageError
    from ggufrun.hub.models import all_models, models_folder
    from ggufrun.hub.scan import scan, stopped

    if catalogue:
        if folder is not None:
            raise UsageError("--catalogue shows no folder", "leave one of them out")
        catalogue_table.show(as_json)
        return
    place = folder or models_folder()
    if folder is not None and not folder.is_dir():
        raise NotFoundError(f"no such folder: {folder}", "check the path")
    rows: list[dict[str, Any]] = []
    if place.is_dir():
        # a folder below that cannot be read has nothing to show, but for this one that would be no answer
        next(place.iterdir(), None)
    found = scan(place) if folder is not None else all_models()
    rows = [_row(model) for model in found]
    cut = {name: part.stat().st_size for name, part in stopped(place).items()}
    if as_json:
        more = {"stopped": [{"name": name, "bytes": size} for name, size in cut.items()]} if cut else {}
        console.print_json({"folder": str(place), "models": rows, **more})
        return
    for name, size in cut.items():
        # only what is in the models folder goes by its name
        rid = f", or `ggufrun rm {name}`" if folder is None else ""
        console.note(f"{name}: a pull was stopped after {size_text(size)}; pull it again to continue{rid}")
    if not rows:
        console.note(f"no models in {place}; fetch one with `ggufrun pull org/name:Q4_K_M`")
        return
    tables.show(_table(rows), console.out())
    if any(row["store"] is None for row in rows):
        console.note(f"in {place}")


def _row(model: LocalModel) -> dict[str, Any]:
    """What is shown of a model; a number or word that the files do not tell is None."""
    from ggufrun.errors import GgufrunError, UnsupportedError

    row: dict[str, Any] = {
        "name": model.name,
        "path": str(model.path),
        "kind": "GGUF" if model.is_gguf else "checkpoint",
        "type": model.type or None,
        "bytes": model.size,
        "files": len(model.files),
        "architecture": None,
        "parameters": None,
        "modified": datetime.fromtimestamp(model.modified).astimezone().isoformat(timespec="seconds"),
        "store": model.store or None,
        "problem": None,
    }
    if model.missing:
        row["problem"] = f"incomplete: {len(model.missing)} files missing, such as {model.missing[0]}"
    try:
        row |= _gguf(model) if model.is_gguf else _checkpoint(model)
    except UnsupportedError as error:
        # whole, but not for this release
        row["problem"] = row["problem"] or error.what
    except GgufrunError as error:
        row["problem"] = row["problem"] or f"damaged: {error.what}"
    except OSError as error:
        row["problem"] = row["problem"] or f"unreadable: {error.strerror}"
    return row


def _gguf(model: LocalModel) -> dict[str, Any]:
    from math import prod

    from ggufrun.checkpoint.gguf.checks import NO_MODELS, kind_of
    from ggufrun.checkpoint.gguf.header import read_header
    from ggufrun.quantize.types import name_of

    headers = [read_header(path) for path in model.files]
    file_type, kind = headers[0].get("general.file_type"), kind_of(headers[0])
    known = name_of(file_type) if isinstance(file_type, int) else model.type or None
    return {
        "type": kind if kind in NO_MODELS else known,
        "architecture": headers[0].architecture or None,
        "parameters": sum(prod(info.shape) for header in headers for info in header.tensors),
    }


def _checkpoint(model: LocalModel) -> dict[str, Any]:
    from collections import Counter

    from ggufrun.checkpoint.open import open_checkpoint

    found: dict[str, Any] = {"architecture": _architecture(model.path)}
    if model.missing:
        return found
    if not (model.path / "config.json").exists() and (model.path / "adapter_config.json").is_file():
        return found | {"type": "adapter"}
    source = open_checkpoint(model.path)
    try:
        sizes: Counter[str] = Counter()
        for tensor in source.tensors.values():
            sizes[tensor.dtype] += tensor.n_values
    finally:
        source.close()
    return found | {"type": sizes.most_common(1)[0][0] if sizes else None, "parameters": sizes.total()}


def _architecture(folder: Path) -> str | None:
    from ggufrun.checkpoint.jsonfile import read_object

    try:
        config = read_object(folder / "config.json")
    except (OSError, GgufrunError):
        return None
    names = config.get("architectures") or [config.get("model_type")]
    return names[0][:60] if isinstance(names, list) and isinstance(names[0], str) else None


LESS = ("modified", "architecture", "parameters")
"""Columns that go where the names have no room, in this order."""


def _table(rows: list[dict[str, Any]]) -> Any:
    """All columns, or those that leave the names whole on this screen."""
    out = console.out()
    wide = out.options.update(width=10_000, max_width=10_000)
    table = _made(rows, ())
    for count in range(1, len(LESS) + 1):
        if not out.is_terminal or out.measure(table, options=wide).maximum <= out.width:
            break
        table = _made(rows, LESS[:count])
    return table


def _made(rows: list[dict[str, Any]], without: tuple[str, ...]) -> Any:
    from rich import box
    from rich.table import Table

    from ggufrun.hub.stores import label

    table = Table(box=box.SIMPLE_HEAD)
    columns = ["name", "type", "size", "architecture", "parameters", "modified"]
    if any(row["store"] for row in rows):
        columns.append("kept by")
    if any(row["problem"] for row in rows):
        columns.append("problem")
    shown = [name for name in columns if name not in without]
    for name in shown:
        right = name in ("size", "parameters")
        table.add_column(name, justify="right" if right else "left", overflow="fold", no_wrap=right)
    for row in rows:
        parameters = row["parameters"]
        cells = {
            "name": console.literal(row["name"]),
            "type": console.literal(row["type"] or "?"),
            "size": size_text(row["bytes"]),
            "architecture": console.literal(row["architecture"] or "?"),
            "parameters": f"{parameters:,}" if parameters is not None else "?",
            "modified": row["modified"][:16].replace("T", " "),
            "kept by": label(row["store"]) if row["store"] else "",
            "problem": console.literal(row["problem"] or "", "red"),
        }
        table.add_row(*(cells[name] for name in shown))
    return table
