"""The loop: sample a token, hand it out, decode it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from time import perf_counter

from ggufrun.engine.context import Context, Interrupted
from ggufrun.engine.sampler import Sampler


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
    """What a generation did, filled in while it runs. Times are seconds."""

    prompt_tokens: int = 0
    decoded_prompt_tokens: int = 0
    tokens: int = 0
    prompt_time: float = 0.0
    time: float = 0.0
    reason: StopReason = StopReason.CLOSED

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
) -> Iterator[int]:
    """Continue ``ids``: yields each new token as soon as it is chosen, the one that ends the text included.

    At most ``limit`` tokens, or as many as fit when negative. A token is decoded when the one after it is asked for;
    whoever goes on feeds ``ids`` plus what was yielded, and only what is missing is decoded. The end, and why, is in
    ``stats``. Raises ContextFull when ``ids`` alone do not fit.
    """
    stats = stats if stats is not None else GenerationStats()
    stats.prompt_tokens = len(ids)
    vocab = context.model.vocab
    started = perf_counter()
    try:
        stats.decoded_prompt_tokens = context.feed(ids)
    except Interrupted:
        stats.reason = StopReason.INTERRUPTED
        return
    finally:
        begun = perf_counter()
        stats.prompt_time = begun - started
    room = context.n_ctx - len(ids)
    allowed = room if limit < 0 else min(limit, room)
    try:
        while True:
            if context.interrupted:
                stats.reason = StopReason.INTERRUPTED
                return
            if stats.tokens >= allowed:
                stats.reason = StopReason.LENGTH if 0 <= limit <= room else StopReason.FULL
                return
            token = sampler.sample(context)
            stats.tokens += 1
            yield token
            if vocab.is_eog(token):
                # Not decoded: nobody asks for the logits after the end. The next turn's prompt brings it along.
                stats.reason = StopReason.END
                return
            context.push(token)
    finally:
        stats.time = perf_counter() - begun
