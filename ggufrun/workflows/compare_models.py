"""Models compared with a reference: which are opened together, and the figures of each. For compare and receipts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

from ggufrun.engine.chunks import ChunkParams
from ggufrun.engine.model import Model
from ggufrun.engine.placement import system_memory
from ggufrun.engine.placement.devices import has_gpu
from ggufrun.engine.placement.memory_check import size_on_disk
from ggufrun.errors import NotFoundError
from ggufrun.evaluate.perplexity import Scores, score_against
from ggufrun.evaluate.statistics import Comparison, compare
from ggufrun.evaluate.text import cut_into_chunks
from ggufrun.workflows.open_model import ANYWHERE, Where, context_for_chunks, margin_with, open_model
from ggufrun.workflows.watch import NOBODY, Watch


def compare_models(
    reference: Path,
    sources: Sequence[Path],
    whole: str,
    params: ChunkParams,
    chunks: int | None = None,
    where: Where = ANYWHERE,
    watch: Watch = NOBODY,
) -> list[Comparison]:
    """The figures of each of ``sources`` compared with ``reference`` over the text ``whole``, in their order."""
    for path in (reference, *sources):
        if not path.is_file():
            raise NotFoundError(f"{path}: no such file", "give the path of a .gguf file")
    context = context_for_chunks(params)
    results: list[Comparison] = []
    with open_model(where.model(reference), context, where.margin, note=watch.note) as base:
        pieces = cut_into_chunks(base, whole, params.length, chunks)
        for group in groups(reference, sources):
            watch.note(work_ahead(len(pieces), params))
            with ExitStack() as stack:
                models: list[Model] = []
                for path in group:
                    margin = margin_with(where.model(path), context, [base, *models], where.margin)
                    models.append(stack.enter_context(open_model(where.model(path), context, margin, note=watch.note)))
                parts: list[list[Scores]] = [[] for _ in group]
                work = score_against(base, models, params, pieces, whole)
                names = group[0].name if len(group) == 1 else f"{len(group)} models"
                with watch.steps(work, len(pieces), names) as steps:
                    for scores in steps:
                        for known, new in zip(parts, scores, strict=True):
                            known.append(new)
                results += [compare(Scores.join(part)) for part in parts]
    return results


def work_ahead(count: int, params: ChunkParams) -> str:
    """One line about the chunks that are to be computed."""
    return f"{count} chunk{'s' if count != 1 else ''} of {params.length} tokens, {params.at_once} at once"


def groups(reference: Path, sources: Sequence[Path]) -> Iterator[list[Path]]:
    """``sources`` in order, as many at once as memory holds next to the reference: each group runs the reference again.

    One at a time on a GPU, whose memory is not ours to guess.
    """
    room = 0 if has_gpu() else _available() - size_on_disk(reference)
    group: list[Path] = []
    taken = 0
    for path in sources:
        size = size_on_disk(path)
        if group and taken + size > room:
            yield group
            group, taken = [], 0
        group.append(path)
        taken += size
    if group:
        yield group


def _available() -> int:
    """Bytes of memory that are free or can be freed, less a quarter for everything that is not weights."""
    found = system_memory.memory()
    return found.available * 3 // 4 if found.available is not None else (found.total or 0) // 2
