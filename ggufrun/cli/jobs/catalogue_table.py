"""The catalogue as a table."""

from __future__ import annotations

from dataclasses import asdict

from ggufrun.cli.terminal import console, tables


def show(as_json: bool) -> None:
    """Print the models that can be fetched by name, and which of them are here."""
    from rich import box
    from rich.table import Table

    from ggufrun.errors import GgufrunError
    from ggufrun.hub.catalogue import ENTRIES
    from ggufrun.hub.models import all_models, find_by_name

    models = all_models()

    def is_here(asked: str) -> bool:
        try:
            return find_by_name(asked, models) is not None
        except GgufrunError:
            # several of that name
            return True

    here = {
        entry.name: is_here(entry.repo if entry.is_checkpoint else f"{entry.repo}:{entry.kind}") for entry in ENTRIES
    }
    if as_json:
        console.print_json([asdict(entry) | {"here": here[entry.name]} for entry in ENTRIES])
        return
    table = Table(box=box.SIMPLE_HEAD)
    for name in ("name", "parameters", "size", "type", "licence", "repository", "here"):
        right = name in ("parameters", "size")
        table.add_column(name, justify="right" if right else "left", overflow="fold", no_wrap=name == "name" or right)
    for entry in ENTRIES:
        kind = entry.kind.removesuffix(".gguf").rpartition("-")[2].upper() if ".gguf" in entry.kind else entry.kind
        table.add_row(
            entry.name,
            f"{entry.parameters:g} B",
            f"{entry.size:g} GB",
            kind,
            entry.license,
            entry.repo,
            "yes" if here[entry.name] else "",
        )
    tables.show(table, console.out())
    console.note("fetch one: ggufrun pull NAME, or ggufrun chat NAME")
