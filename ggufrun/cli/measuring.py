"""Files beside a reference: which are opened together, and the figures of each. For compare and for receipts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from ggufrun.cli.flags import measuring
from ggufrun.cli.terminal import progress
from ggufrun.errors import NotFoundError

if TYPE_CHECKING:
    from ggufrun.cli.flags.placement import PlaceFlags
    from ggufrun.engine.chunks import ChunkParams
    from ggufrun.engine.model import Model
    from ggufrun.evaluate.perplexity import Scores
    from ggufrun.evaluate.statistics import Comparison


def measure(
    reference: Path,
    sources: Sequence[Path],
    whole: str,
    params: ChunkParams,
    chunks: int | None,
    place: PlaceFlags,
) -> list[Comparison]:
    """The figures of each of ``sources`` beside ``reference`` over the text ``whole``."""
    from ggufrun.evaluate.perplexity import Scores, score_against
    from ggufrun.evaluate.statistics import compare
    from ggufrun.evaluate.text import cut

    for path in (reference, *sources):
        if not path.is_file():
            raise NotFoundError(f"{path}: no such file", "give the path of a .gguf file")
    results: list[Comparison] = []
    with measuring.open_model(reference, place, params) as base:
        pieces = cut(base, whole, params.length, chunks)
        for group in groups(reference, sources):
            measuring.announce(len(pieces), params)
            with ExitStack() as stack:
                models: list[Model] = []
                for path in group:
                    opened = measuring.open_model(path, place, params, [base, *models])
                    models.append(stack.enter_context(opened))
                parts: list[list[Scores]] = [[] for _ in group]
                work = score_against(base, models, params, pieces, whole)
                names = group[0].name if len(group) == 1 else f"{len(group)} models"
                with progress.steps(work, len(pieces), names) as steps:
                    for scores in steps:
                        for known, new in zip(parts, scores, strict=True):
                            known.append(new)
                results += [compare(Scores.join(part)) for part in parts]
    return results


def groups(reference: Path, sources: Sequence[Path]) -> Iterator[list[Path]]:
    """``sources`` in order, as many at once as memory holds beside the reference: each group runs the reference anew.

    One at a time on a GPU, whose memory is not ours to guess.
    """
    from ggufrun.engine.placement.devices import has_gpu
    from ggufrun.engine.placement.memory_check import size_on_disk

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
    from ggufrun.engine.placement import system_memory

    found = system_memory.memory()
    return found.available * 3 // 4 if found.available is not None else (found.total or 0) // 2
