"""``ggufrun imatrix``: measure which columns of a model's matrices matter, for a better quantization."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ggufrun.cli.flags import common, measuring, placement
from ggufrun.cli.terminal import console
from ggufrun.errors import UsageError

if TYPE_CHECKING:
    from ggufrun.quantize.imatrix import Imatrix


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command()(placement.with_flags(imatrix))


def imatrix(
    sources: Annotated[
        list[str],
        typer.Argument(
            autocompletion=common.model_names, metavar="MODEL", help="GGUF file; with --merge, importance matrices."
        ),
    ],
    text: measuring.TextFile = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="PATH",
            parser=common.output_path,
            help="File to write, or folder for the file.  [default: NAME-imatrix.gguf here]",
        ),
    ] = None,
    merge: Annotated[
        bool, typer.Option("--merge", help="Add up several matrices; -o FILE.dat writes the older format.")
    ] = False,
    ctx_size: measuring.Length = 512,
    batch_size: measuring.Batch = 2048,
    ubatch_size: measuring.MicroBatch = 512,
    chunks: measuring.ChunkLimit = None,
    from_chunk: Annotated[
        int, typer.Option("--from-chunk", metavar="N", min=0, help="Skip the first N chunks of the text.")
    ] = 0,
    process_output: Annotated[
        bool, typer.Option("--process-output", help="Also collect data for output.weight.")
    ] = False,
    parse_special: Annotated[
        bool, typer.Option("--parse-special", help="Parse the names of special tokens in the text.")
    ] = (False),
    save_every: Annotated[
        int,
        typer.Option("--save-every", metavar="N", min=0, help="Save the matrix every N chunks; 0 for only at the end."),
    ] = 10,
    threads: measuring.Threads = None,
    flash_attention: measuring.FlashAttention = "auto",
    type_k: measuring.CacheK = "f16",
    type_v: measuring.CacheV = "f16",
    place: placement.PlaceFlags = placement.PLAIN,
    force: common.Force = False,
    resume: Annotated[bool, typer.Option("--resume", help="Continue an interrupted run that had these settings.")] = (
        False
    ),
) -> None:
    """Measure which columns of a model's matrices matter.

    The importance matrix is the file that llama-imatrix writes, and llama-quantize and `ggufrun quantize --imatrix`
    read. Ctrl+C saves what is there. What was measured before is left as it is.
    """
    from ggufrun.hub import resolve_model
    from ggufrun.workflows.targets import base_name

    if merge:
        _merge([resolve_model(name) for name in sources], output, force)
        return
    if len(sources) != 1:
        raise UsageError(f"{len(sources)} models are given", "give one, or --merge for importance matrices")
    source = measuring.find(sources[0])
    target = output or Path(f"{base_name(source)}-imatrix.gguf")
    if target.suffix == ".dat":
        raise UsageError(
            "the older format has no room for what --resume needs",
            "write a .gguf, then ggufrun imatrix --merge FILE.gguf -o FILE.dat",
        )
    if target.is_dir():
        target = target / f"{base_name(source)}-imatrix.gguf"

    from ggufrun.cli.terminal.watch import TERMINAL
    from ggufrun.convert.writer import check_targets
    from ggufrun.engine.chunks import ChunkParams
    from ggufrun.evaluate.text import CALIBRATION
    from ggufrun.workflows.imatrix import Collection, collect, finished

    params = ChunkParams(ctx_size, batch_size, ubatch_size, threads, flash_attention, type_k, type_v)
    work = Collection(
        placement.params(source, place),
        target,
        measuring.read_text(text, CALIBRATION),
        measuring.text_name(text, CALIBRATION),
        params,
        placement.margin(place),
        chunks,
        from_chunk,
        process_output,
        parse_special,
        save_every,
    )
    found = None if force else finished(work)
    if found is not None:
        console.note(f"{target} was measured before, on the same model and text; --force measures it again")
    else:
        check_targets([(target, 0)], force or resume, [source])
        found = collect(work, resume, TERMINAL)
    _report(target, found)


def _report(target: Path, result: Imatrix) -> None:
    console.print_path(target)
    chunks = f"{result.chunk_count} chunk{'s' if result.chunk_count != 1 else ''}"
    console.note(f"  {len(result.entries)} matrices, {chunks} of {result.chunk_size} tokens")
    idle = {name: int((entry.counts == 0).sum()) for name, entry in result.entries.items()}
    experts = sum(len(result.entries[name].counts) for name, count in idle.items() if count)
    if any(idle.values()):
        console.warn(
            f"{sum(idle.values())} of {experts} experts in {sum(map(bool, idle.values()))} tensors saw no token; "
            "a longer or broader text reaches more"
        )


def _merge(sources: list[Path], output: Path | None, force: bool) -> None:
    from ggufrun.convert.imatrix import load_imatrix, save_imatrix, save_legacy
    from ggufrun.evaluate.imatrix import merge

    if output is None:
        raise UsageError("--merge needs a file to write", "name it with -o")
    if len({path.resolve() for path in sources}) < len(sources):
        raise UsageError("an importance matrix is given twice", "give each once: it would count twice")
    result = merge([load_imatrix(path) for path in sources])
    with contextlib.suppress(FileNotFoundError):
        if any(output.samefile(path) for path in sources):
            raise UsageError(f"{output} is one of the files to merge", "name another with -o")
    (save_legacy if output.suffix == ".dat" else save_imatrix)(output, result, force=force)
    _report(output, result)
