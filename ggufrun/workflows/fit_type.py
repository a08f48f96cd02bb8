"""``quantize --fit``: which type is the best that fits into so much memory with so much context."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ggufrun.checkpoint.gguf.file import hollow
from ggufrun.convert.plan import plan_candidates
from ggufrun.convert.target import Target
from ggufrun.engine.context import ContextParams
from ggufrun.engine.model import ModelParams
from ggufrun.engine.placement.devices import has_gpu
from ggufrun.engine.placement.memory import Footprint, measure
from ggufrun.errors import EngineError, GgufrunError, UsageError
from ggufrun.quantize.plan import QuantizeOptions
from ggufrun.quantize.types import BEST_FIRST, FileType
from ggufrun.units import parse_size, size_text

GPU = "gpu"

RESERVE = 256 << 20
"""Bytes of a GPU that are left alone: its driver takes some for every process, and what is free now may be a little
less in a minute."""


@dataclass(frozen=True)
class Limit:
    """``size`` in bytes of memory, or None for what the GPUs have free; ``asked`` is how the user put it."""

    asked: str
    size: int | None
    context: ContextParams


@dataclass(frozen=True)
class Candidate:
    """A type that was looked at: bytes of its file and bits a weight; ``memory`` in bytes where it was measured.

    ``problem`` says why it cannot be made at all.
    """

    name: str
    size: int | None
    bits: float | None
    memory: int | None
    fits: bool
    problem: str = ""


@dataclass(frozen=True)
class Fit:
    """What was considered, the best first, and which was chosen, if any: with ``context`` tokens in ``limit`` bytes.

    ``own`` is what the input takes as it is, ``own_fits`` whether that would fit too.
    """

    chosen: FileType | None
    context: int
    limit: int
    considered: tuple[Candidate, ...]
    own: int
    own_weights: int
    own_fits: bool

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "limit": self.limit,
            "context": self.context,
            "considered": [
                {
                    "type": one.name,
                    "bytes": one.size,
                    "bits_per_weight": None if one.bits is None else round(one.bits, 3),
                    "memory": one.memory,
                    "fits": one.fits,
                }
                | ({"problem": one.problem} if one.problem else {})
                for one in self.considered
            ],
        }


def parse_limit(text: str, context: ContextParams) -> Limit:
    """``4G`` or ``gpu``. EngineError for ``gpu`` where there is none."""
    if text.strip().lower() != GPU:
        return Limit(text.strip(), parse_size(text), context)
    if not has_gpu():
        raise EngineError(
            "--fit gpu: the engine sees no GPU here", "say how much memory there is, for example --fit 8G"
        )
    return Limit("the free memory of the GPUs", None, context)


def choose_type(
    source: Path,
    asked: Sequence[FileType],
    options: QuantizeOptions,
    limit: Limit,
    on_type: Callable[[FileType], None] = lambda file_type: None,
) -> Fit:
    """The best of ``asked`` (empty: of those worth having) that fits. ``on_type`` hears which one is looked at."""
    found: list[tuple[FileType, Candidate]] = []
    for file_type, plan in plan_candidates(source, asked or BEST_FIRST, options):
        on_type(file_type)
        if isinstance(plan, GgufrunError):
            found.append((file_type, Candidate(file_type.name, None, None, None, False, _short(plan, file_type))))
            continue
        taken, _, fits = _judge(_measure(plan, limit), limit)
        found.append((file_type, Candidate(file_type.name, plan.size, plan.bits_per_weight, taken, fits)))
    # last, as what comes before says clearly what is not a model
    own = measure(ModelParams(source), limit.context)
    taken, most, fits = _judge(own, limit)
    if asked:
        found.sort(key=lambda one: -(one[1].size or 0))
    chosen = next((file_type for file_type, one in found if one.fits), None)
    considered = tuple(one for _, one in found)
    return Fit(chosen, own.context, most, considered, taken, own.total.weights, fits)


def _short(error: GgufrunError, file_type: FileType) -> str:
    return error.what.removeprefix(f"{file_type.name} ").partition(" (")[0]


def _measure(target: Target, limit: Limit) -> Footprint:
    """What the file will take, asked of the engine with a file that has its header and a hole for its data."""
    with hollow(target.header, target.path.name) as path:
        return measure(ModelParams(path), limit.context)


def _judge(footprint: Footprint, limit: Limit) -> tuple[int, int, bool]:
    """Bytes that are taken, bytes that there are, and whether it fits: on the GPUs, each share in its own."""
    if limit.size is not None:
        taken = footprint.total.total
        return taken, limit.size, taken <= limit.size
    if not footprint.devices:
        raise EngineError("--fit gpu: this model does not run on the GPU", "say how much memory there is")
    taken = sum(place.use.total for place in footprint.devices)
    room = sum(max(0, place.device.free - RESERVE) for place in footprint.devices)
    return taken, room, footprint.host.left >= 0 and all(place.left >= RESERVE for place in footprint.devices)


def nothing_fits(source: Path, fit: Fit, limit: Limit) -> GgufrunError:
    """The error to raise where ``fit`` has chosen none."""
    possible = [one for one in fit.considered if one.memory is not None]
    if not possible:
        return UsageError(f"{source.name} can become none of these types: {fit.considered[0].problem}", "name others")
    least = min(possible, key=lambda one: one.memory or 0)
    more = "; --imatrix auto opens smaller types" if any("importance" in one.problem for one in fit.considered) else ""
    return EngineError(
        f"nothing fits into {limit.asked} with {fit.context} tokens of context: {least.name} takes "
        f"{size_text(least.memory or 0)}",
        f"give more room, a shorter context (-c) or a quantized cache (-ctk q8_0 -ctv q8_0){more}",
    )
