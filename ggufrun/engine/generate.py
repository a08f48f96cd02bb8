"""The loop: sample a token, hand it out, decode it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from time import perf_counter

from ggufrun.engine.context import Context
from ggufrun.engine.context_shift import Shift, fill, next_shift
from ggufrun.engine.decoder import Interrupted
from ggufrun.engine.draft import Speculation
from ggufrun.engine.guidance import Guidance
from ggufrun.engine.sampling.sampler import Sampler
from ggufrun.engine.sequence import ContextFull
from ggufrun.engine.steps import GuessedSteps, steps_for

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
    """What a generation did, filled in while it runs. Times are seconds of the model, without what the caller does
    (but where GPUs work on meanwhile, the two are one).

    ``drafted`` tokens were guessed and ``accepted`` of them came true, in ``steps`` passes of the model; one without
    guesses takes ``plain_pass`` seconds (0: not known). ``shifts`` are the tokens that had to go, in order, whose
    positions count after all earlier shifts.
    """

    prompt_tokens: int = 0
    decoded_prompt_tokens: int = 0
    tokens: int = 0
    prompt_time: float = 0.0
    time: float = 0.0
    reason: StopReason = StopReason.CLOSED
    drafted: int = 0
    accepted: int = 0
    steps: int = 0
    plain_pass: float = 0.0
    shifts: list[Shift] = field(default_factory=list)

    @property
    def acceptance(self) -> float:
        """The share of the guessed tokens that came true."""
        return self.accepted / self.drafted if self.drafted else 0.0

    @property
    def tokens_per_step(self) -> float:
        """Tokens for each pass of the model: 1 without guesses, and the bound of what guessing can gain."""
        return 1 + self.accepted / self.steps if self.steps else 1.0

    @property
    def speed_up(self) -> float:
        """How much faster than without guesses, measured; 0 when not known."""
        return self.tokens * self.plain_pass / self.time if self.time > 0 else 0.0

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
    speculation: Speculation | None = None,
    guidance: Guidance | None = None,
) -> Iterator[int]:
    """Continue ``ids``: yields each new token as soon as it is chosen, the one that ends the text included.

    At most ``limit`` tokens. A token is decoded when the one after it is asked for and may come, or where GPUs compute
    alone, before it is yielded: they work while the caller does. Whoever goes on feeds ``ids`` plus what was yielded,
    and only what is missing is decoded. The end, and why, is in ``stats``.

    Without ``keep`` the context bounds the answer too. With it, a full context loses the older half of what follows the
    first ``keep`` tokens (see `stats.shifts`) and a negative ``limit`` means no end, but -2: as long as it fits. The
    first ``seen`` of ``ids`` may be discarded to make room. ``speculation`` guesses ahead; the tokens stay those that
    the sampler draws. ``guidance`` leads away from the prompt that it was given; not both. Raises ContextFull when the
    rest alone does not fit.
    """
    stats = stats if stats is not None else GenerationStats()
    stats.prompt_tokens = len(ids)
    vocab = context.model.vocab
    started = perf_counter()
    try:
        if guidance is not None:
            guidance.begin()
        stats.decoded_prompt_tokens, stats.shifts = fill(context, ids, seen=seen, keep=keep)
        if guidance is not None:
            guidance.mix()
    except Interrupted:
        stats.reason = StopReason.INTERRUPTED
        return
    finally:
        begun = perf_counter()
        stats.prompt_time = begun - started
    room = context.n_ctx - len(ids) + sum(shift.count for shift in stats.shifts)
    if guidance is not None:
        room = min(room, guidance.room)
    shifting = keep is not None and limit != UNTIL_FULL
    steps = steps_for(context, speculation, guidance)
    # The token that is chosen but not yet decoded.
    last: int | None = None
    away = left = 0.0
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
            if last is not None:
                steps.settle()
                if shifting and keep is not None and len(context.held) + 1 >= context.n_ctx:
                    shift = next_shift(len(context.held), keep)
                    stats.shifts.append(shift)
                    steps.shifted(shift)
                    context.discard(shift.start, shift.count)
                stats.steps += 1
                steps.push(last, context.n_ctx if limit < 0 else limit - stats.tokens)
            token = sampler.sample(context, steps.place)
            last = None if steps.drawn(token) else token
            stats.tokens += 1
            ends = vocab.is_eog(token)
            more = (shifting or stats.tokens < room) and (limit < 0 or stats.tokens < limit)
            if steps.ahead and more and not ends and len(context.held) + 1 < context.n_ctx:
                stats.steps += 1
                steps.push(token, 1)
                last = None
            left = perf_counter()
            yield token
            if not steps.ahead:
                away += perf_counter() - left
            left = 0.0
            if ends:
                # Not decoded: nobody asks for the logits after the end. The next turn's prompt brings it along.
                stats.reason = StopReason.END
                return
    except ContextFull:
        stats.reason = StopReason.FULL
    except Interrupted:
        stats.reason = StopReason.INTERRUPTED
    finally:
        # What the caller does with the tokens is not the model's time.
        now = perf_counter()
        stats.time = now - begun - away - (now - left if left else 0.0)
        if isinstance(steps, GuessedSteps) and speculation is not None:
            stats.drafted, stats.accepted = steps.drafted, steps.accepted
            stats.plain_pass = speculation.plain_pass
