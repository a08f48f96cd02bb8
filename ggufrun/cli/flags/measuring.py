"""What the measuring commands share: their options, the text, models opened for it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ggufrun.cli.flags import placement
from ggufrun.cli.flags.placement import PlaceFlags
from ggufrun.cli.terminal import console
from ggufrun.workflows import textfile

if TYPE_CHECKING:
    from ggufrun.engine.chunks import ChunkParams
    from ggufrun.engine.context import ContextParams
    from ggufrun.engine.model import Model

TextFile = Annotated[
    Path | None,
    typer.Option(
        "-f",
        "--file",
        metavar="TEXT",
        readable=False,
        help="File with the text to measure on.  [default: a short built-in text]",
    ),
]
Length = Annotated[int, typer.Option("-c", "--ctx-size", help="Length of a chunk in tokens.")]
Batch = Annotated[
    int,
    typer.Option(
        "-b", "--batch-size", help="Largest number of tokens in one call: several chunks, or part of a chunk."
    ),
]
MicroBatch = Annotated[int, typer.Option("-ub", "--ubatch-size", help="Largest number of tokens computed at once.")]
ChunkLimit = Annotated[
    int | None, typer.Option("--chunks", metavar="N", min=1, help="Measure only the first N chunks.")
]
Threads = Annotated[
    int | None,
    typer.Option("-t", "--threads", metavar="N", min=1, max=512, help="Number of threads.  [default: one per core]"),
]
CacheK = Annotated[str, typer.Option("-ctk", "--cache-type-k", help="Data type of the cached keys.")]
CacheV = Annotated[str, typer.Option("-ctv", "--cache-type-v", help="Data type of the cached values.")]
FlashAttention = Annotated[str, typer.Option("-fa", "--flash-attn", metavar="on|off|auto", help="Use flash attention.")]


def find(name: str | Path) -> Path:
    """The GGUF that MODEL means, a path or a model of the local folder by its name, if it is a sound one."""
    from ggufrun.hub import resolve_model
    from ggufrun.workflows.open_model import check_file

    path = resolve_model(str(name), gguf_only=True)
    check_file(path)
    return path


def read_text(path: Path | None, builtin: str) -> str:
    """The text at ``path`` as its bytes say it, or the one called ``builtin`` that comes with the package."""
    if path is None:
        from ggufrun.evaluate.text import builtin_text

        return builtin_text(builtin)
    return textfile.read(path, f"-f {path}", textfile.MAX_MEASURED)


def text_name(path: Path | None, builtin: str) -> str:
    """What a result says that it was measured on."""
    if path is None:
        return f"ggufrun {builtin}"
    if str(path) == "-":
        return "stdin"
    # of a name that is not text, what a GGUF can hold
    return str(path).encode("utf-8", "replace").decode()


def open_model(
    path: Path, place: PlaceFlags, context: ContextParams | ChunkParams, beside: Sequence[Model] = ()
) -> Model:
    """A model where it fits with such a context. ``beside`` are open models that will have theirs too."""
    from ggufrun.engine.context import ContextParams
    from ggufrun.engine.model import Model
    from ggufrun.workflows import open_model as workflow

    wanted = context if isinstance(context, ContextParams) else workflow.context_for_chunks(context)
    params = placement.params(path, place)
    margin = workflow.margin_with(params, wanted, beside, placement.margin(place))
    return workflow.open_model(params, wanted, margin, Model, console.note)
