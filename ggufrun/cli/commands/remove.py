"""``ggufrun remove``: local models go, after a question."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ggufrun.cli.flags import common
from ggufrun.cli.terminal import ask, console
from ggufrun.errors import GgufrunError
from ggufrun.units import size_text

if TYPE_CHECKING:
    from ggufrun.hub.removal import Removal


def register(app: typer.Typer) -> None:
    """Add the command to ``app``, under Ollama's name for it too."""
    app.command("remove")(remove)
    app.command("rm", hidden=True)(remove)


def remove(
    names: Annotated[
        list[str],
        typer.Argument(
            autocompletion=common.model_names,
            metavar="NAME",
            help="Models of the local folder, or the paths of GGUF files.",
            show_default=False,
        ),
    ],
    yes: Annotated[bool, typer.Option("-y", "--yes", help="Remove without asking.")] = False,
    as_json: common.Json = False,
) -> None:
    """Remove models from the local folder.

    A GGUF goes with all its shards and with an importance matrix that was measured on it, a checkpoint with its folder,
    but for models of their own in there. Links go, and what they lead to stays. A model that is in use is left. Prints
    the paths.
    """
    from ggufrun.hub import removal

    found = list({one.path: one for name in names for one in _together(name)}.values())
    for one in found:
        removal.check_free(one)
    _ask(found, yes)
    gone: list[Removal] = []
    freed = 0
    try:
        for one in found:
            # it may have been opened while the question stood
            removal.check_free(one)
            size = one.size
            removal.carry_out(one)
            freed += size
            gone.append(one)
            if not as_json:
                console.print_path(one.path)
    finally:
        if as_json:
            console.print_json({"removed": [_as_dict(one) for one in gone], "bytes": freed})
    if not as_json:
        console.note(f"  {size_text(freed)} freed")
    _tell_of_cache(gone)


def _together(name: str) -> list[Removal]:
    """The model called ``name``, and the importance matrix that was measured on it and kept beside it."""
    from ggufrun.checkpoint.gguf.header import read_header
    from ggufrun.hub import removal
    from ggufrun.workflows.imatrix import MODEL_KEY, automatic_path, model_digest
    from ggufrun.workflows.targets import base_name

    model = removal.find(name)
    matrix = automatic_path(model.path.parent, base_name(model.path))
    if not model.is_gguf or model.is_link or model.path == matrix or not matrix.is_file():
        return [model]
    try:
        is_its = read_header(matrix).get(MODEL_KEY) == model_digest(model.path)
    except (GgufrunError, OSError):
        # one of the two is damaged, and nobody can tell
        is_its = False
    return [model, removal.find(str(matrix))] if is_its else [model]


def _ask(found: Sequence[Removal], yes: bool) -> None:
    """Show what would go, and ask. GgufrunError unless somebody agrees."""
    if yes:
        return
    what = "this model" if len(found) == 1 else f"these {len(found)} models"
    if not ask.at_terminal():
        raise GgufrunError("nothing was removed, as there is no terminal to ask at", f"--yes removes {what} unasked")
    for one in found:
        console.note(_line(one))
    if not ask.confirm(f"Remove {what}, and free {size_text(sum(one.size for one in found))}?", otherwise=False):
        raise GgufrunError("nothing was removed")


def _line(one: Removal) -> str:
    """``models/poet-F16.gguf: GGUF, 6.6 MiB``."""
    if one.is_link:
        return f"{one.path}: a link; what it leads to stays"
    size = f"{len(one.files)} files, {size_text(one.size)}" if len(one.files) > 1 else size_text(one.size)
    stays = f"; {', '.join(one.stays)} stays" if one.stays else ""
    return f"{one.path}: {one.kind}, {size}{stays}"


def _tell_of_cache(gone: Sequence[Removal]) -> None:
    """What the hub's cache, which is not ours alone, still has of a model."""
    from ggufrun.hub import client, removal

    for repo, size in dict.fromkeys(filter(None, map(removal.cached, gone))):
        console.note(f"the hub's cache still has {repo}, {size_text(size)}: `{client.removing(repo)}` removes it")


def _as_dict(one: Removal) -> dict[str, Any]:
    return {
        "name": one.name,
        "path": str(one.path),
        "kind": one.kind,
        "files": [str(path) for path in one.files],
        "stays": list(one.stays),
    }
