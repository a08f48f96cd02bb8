"""``ggufrun pull``: a GGUF or a checkpoint comes from the hub."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ggufrun.cli.flags import common
from ggufrun.cli.terminal import console
from ggufrun.cli.terminal.progress import fetch_bar
from ggufrun.units import size_text

if TYPE_CHECKING:
    from ggufrun.hub.ids import HubId
    from ggufrun.hub.select import GgufSet


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command()(pull)


def _names(incomplete: str) -> list[str]:
    from ggufrun.hub import catalogue

    return catalogue.completions(incomplete)


def pull(
    repo: Annotated[
        str,
        typer.Argument(
            autocompletion=_names,
            metavar="REPO[:TYPE]",
            help="org/name, org/name:Q4_K_M, or a name of the catalogue.",
            show_default=False,
        ),
    ],
    revision: Annotated[
        str | None, typer.Option("--revision", metavar="R", help="Branch, tag or commit to download.  [default: main]")
    ] = None,
    source: Annotated[
        str | None,
        typer.Option("--from", metavar="SOURCE", help="Site to download from: hub or modelscope.  [default: hub]"),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", metavar="DIR", readable=False, help="Folder for the files.  [default: MODELS/org/name]"
        ),
    ] = None,
    force: common.Force = False,
    as_json: common.Json = False,
) -> None:
    """Fetch a GGUF or a checkpoint from the hub, or from ModelScope.

    REPO is an id or a name of the catalogue (ggufrun list --catalogue). TYPE picks among GGUF files; without it the
    only one, or Q4_K_M. A repository without GGUF files gives its checkpoint. A cut transfer resumes where it stopped,
    and every file is checked against the digest that the server gives. What LM Studio, Ollama or another program has
    fetched already is not downloaded again. Prints the model's path.
    """
    from dataclasses import replace

    from ggufrun import hub
    from ggufrun.errors import TargetError, UsageError
    from ggufrun.hub.client import ConnectionLostError
    from ggufrun.hub.ids import HUB, MODELSCOPE
    from ggufrun.hub.models import models_folder

    spec = _spec(repo)
    if source is not None:
        if source.lower() not in (HUB, MODELSCOPE):
            raise UsageError(f"--from {source} is not a source", f"write {HUB} or {MODELSCOPE}")
        spec = replace(spec, source=source.lower())
    if revision and spec.revision:
        raise UsageError("the revision is given twice, by @ and by --revision", "give it once")
    spec = replace(spec, revision=revision or spec.revision)
    folder = output or models_folder() / spec.repo
    if folder.exists() and not folder.is_dir():
        raise TargetError(f"{folder} is a file", "name a folder with -o")
    chosen: list[GgufSet] = []
    try:
        with fetch_bar() as on_progress:
            found = hub.obtain(
                spec,
                hub.gguf_or_checkpoint(spec.kind, chosen.append),
                on_progress=on_progress,
                on_note=console.warn,
                folder=folder,
                force=force,
            )
    except ConnectionLostError as error:
        path = _copy_here(spec) if output is None else None
        if path is None:
            raise
        console.warn(f"{error.what}; using the copy on this machine")
        if as_json:
            console.print_json({"repo": spec.repo, "commit": None, "path": str(path), "received": 0})
        else:
            console.print_path(path)
        return
    paths = [found.folder / name for name in found.files]
    joined = found.folder / chosen[0].joined if chosen and chosen[0].joined else None
    if joined is not None:
        from ggufrun.workflows.join import join_pieces

        if join_pieces(paths, joined):
            console.note(f"  {len(paths)} pieces joined into {joined.name}")
        paths = [joined]
    model = paths[0] if chosen else found.folder
    size = sum(path.stat().st_size for path in paths)
    if as_json:
        console.print_json(
            {
                "repo": spec.repo,
                "commit": found.commit,
                "path": str(model),
                "type": chosen[0].kind if chosen else None,
                "files": [str(path) for path in paths],
                "bytes": size,
                "received": found.received,
                "taken": dict(found.taken),
            }
        )
        return
    console.print_path(model)
    kind = f"{chosen[0].kind or 'GGUF'}, " if chosen else "checkpoint, "
    there = f"{found.received} received, digests match" if found.received else "nothing to download"
    if found.taken:
        there += f"; {len(found.taken)} already in {' and '.join(dict.fromkeys(store for _, store in found.taken))}"
    elif not found.received:
        there = "all there already"
    files = f"{len(paths)} file{'s' if len(paths) > 1 else ''}"
    console.note(f"  {kind}{files}, {size_text(size)}; {there}; commit {found.commit[:10]}")


def _spec(text: str) -> HubId:
    """What is asked for, by an id or by a name of the catalogue."""
    from dataclasses import replace

    from ggufrun import hub
    from ggufrun.errors import UsageError
    from ggufrun.hub import catalogue

    if found := catalogue.find_with_type(text):
        entry, kind = found
        if entry.is_checkpoint:
            console.note(f"{entry.name} is a checkpoint; convert it then: ggufrun convert {entry.repo} -t q4_k_m")
        return replace(entry.spec, kind=kind or entry.spec.kind)
    try:
        return hub.parse(text)
    except UsageError as error:
        if family := catalogue.similar(text):
            raise UsageError(f"{text} is a family of models", f"write one of {', '.join(family)}") from error
        raise


def _copy_here(spec: HubId) -> Path | None:
    """The model on this machine, in whatever store, that an id of the hub means; None where none is whole."""
    from ggufrun.errors import NotFoundError
    from ggufrun.hub.models import resolve_model

    if spec.revision:
        return None
    try:
        return resolve_model(spec.repo + (f":{spec.kind}" if spec.kind else ""))
    except NotFoundError:
        return None
