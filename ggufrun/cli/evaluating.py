"""What the measuring commands share: their options, the text, models opened for it, progress."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from ggufrun.cli import console
from ggufrun.errors import NotFoundError, UsageError

if TYPE_CHECKING:
    from ggufrun.engine.chunks import ChunkParams
    from ggufrun.engine.model import Model

TextFile = Annotated[
    Path | None,
    typer.Option("-f", "--file", metavar="TEXT", help="Text to measure on.  [default: a short one of our own]"),
]
Length = Annotated[int, typer.Option("-c", "--ctx-size", help="Tokens a chunk.")]
Batch = Annotated[int, typer.Option("-b", "--batch-size", help="Tokens a batch: several chunks, or part of one.")]
MicroBatch = Annotated[int, typer.Option("-ub", "--ubatch-size", help="Tokens computed at once.")]
ChunkLimit = Annotated[int | None, typer.Option("--chunks", min=1, help="Measure on the first N chunks only.")]
Threads = Annotated[
    int | None, typer.Option("-t", "--threads", min=1, max=512, help="Threads.  [default: the processor's cores]")
]
GpuLayers = Annotated[
    int | None, typer.Option("-ngl", "--n-gpu-layers", help="Layers on the GPU.  [default: all, if there is one]")
]
FlashAttention = Annotated[str, typer.Option("-fa", "--flash-attn", metavar="on|off|auto", help="Flash attention.")]

T = TypeVar("T")


def find(name: str | Path) -> Path:
    """The GGUF that MODEL means: a path, or a model of the local folder by its name."""
    from ggufrun.hub import resolve_model

    return resolve_model(str(name), gguf_only=True)


def read_text(path: Path | None, builtin: str) -> str:
    """The text at ``path`` as its bytes say it, or the one called ``builtin`` that comes with the package."""
    if path is None:
        from ggufrun.evaluate.text import builtin_text

        return builtin_text(builtin)
    if path.is_dir():
        raise NotFoundError(f"{path} is a folder", "give the path of a text file")
    try:
        return path.read_bytes().decode("utf-8", "surrogateescape")
    except FileNotFoundError as error:
        raise NotFoundError(f"no such file: {path}", "check the path") from error


def text_name(path: Path | None, builtin: str) -> str:
    """What a result says that it was measured on."""
    return str(path) if path is not None else f"ggufrun {builtin}"


def open_model(path: Path, gpu_layers: int | None) -> Model:
    """A model, ready to run."""
    from ggufrun.engine.model import Model, ModelParams

    if path.is_dir():
        raise UsageError(f"{path} is a folder", "convert it first, and give the .gguf file")
    return Model(ModelParams(path, gpu_layers))


def announce(count: int, params: ChunkParams) -> None:
    """One line about the work ahead."""
    console.note(f"{count} chunks of {params.length} tokens, {params.at_once} at once")


@contextmanager
def progress(work: Generator[T, None, None], total: int, what: str, talks: bool = False) -> Iterator[Iterator[T]]:
    """``work``, with a bar and the time left on stderr of a terminal; closed at the end, before its models are.

    ``talks`` says that results are printed meanwhile: where these are seen, there is no bar.
    """
    with closing(work):
        if not console.err().is_terminal or (talks and console.out().is_terminal):
            yield work
            return
        from rich import progress

        bar = progress.Progress(
            progress.TextColumn("{task.description}"),
            progress.BarColumn(bar_width=None),
            progress.MofNCompleteColumn(),
            progress.TextColumn("ETA"),
            progress.TimeRemainingColumn(compact=True),
            console=console.err(),
            transient=True,
            # else it takes what is meant for a pipe
            redirect_stdout=False,
        )
        with bar:
            yield iter(bar.track(work, total=total, description=what))
