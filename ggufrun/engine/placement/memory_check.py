"""A model that is too large for this computer is refused before it is loaded, with what would fit.

A file is mapped, so the system would begin: it reads the weights from the disk again for every token, for minutes each,
while everything else on the machine is pushed out of memory.
"""

from __future__ import annotations

from pathlib import Path

from ggufrun.engine.context import ContextParams
from ggufrun.engine.model import ModelParams
from ggufrun.engine.placement.devices import card_memory
from ggufrun.engine.placement.layer_sizes import parts
from ggufrun.engine.placement.memory import Footprint, host_device, measure
from ggufrun.errors import EngineError

BITS: dict[str, float] = {
    "Q8_0": 8.5,
    "Q6_K": 6.57,
    "Q5_K_M": 5.7,
    "Q4_K_M": 4.85,
    "Q3_K_M": 3.95,
    "Q2_K": 3.0,
}
"""Usual types and their bits a weight, as they come out for models of seven billion weights."""

SUSPICIOUS = 0.5
"""The share of the memory that a file may take before it is looked at closely, which costs reading its header."""


def check(model: ModelParams, context: ContextParams) -> None:
    """Raises EngineError where model, cache and buffers take more than the memory that this computer has for programs,
    its GPUs' own together with it. What goes where is another's business.
    """
    total = host_device().total
    if not total or size_on_disk(model.path) < SUSPICIOUS * total:
        return
    total += card_memory()
    found = measure(model, context)
    if found.total.total > total:
        raise too_large(model.path, found, total)


def size_on_disk(path: Path) -> int:
    """Bytes of a model's file, or of all its shards."""
    return sum(part.stat().st_size for part in parts(path) if part.is_file())


def too_large(path: Path, found: Footprint, total: int) -> EngineError:
    """What is too large, and the first of these that would fit: a shorter context, a smaller type."""
    use = found.total
    cause = (
        f"{path.name} takes {gib(use.total)} GiB with a context of {found.context} tokens "
        f"(weights {gib(use.weights)}, cache {gib(use.cache)}), and this computer has {gib(total)} GiB"
    )
    rest = total - use.weights - use.compute
    tokens = int(rest / (use.cache / found.context)) // 256 * 256 if use.cache and rest > 0 else 0
    if tokens >= 512:
        return EngineError(cause, f"-c {tokens} would fit")
    room = int(0.9 * total) - use.cache - use.compute
    for name, bits in BITS.items():
        if found.bits and bits < found.bits and use.weights * bits / found.bits <= room:
            return EngineError(
                cause,
                f"as {name} it would fit: `ggufrun quantize {path.name} {name.lower()}`; --oversize tries all the same",
            )
    return EngineError(cause, "not even Q2_K of it would fit: take a smaller model; --oversize tries all the same")


def gib(count: int) -> str:
    """Gibibytes, without the unit."""
    return f"{count / (1 << 30):.1f}"
