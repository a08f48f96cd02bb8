"""Files in, files out: convert, quantize, inspect, pull, and what is measured of models."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from ggufrun import hub
from ggufrun.api.options import path_of
from ggufrun.checkpoint.adapters.adapter import AdapterRequest
from ggufrun.convert.describe import Description, describe
from ggufrun.convert.imatrix import load_imatrix
from ggufrun.convert.plan import Wishes, plan_quantize, split_plan
from ggufrun.convert.writer import check_targets
from ggufrun.engine.chunks import ChunkParams
from ggufrun.engine.model import ModelParams
from ggufrun.evaluate import statistics
from ggufrun.evaluate.perplexity import Scores, score, score_against
from ggufrun.evaluate.statistics import Comparison, Estimate
from ggufrun.evaluate.text import CALIBRATION, SAMPLE, builtin_text, cut_into_chunks
from ggufrun.hub.models import models_folder, resolve_model
from ggufrun.quantize.plan import QuantizeOptions, parse_override
from ggufrun.quantize.types import FileType, parse_file_type
from ggufrun.workflows.convert import ConvertRequest, read_template
from ggufrun.workflows.imatrix import Collection, collect, finished
from ggufrun.workflows.open_model import check_file, context_for_chunks, open_model
from ggufrun.workflows.source import source_folder
from ggufrun.workflows.targets import base_name, target_namer
from ggufrun.workflows.watch import Watch
from ggufrun.workflows.write import Progress, Written, prove_vocabulary, write_plan

T = TypeVar("T")


@dataclass(frozen=True)
class Measured:
    """How well a model predicts a text: ``perplexity``, and with a reference what sets the two apart."""

    perplexity: Estimate
    chunks: int
    comparison: Comparison | None = None


def convert(
    source: str | Path,
    types: Sequence[str] | str = (),
    out: str | Path | None = None,
    *,
    adapters: Sequence[str | Path | tuple[str | Path, float]] = (),
    name: str | None = None,
    imatrix: str | Path | None = None,
    tensor_types: Mapping[str, str] | None = None,
    output_type: str | None = None,
    embedding_type: str | None = None,
    pure: bool = False,
    pretokenizer: str | None = None,
    chat_template: str | Path | None = None,
    split_max_bytes: int | None = None,
    verify: bool = True,
    threads: int | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> tuple[Written, ...]:
    """Convert a checkpoint folder, or one on the hub (``org/name``), to GGUF files of one or several ``types``.

    Without types the file has the checkpoint's own precision. ``out`` is a file or a folder. ``adapters`` are PEFT
    folders to merge, alone or with a scale. ``tensor_types`` maps regular expressions of tensor names to types.
    ``verify`` compares the vocabulary with the original tokenizer first. ``progress`` hears bytes read and their total.
    Each file appears whole or not at all; one that exists is replaced only with ``force``. Raises GgufrunError.
    """
    kinds = _types(types)
    folder, stem = source_folder(str(source))
    merged: list[AdapterRequest] = []
    for one in adapters:
        text, scale = one if isinstance(one, tuple) else (one, 1.0)
        place, adapter_name = source_folder(str(text), wanted=hub.adapter_files)
        merged.append(AdapterRequest(place, float(scale)))
        last = adapter_name
    if merged:
        stem = f"{stem}-{last}"
        name = name or stem
    matrix = None if imatrix is None else load_imatrix(path_of(imatrix))
    request = ConvertRequest(
        folder,
        name or stem,
        kinds,
        None if out is None else path_of(out),
        _options(tensor_types, output_type, embedding_type, pure),
        Wishes(name, pretokenizer, read_template(None if chat_template is None else path_of(chat_template))),
        tuple(merged),
    )
    plan = request.plan(imatrix=matrix)
    if verify:
        prove_vocabulary(plan)
    return write_plan(plan if split_max_bytes is None else split_plan(plan, split_max_bytes), threads, force, progress)


def quantize(
    model: str | Path,
    types: Sequence[str] | str,
    out: str | Path | None = None,
    *,
    imatrix: str | Path | None = None,
    tensor_types: Mapping[str, str] | None = None,
    output_type: str | None = None,
    embedding_type: str | None = None,
    pure: bool = False,
    allow_requantize: bool = False,
    split_max_bytes: int | None = None,
    threads: int | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> tuple[Written, ...]:
    """Quantize a GGUF, best F16 or BF16, to one or several ``types``; the bytes are llama.cpp's. Raises GgufrunError.

    The arguments are those of `convert`. ``allow_requantize`` accepts a quantized input and its loss.
    """
    path = resolve_model(str(model), gguf_only=True)
    kinds = _types(types)
    path_of_type = target_namer(None if out is None else path_of(out), base_name(path), len(kinds))
    options = _options(tensor_types, output_type, embedding_type, pure, allow_requantize)
    matrix = None if imatrix is None else load_imatrix(path_of(imatrix))
    plan = plan_quantize(path, kinds, path_of_type, options, matrix)
    return write_plan(plan if split_max_bytes is None else split_plan(plan, split_max_bytes), threads, force, progress)


def inspect(model: str | Path) -> Description:
    """What a GGUF, or a checkpoint folder, says of itself: architecture, sizes, types, vocabulary, chat template."""
    return describe(resolve_model(str(model)))[0]


def pull(
    repo: str, *, revision: str | None = None, out: str | Path | None = None, progress: Progress | None = None
) -> Path:
    """Fetch ``org/name`` or ``org/name:TYPE`` from the hub, digests checked; returns the GGUF, or the checkpoint's
    folder. ``progress`` hears bytes of all files. What is here already is not fetched again.
    """
    spec = hub.parse(repo)
    spec = replace(spec, revision=revision or spec.revision)
    chosen: list[object] = []

    def hear(state: hub.Progress) -> None:
        if progress is not None:
            progress(state.done, state.total or 0)

    folder = models_folder() / spec.repo if out is None else path_of(out)
    found = hub.obtain(spec, hub.gguf_or_checkpoint(spec.kind, chosen.append), on_progress=hear, folder=folder)
    return found.folder / found.files[0] if chosen else found.folder


def perplexity(
    model: str | Path,
    text: str | None = None,
    *,
    reference: str | Path | None = None,
    n_ctx: int = 512,
    chunks: int | None = None,
    n_gpu_layers: int | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Measured:
    """How well a model predicts ``text`` (by default a short one that comes with ggufrun): llama-perplexity's figures.

    With ``reference``, such as the F16 file, also how far the two are apart. ``progress`` hears chunks.
    """
    whole = builtin_text(SAMPLE) if text is None else text
    params = ChunkParams(n_ctx, threads=threads)
    context = context_for_chunks(params)

    def opened(name: str | Path) -> ModelParams:
        path = resolve_model(str(name), gguf_only=True)
        check_file(path)
        return ModelParams(path, n_gpu_layers)

    with open_model(opened(model), context) as measured:
        pieces = cut_into_chunks(measured, whole, n_ctx, chunks)
        parts: list[Scores] = []
        if reference is None:
            for scores in score(measured, params, pieces):
                parts.append(scores)
                if progress is not None:
                    progress(len(parts), len(pieces))
            return Measured(statistics.perplexity(Scores.join(parts).nll), len(pieces))
        with open_model(opened(reference), context) as base:
            for (scores,) in score_against(base, [measured], params, pieces, whole):
                parts.append(scores)
                if progress is not None:
                    progress(len(parts), len(pieces))
        joined = Scores.join(parts)
        return Measured(statistics.perplexity(joined.nll), len(pieces), statistics.compare(joined))


def imatrix(
    model: str | Path,
    out: str | Path | None = None,
    *,
    text: str | None = None,
    n_ctx: int = 512,
    chunks: int | None = None,
    n_gpu_layers: int | None = None,
    threads: int | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Measure which columns of a model's matrices matter, on ``text`` (by default one that comes with ggufrun).

    Returns the file, llama-imatrix's format: ``out``, or NAME-imatrix.gguf in the current folder. What was measured
    before on the same model, text and settings is left as it is. ``progress`` hears steps of the computation.
    """
    path = resolve_model(str(model), gguf_only=True)
    check_file(path)
    target = Path(f"{base_name(path)}-imatrix.gguf") if out is None else path_of(out)
    whole, name = (builtin_text(CALIBRATION), f"ggufrun {CALIBRATION}") if text is None else (text, "text")
    params = ChunkParams(n_ctx, threads=threads)
    work = Collection(ModelParams(path, n_gpu_layers), target, whole, name, params, limit=chunks)
    if force or finished(work) is None:
        check_targets([(target, 0)], force, [path])
        collect(work, False, _Steps(progress))
    return target


class _Steps(Watch):
    """Tells a callback of every step."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress

    def steps(self, work: Generator[T, None, None], total: int, what: str) -> AbstractContextManager[Iterator[T]]:
        def told() -> Generator[T, None, None]:
            with closing(work):
                for number, step in enumerate(work, 1):
                    if self._progress is not None:
                        self._progress(number, total)
                    yield step

        return closing(told())


def _types(types: Sequence[str] | str) -> tuple[FileType, ...]:
    names = [types] if isinstance(types, str) else list(types)
    return tuple(dict.fromkeys(parse_file_type(text) for text in names))


def _options(
    tensor_types: Mapping[str, str] | None,
    output_type: str | None,
    embedding_type: str | None,
    pure: bool,
    allow_requantize: bool = False,
) -> QuantizeOptions:
    return QuantizeOptions(
        allow_requantize=allow_requantize,
        pure=pure,
        tensor_types=tuple(parse_override(f"{regex}={kind}") for regex, kind in (tensor_types or {}).items()),
        output_type=output_type,
        embedding_type=embedding_type,
    )
