"""``ggufrun perplexity``: how well a model predicts a text, and how far it is from a reference."""

from __future__ import annotations

import dataclasses
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ggufrun.cli.flags import common, measuring, placement
from ggufrun.cli.jobs.comparison import HEAD, as_dict, report, row
from ggufrun.cli.terminal import console, progress

if TYPE_CHECKING:
    from ggufrun.engine.chunks import ChunkParams
    from ggufrun.engine.model import Model
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
    as_json: common.Json = False,
) -> None:
    """Measure how well a model predicts a text.

    The numbers are those of llama-perplexity. With --reference, both models run side by side, and the divergence of
    their predictions is measured.
    """
    from ggufrun.engine.chunks import ChunkParams
    from ggufrun.evaluate.text import SAMPLE, cut_into_chunks

    params = ChunkParams(ctx_size, batch_size, ubatch_size, threads, flash_attention, type_k, type_v)
    whole = measuring.read_text(text, SAMPLE)
    source = measuring.find(model_name)
    base_path = None if reference is None else measuring.find(reference)
    with measuring.open_model(source, place, params) as model:
        pieces = cut_into_chunks(model, whole, ctx_size, chunks)
        if base_path is None:
            result = _alone(model, params, pieces, as_json)
        else:
            with measuring.open_model(base_path, place, params, [model]) as base:
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


def _alone(model: Model, params: ChunkParams, text: Text, quiet: bool) -> dict[str, Any]:
    from ggufrun.evaluate import statistics
    from ggufrun.evaluate.perplexity import Scores, score
    from ggufrun.workflows.compare_models import work_ahead

    console.note(work_ahead(len(text), params))
    parts: list[Scores] = []
    try:
        with progress.steps(score(model, params, text), len(text), "measuring", talks=not quiet) as steps:
            for scores in steps:
                parts.append(scores)
                if not quiet:
                    so_far = statistics.perplexity(Scores.join(parts).nll)
                    _write(f"[{len(parts)}]{so_far.value:.4f},")
    finally:
        if parts and not quiet:
            _write("\n")
    found = statistics.perplexity(Scores.join(parts).nll)
    if not quiet:
        _write(f"Final estimate: PPL = {found.value:.4f} +/- {found.error:.5f}\n")
    return {"tokens": sum(len(part.nll) for part in parts), "perplexity": dataclasses.asdict(found)}


def _beside(model: Model, base: Model, params: ChunkParams, text: Text, whole: str, quiet: bool) -> dict[str, Any]:
    from ggufrun.evaluate.perplexity import Scores, score_against
    from ggufrun.evaluate.statistics import compare
    from ggufrun.workflows.compare_models import work_ahead

    console.note(work_ahead(len(text), params))
    if not quiet:
        _write(HEAD)
    parts: list[Scores] = []
    work = score_against(base, [model], params, text, whole)
    with progress.steps(work, len(text), "measuring", talks=not quiet) as steps:
        for (scores,) in steps:
            parts.append(scores)
            if not quiet:
                _write(row(len(parts), compare(Scores.join(parts))))
    found = compare(Scores.join(parts))
    if not quiet:
        _write("\n" + "\n".join(report(found)) + "\n")
    return {"reference": str(base.path)} | as_dict(found)


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
