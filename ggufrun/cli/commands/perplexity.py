"""``ggufrun perplexity``: how well a model predicts a text, and how far it is from a reference."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ggufrun.cli.flags import common, measuring, placement
from ggufrun.cli.jobs.comparison import HEAD, as_dict, report, row
from ggufrun.cli.terminal import console, progress

if TYPE_CHECKING:
    from collections.abc import Generator

    from ggufrun.engine.chunks import ChunkParams
    from ggufrun.engine.model import Model
    from ggufrun.evaluate.logits_file import LogitsFile
    from ggufrun.evaluate.perplexity import Scores
    from ggufrun.evaluate.text import Text


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command()(placement.with_flags(perplexity))


def perplexity(
    model_name: Annotated[
        str, typer.Argument(autocompletion=common.model_names, metavar="MODEL", help="GGUF file.", show_default=False)
    ],
    text: measuring.TextFile = None,
    reference: Annotated[
        str | None, typer.Option("--reference", metavar="MODEL", help="Model to compare with, such as the F16 file.")
    ] = None,
    ctx_size: measuring.Length = 512,
    batch_size: measuring.Batch = 2048,
    ubatch_size: measuring.MicroBatch = 512,
    chunks: measuring.ChunkLimit = None,
    threads: measuring.Threads = None,
    flash_attention: measuring.FlashAttention = "auto",
    type_k: measuring.CacheK = "f16",
    type_v: measuring.CacheV = "f16",
    place: placement.PlaceFlags = placement.PLAIN,
    save_logits: Annotated[
        Path | None,
        typer.Option("--save-logits", metavar="FILE", help="Keep the predictions for a later --reference FILE."),
    ] = None,
    force: common.Force = False,
    as_json: common.Json = False,
) -> None:
    """Measure how well a model predicts a text.

    The numbers are those of llama-perplexity. With --reference, both models run side by side, and the divergence of
    their predictions is measured.
    """
    from ggufrun.engine.chunks import ChunkParams
    from ggufrun.errors import UsageError
    from ggufrun.evaluate.perplexity import score_against_file
    from ggufrun.evaluate.text import SAMPLE, cut_into_chunks

    params = ChunkParams(ctx_size, batch_size, ubatch_size, threads, flash_attention, type_k, type_v)
    base_file = _saved(reference)
    if base_file is not None and (text is not None or save_logits is not None):
        raise UsageError(f"{reference} holds saved logits with their own text", "leave -f and --save-logits out")
    if save_logits is not None and reference is not None:
        raise UsageError("--save-logits keeps the predictions of a reference", "leave --reference out")
    if save_logits is not None:
        from ggufrun.convert.writer import check_targets

        check_targets([(save_logits, 0)], force)
    whole = measuring.read_text(text, SAMPLE)
    source = measuring.find(model_name)
    base_path = None if reference is None or base_file else measuring.find(reference)
    if base_file is not None:
        ctx_size = base_file.length
        params = dataclasses.replace(params, length=ctx_size)
    with measuring.open_model(source, place, params) as model:
        if base_file is not None:
            pieces = base_file.text(model, chunks)
            work = score_against_file(base_file, model, params, pieces)
            result = {"reference": str(base_file.path)} | _compared(work, params, pieces, as_json)
        elif base_path is None:
            pieces = cut_into_chunks(model, whole, ctx_size, chunks)
            result = _alone(model, params, pieces, as_json, save_logits, force)
        else:
            with measuring.open_model(base_path, place, params, [model]) as base:
                pieces = cut_into_chunks(model, whole, ctx_size, chunks)
                result = _beside(model, base, params, pieces, whole, as_json)
    if as_json:
        console.print_json(
            {
                "model": str(source),
                "text": measuring.text_name(text, SAMPLE),
                "chunks": len(pieces),
                "context": ctx_size,
            }
            | result
        )


def _saved(reference: str | None) -> LogitsFile | None:
    """The file of saved logits that --reference names, None for a model."""
    from ggufrun.evaluate.logits_file import LogitsFile, is_logits_file

    path = Path(reference) if reference is not None else None
    return LogitsFile(path) if path is not None and is_logits_file(path) else None


def _alone(
    model: Model, params: ChunkParams, text: Text, quiet: bool, save: Path | None, force: bool
) -> dict[str, Any]:
    from ggufrun.evaluate import statistics
    from ggufrun.evaluate.logits_file import LogitsWriter
    from ggufrun.evaluate.perplexity import Scores, score
    from ggufrun.workflows.compare_models import work_ahead

    console.note(work_ahead(len(text), params))
    parts: list[Scores] = []
    kept = LogitsWriter(save, text, model.vocab.size, force) if save is not None else None
    try:
        with progress.steps(score(model, params, text, kept), len(text), "measuring", talks=not quiet) as steps:
            for scores in steps:
                parts.append(scores)
                if not quiet:
                    so_far = statistics.perplexity(Scores.join(parts).nll)
                    _write(f"[{len(parts)}]{so_far.value:.4f},")
        if kept is not None:
            kept.commit()
    finally:
        if kept is not None:
            kept.abort()
        if parts and not quiet:
            _write("\n")
    found = statistics.perplexity(Scores.join(parts).nll)
    if not quiet:
        _write(f"Final estimate: PPL = {found.value:.4f} +/- {found.error:.5f}\n")
    return {"tokens": sum(len(part.nll) for part in parts), "perplexity": dataclasses.asdict(found)}


def _beside(model: Model, base: Model, params: ChunkParams, text: Text, whole: str, quiet: bool) -> dict[str, Any]:
    from ggufrun.evaluate.perplexity import score_against

    work = score_against(base, [model], params, text, whole)
    return {"reference": str(base.path)} | _compared(work, params, text, quiet)


def _compared(
    work: Generator[list[Scores], None, None], params: ChunkParams, text: Text, quiet: bool
) -> dict[str, Any]:
    from ggufrun.evaluate.perplexity import Scores
    from ggufrun.evaluate.statistics import compare
    from ggufrun.workflows.compare_models import work_ahead

    console.note(work_ahead(len(text), params))
    if not quiet:
        _write(HEAD)
    parts: list[Scores] = []
    with progress.steps(work, len(text), "measuring", talks=not quiet) as steps:
        for (scores,) in steps:
            parts.append(scores)
            if not quiet:
                _write(row(len(parts), compare(Scores.join(parts))))
    found = compare(Scores.join(parts))
    if not quiet:
        _write("\n" + "\n".join(report(found)) + "\n")
    return as_dict(found)


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
