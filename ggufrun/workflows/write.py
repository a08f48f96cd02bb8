"""A plan carried out: its vocabulary proved, its files written, a record of each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ggufrun.convert import pipeline
from ggufrun.convert.plan import Plan
from ggufrun.convert.vocab.proof import Proof, prove

Progress = Callable[[int, int], None]
"""Hears how much is done, and of how much: bytes, chunks."""


@dataclass(frozen=True)
class Written:
    """A file that was written: its path, its type, its size in bytes, bits of tensor data a weight, and how many
    tensors got a larger type because their rows do not fit the blocks.
    """

    path: Path
    type: str
    bytes: int
    bits_per_weight: float
    fallback_tensors: int


def prove_vocabulary(plan: Plan) -> Proof | None:
    """Prove the vocabulary of ``plan`` before anything is written; raises, with the plan closed, where it differs."""
    if plan.original is None:
        return None
    try:
        return prove(plan.targets[0].header.metadata, plan.original)
    except BaseException:
        plan.close()
        raise


def write_plan(
    plan: Plan, threads: int | None = None, force: bool = False, progress: Progress | None = None
) -> tuple[Written, ...]:
    """Carry ``plan`` out and close it. ``progress`` hears bytes of the source. Raises TargetError, FormatError."""
    done, total = 0, plan.source_bytes

    def advance(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress(done, total)

    try:
        pipeline.run(plan, threads, force, advance)
        return tuple(
            Written(target.path, target.file_type.name, target.size, target.bits_per_weight, target.n_fallback)
            for target in plan.targets
        )
    finally:
        plan.close()
