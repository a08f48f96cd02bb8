"""``ggufrun imatrix``: measure which columns of a model's matrices matter, for a better quantization."""

from __future__ import annotations

import contextlib
import hashlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ggufrun.cli import console, evaluating, options
from ggufrun.errors import FormatError, UsageError

if TYPE_CHECKING:
    from ggufrun.checkpoint.gguffile import Header
    from ggufrun.evaluate.imatrix import Collector
    from ggufrun.evaluate.text import Text
    from ggufrun.quantize.imatrix import Imatrix

RESUME_KEY = "ggufrun.imatrix.resume"
"""In an unfinished file: a digest of the text and the settings, and the chunks done."""


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command()(imatrix)


def imatrix(
    sources: Annotated[
        list[str], typer.Argument(metavar="MODEL", help="GGUF file; with --merge, importance matrices.")
    ],
    text: evaluating.TextFile = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="File to write.  [default: NAME-imatrix.gguf here]")
    ] = None,
    merge: Annotated[bool, typer.Option("--merge", help="Add up importance matrices of one model.")] = False,
    ctx_size: evaluating.Length = 512,
    batch_size: evaluating.Batch = 2048,
    ubatch_size: evaluating.MicroBatch = 512,
    chunks: evaluating.ChunkLimit = None,
    from_chunk: Annotated[int, typer.Option("--from-chunk", min=0, help="Leave out the first N chunks.")] = 0,
    process_output: Annotated[bool, typer.Option("--process-output", help="Collect for output.weight too.")] = False,
    parse_special: Annotated[bool, typer.Option("--parse-special", help="Names of tokens in the text mean them.")] = (
        False
    ),
    save_every: Annotated[int, typer.Option("--save-every", min=0, help="Save after so many chunks; 0: never.")] = 10,
    threads: evaluating.Threads = None,
    gpu_layers: evaluating.GpuLayers = None,
    force: options.Force = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where an interrupted run of the same stopped.")] = (
        False
    ),
) -> None:
    """Measure an importance matrix: which columns of a model's matrices matter.

    The file is the one that llama-imatrix writes, and llama-quantize and `ggufrun quantize --imatrix` read. Ctrl+C
    saves what is there.
    """
    from ggufrun.cli.writing import base_name

    if merge:
        _merge([Path(name) for name in sources], output, force)
        return
    if len(sources) != 1:
        raise UsageError(f"{len(sources)} models are given", "give one, or --merge for importance matrices")
    source = evaluating.find(sources[0])
    target = output or Path(f"{base_name(source)}-imatrix.gguf")
    if target.is_dir():
        target = target / f"{base_name(source)}-imatrix.gguf"

    from ggufrun.convert.imatrix import load_imatrix
    from ggufrun.convert.writer import check_targets
    from ggufrun.engine.chunks import ChunkParams
    from ggufrun.evaluate.imatrix import Collector
    from ggufrun.evaluate.text import CALIBRATION, cut

    params = ChunkParams(ctx_size, batch_size, ubatch_size, threads)
    check_targets([(target, 0)], force or resume)
    whole, name = evaluating.read_text(text, CALIBRATION), evaluating.text_name(text, CALIBRATION)
    with evaluating.open_model(source, gpu_layers) as model:
        pieces = cut(model, whole, ctx_size, chunks, parse_special, from_chunk)
        collector = Collector(process_output)
        digest = _digest(pieces, process_output)
        if resume and target.exists():
            known = load_imatrix(target)
            if (known.chunk_count, known.chunk_size, known.datasets) == (len(pieces), ctx_size, (name,)):
                _report(target, known)
                return
            _resume(collector, known, target, source, digest, len(pieces))
        start = saved = collector.chunks
        evaluating.announce(len(pieces) - start, params)
        work = collector.run(model, params, pieces, start)
        batches = -(-(len(pieces) - start) // params.at_once)
        try:
            with evaluating.progress(work, batches, "collecting") as steps:
                for done in steps:
                    if save_every and done - saved >= save_every and done < len(pieces):
                        _save(target, collector, name, ctx_size, f"{digest} {done}")
                        saved = done
        except KeyboardInterrupt:
            done = collector.chunks
            if done > start:
                _save(target, collector, name, ctx_size, f"{digest} {done}")
                console.note(f"{target}: saved after {done} of {len(pieces)} chunks; --resume goes on from there")
            raise
    _save(target, collector, name, ctx_size)
    _report(target, collector.result([name], ctx_size))


def _digest(text: Text, process_output: bool) -> str:
    digest = hashlib.sha256(f"{text.chunks.shape} {process_output}\n".encode())
    digest.update(text.chunks.tobytes())
    return digest.hexdigest()


def _resume(collector: Collector, known: Imatrix, target: Path, model: Path, digest: str, total: int) -> None:
    """Fill ``collector`` with what ``target`` holds."""
    from ggufrun.checkpoint.gguffile import read_header

    state = str(read_header(target).get(RESUME_KEY, ""))
    belongs(known, read_header(model), model)
    if not state:
        raise UsageError(f"{target} is finished, with {known.chunk_count} chunks", "pass --force to make it anew")
    before, _, done = state.partition(" ")
    if before != digest or not done.isdecimal() or int(done) > total:
        raise UsageError(f"{target} was measured on another text or with other settings", "pass --force to start again")
    collector.take(replace(known, chunk_count=int(done)))


def belongs(known: Imatrix, header: Header, model: Path) -> None:
    """FormatError unless every entry is one of the model's weights, with as many columns."""
    shapes = {info.name: info.shape for info in header.tensors}
    for name, entry in known.entries.items():
        shape = shapes.get(name)
        if shape is None or entry.sums.size % shape[-1]:
            had = "no such tensor" if shape is None else f"{shape[-1]} columns"
            raise FormatError(
                f"{known.path} is of another model: {entry.sums.shape[-1]} columns of {name}, where {model.name} has "
                f"{had}",
                "pass --force to start again",
            )


def _save(target: Path, collector: Collector, name: str, chunk_size: int, state: str | None = None) -> None:
    from ggufrun.convert.imatrix import save_imatrix

    extra = {RESUME_KEY: state} if state else None
    save_imatrix(target, collector.result([name], chunk_size), force=True, extra=extra)


def _report(target: Path, result: Imatrix) -> None:
    console.out().print(str(target), markup=False)
    console.note(f"  {len(result.entries)} matrices, {result.chunk_count} chunks of {result.chunk_size} tokens")
    idle = {name: int((entry.counts == 0).sum()) for name, entry in result.entries.items()}
    experts = sum(len(result.entries[name].counts) for name, count in idle.items() if count)
    if any(idle.values()):
        console.warn(
            f"{sum(idle.values())} of {experts} experts in {sum(map(bool, idle.values()))} tensors saw no token; "
            "a longer or broader text reaches more"
        )


def _merge(sources: list[Path], output: Path | None, force: bool) -> None:
    from ggufrun.convert.imatrix import load_imatrix, save_imatrix
    from ggufrun.evaluate.imatrix import merge

    if output is None:
        raise UsageError("--merge needs a file to write", "name it with -o")
    result = merge([load_imatrix(path) for path in sources])
    with contextlib.suppress(FileNotFoundError):
        if any(output.samefile(path) for path in sources):
            raise UsageError(f"{output} is one of the files to merge", "name another with -o")
    save_imatrix(output, result, force=force)
    _report(output, result)
