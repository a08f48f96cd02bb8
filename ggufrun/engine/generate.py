"""The loop: sample a token, hand it out, decode it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from time import perf_counter

from ggufrun.engine.context import Context, ContextFull, Interrupted
from ggufrun.engine.sampler import Sampler
from ggufrun.engine.window import Shift, fill, next_shift

UNTIL_FULL = -2
"""A limit that is llama.cpp's ``-n -2``: until the context is full."""


class StopReason(Enum):
    """Why a generation ended."""

    END = "end of text"
    LENGTH = "token limit"
    FULL = "context full"
    INTERRUPTED = "interrupted"
    TEXT = "stop text"
    CLOSED = "closed by the caller"


@dataclass
class GenerationStats:
    """What a generation did, filled in while it runs. Times are seconds.

    ``shifts`` are the tokens that had to go, in order; positions count after all earlier shifts.
    """

    prompt_tokens: int = 0
    decoded_prompt_tokens: int = 0
    tokens: int = 0
    prompt_time: float = 0.0
    time: float = 0.0
    reason: StopReason = StopReason.CLOSED
    shifts: list[Shift] = field(default_factory=list)

    @property
    def tokens_per_second(self) -> float:
        """Speed of the generation itself, without the prompt."""
        return self.tokens / self.time if self.time > 0 else 0.0


def generate(
    context: Context,
    sampler: Sampler,
    ids: Sequence[int],
    *,
    limit: int = -1,
    stats: GenerationStats | None = None,
    seen: int = 0,
    keep: int | None = None,
) -> Iterator[int]:
    """Continue ``ids``: yields each new token as soon as it is chosen, the one that ends the text included.

    At most ``limit`` tokens. A token is decoded when the one after it is asked for; whoever goes on feeds ``ids`` plus
    what was yielded, and only what is missing is decoded. The end, and why, is in ``stats``.

    Without ``keep`` the context bounds the answer too. With it, a full context loses the older half of what follows the
    first ``keep`` tokens (see `stats.shifts`) and a negative ``limit`` means no end, but -2: as long as it fits. The
    first ``seen`` of ``ids`` may be discarded to make room. Raises ContextFull when the rest alone does not fit.
    """
    stats = stats if stats is not None else GenerationStats()
    stats.prompt_tokens = len(ids)
    vocab = context.model.vocab
    started = perf_counter()
    try:
        stats.decoded_prompt_tokens, stats.shifts = fill(context, ids, seen=seen, keep=keep)
    except Interrupted:
        stats.reason = StopReason.INTERRUPTED
        return
    finally:
        begun = perf_counter()
        stats.prompt_time = begun - started
    room = context.n_ctx - len(ids) + sum(shift.count for shift in stats.shifts)
    shifting = keep is not None and limit != UNTIL_FULL
    try:
        while True:
            if context.interrupted:
                stats.reason = StopReason.INTERRUPTED
                return
            if 0 <= limit <= stats.tokens:
                stats.reason = StopReason.LENGTH
                return
            if not shifting and stats.tokens >= room:
                stats.reason = StopReason.FULL
                return
            token = sampler.sample(context)
            stats.tokens += 1
            yield token
            if vocab.is_eog(token):
                # Not decoded: nobody asks for the logits after the end. The next turn's prompt brings it along.
                stats.reason = StopReason.END
                return
            if shifting and keep is not None and len(context.held) + 1 >= context.n_ctx:
                try:
                    shift = next_shift(len(context.held), keep)
                    stats.shifts.append(shift)
                    context.discard(shift.start, shift.count)
                except ContextFull:
                    stats.reason = StopReason.FULL
                    return
                except Interrupted:
                    stats.reason = StopReason.INTERRUPTED
                    return
            context.push(token)
    finally:
        stats.time = perf_counter() - begun
