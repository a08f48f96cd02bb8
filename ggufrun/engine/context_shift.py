"""Room in a full context: old tokens go, the ones after them move up, and the beginning stays.

llama.cpp's rule (``tools/completion/completion.cpp``): when what comes next would fill the context, half of what lies
between the first ``keep`` tokens and the end is discarded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ggufrun.engine.sequence import ContextFull, TokenSequence


@dataclass(frozen=True)
class Shift:
    """``count`` tokens from position ``start`` on were discarded."""

    start: int
    count: int

    def apply(self, ids: list[int]) -> None:
        """Discard the same tokens from a list."""
        del ids[self.start : self.start + self.count]


def next_shift(held: int, keep: int) -> Shift:
    """What goes when ``held`` tokens are there and more are to come; raises ContextFull when nothing is left to go."""
    keep = min(keep, held)
    count = (held - keep) // 2
    if count <= 0:
        raise ContextFull(
            f"the context is full, and {keep} of its tokens are to be kept",
            "give a longer context (-c), or keep less (--keep)",
        )
    return Shift(keep, count)


def fill(context: TokenSequence, ids: Sequence[int], *, seen: int, keep: int | None) -> tuple[int, list[Shift]]:
    """Make the memory hold ``ids``, of which the first ``seen`` are older than this turn, or as many of them as fit.

    Without ``keep`` nothing is discarded. Tokens are taken in by the batch, as llama.cpp's program does, so that the
    same ones are discarded at the same time: the last token seen by itself, because it was drawn but not decoded.
    Returns how many tokens were decoded, and the shifts in order. Raises ContextFull, Interrupted, or EngineError.
    """
    if keep is None or len(ids) < context.n_ctx:
        return context.feed(ids), []
    if len(ids) - seen >= context.n_ctx - min(keep, seen):
        raise ContextFull(
            f"{len(ids) - seen} new tokens do not fit into a context of {context.n_ctx}", "give a longer one with -c"
        )
    known = list(ids[: max(0, seen - 1)])
    pieces = [list(ids[len(known) : seen])] if seen else []
    size = context.n_batch
    pieces += [list(ids[first : first + size]) for first in range(seen, len(ids), size)]
    decoded, shifts = 0, []
    for piece in pieces:
        while len(known) + len(piece) >= context.n_ctx:
            shift = next_shift(len(known), keep)
            # What is moved must have been computed while what goes was still there.
            decoded += context.feed(known)
            context.discard(shift.start, shift.count)
            shift.apply(known)
            shifts.append(shift)
        known += piece
    return decoded + context.feed(known), shifts
