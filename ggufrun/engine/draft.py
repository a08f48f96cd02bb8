"""Speculative decoding: somebody cheap guesses the next tokens, and the model checks them all in one pass.

Every token of the answer is still drawn by the sampler from the model's own logits, so the answer's distribution is
that of plain decoding, and a guess that the sampler does not draw costs time only. Guessers: the conversation itself,
where the same words came before (prompt look-up), or a small model with the same vocabulary.
"""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, islice, takewhile
from operator import eq
from time import perf_counter
from typing import Protocol

import numpy as np

from ggufrun.engine.context import Context
from ggufrun.engine.model import Model
from ggufrun.engine.sampling.sampler import Sampler, SamplingParams
from ggufrun.errors import UnsupportedError, UsageError
from ggufrun.native.library import llama

LENGTHS = (0, 1, 3, 7, 15, 31, 63, 127, 255)
"""How many tokens are guessed at once: the steps between which the length moves. With the one that is drawn they make a
power of two, which llama.cpp's matrix products like best: on a processor 16 tokens cost less than 12.
"""

RATE = 0.75
"""The share of guesses that is expected to come true at first."""

EXTRA = 0.05
"""What a further token is thought to add to a pass until that has been measured: hopeful, so that it will be."""

PLAIN_PASSES = 3
"""Passes without guesses at the very beginning, to know what guessing gains."""

PAUSE = 32
"""Passes without guesses, where guessing does not pay, until it is tried again."""

TIMED = 9
"""Passes of each length whose times are remembered. The shortest counts, for other programs only ever add to it, and
not before there are two: the first of a length also prepares for it.
"""

WATCHED = 8
"""Tokens of a guess that is only watched, while guessing does not pay."""

SIZE_DIFFERENCE = 128
"""Rows by which two vocabularies that are otherwise the same may differ (padding), as in llama.cpp."""


@dataclass(frozen=True)
class DraftParams:
    """The fewest and the most tokens that are guessed at once, and how sure a draft model is to be of each.

    Raises UsageError.
    """

    most: int = 16
    least: int = 0
    sure: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.sure <= 1:
            raise UsageError(f"--draft-p-min is {self.sure}", "give a probability, 0 to 1")
        if not 1 <= self.most <= 256 or not 0 <= self.least <= self.most:
            raise UsageError(
                f"--draft-max is {self.most} and --draft-min {self.least}",
                "give 1 to 256, and no more at least than at most",
            )


class Drafter(Protocol):
    """Guesses how a text goes on. ``free`` guesses cost next to nothing.

    From one `propose` to the next ``ids`` only grows, so that what a guess costs need not grow with it; anything else
    is told by `begin`.
    """

    free: bool

    def begin(self) -> None:
        """What comes next is another text, or one whose beginning has changed."""

    def propose(self, ids: Sequence[int], count: int) -> list[int]:
        """Up to ``count`` tokens that may follow ``ids``."""

    def close(self) -> None:
        """Free what it holds."""


class Lookup:
    """Guesses that what followed the last few tokens before follows them again."""

    LENGTHS = (3, 2)
    """How many tokens must be the same, the longer first."""

    free = True

    def __init__(self) -> None:
        self._ids: list[int] = []
        self._places: dict[tuple[int, ...], int] = {}
        self._grows = False

    def begin(self) -> None:
        """What is known stays, if the next text turns out to begin with it."""
        self._grows = False

    def propose(self, ids: Sequence[int], count: int) -> list[int]:
        """What followed the most recent occurrence; again and again, where that reaches the end."""
        self._follow(ids)
        for length in self.LENGTHS:
            place = self._places.get(tuple(ids[-length:]))
            if place is not None and len(ids) > length:
                return list(islice(cycle(ids[place : place + count]), count))
        return []

    def _follow(self, ids: Sequence[int]) -> None:
        known = len(self._ids)
        if not self._grows and list(ids[:known]) != self._ids:
            self._ids, self._places, known = [], {}, 0
        self._grows = True
        for place in range(max(known, 1), len(ids)):
            # What ends right before `place` is followed by it; the very end has no successor yet.
            for length in self.LENGTHS:
                if place >= length:
                    self._places[tuple(ids[place - length : place])] = place
        self._ids.extend(ids[known:])

    def close(self) -> None:
        """Nothing to free."""


class DraftModel:
    """Guesses what a small model finds most probable, as long as it is ``sure`` of it (a probability).

    The context is borrowed, and holds what the model has seen.
    """

    free = False

    def __init__(self, context: Context, sure: float = 0.0) -> None:
        self._context = context
        self._sure = sure
        self._sampler = Sampler(context.model, SamplingParams(temp=0), context.n_ctx)
        self._size = context.model.vocab.size
        self.begin()

    def begin(self) -> None:
        """What the context holds stays, as far as the next text begins with it."""
        self._looked_at = self._fed = 0
        self._strange = False

    def propose(self, ids: Sequence[int], count: int) -> list[int]:
        """The draft model's greedy continuation, as far as its context reaches."""
        context = self._context
        count = min(count, context.n_ctx - len(ids) - 1)
        # The other vocabulary may be a little larger.
        self._strange = self._strange or any(token >= self._size for token in ids[self._looked_at :])
        self._looked_at = len(ids)
        if count <= 0 or self._strange:
            return []
        context.feed(ids, known=self._fed)
        self._fed = len(ids)
        guessed: list[int] = []
        while True:
            token = self._sampler.sample(context)
            # Guessing an end saves nothing.
            if context.model.vocab.is_eog(token) or (self._sure and self._probability(token) < self._sure):
                return guessed
            guessed.append(token)
            if len(guessed) >= count:
                return guessed
            context.push(token)

    def _probability(self, token: int) -> float:
        pointer = llama().llama_get_logits_ith(self._context.pointer, -1)
        row = np.ctypeslib.as_array(pointer, (self._size,))
        return float(1 / np.exp(row - row[token]).sum())

    def close(self) -> None:
        """Free the sampler."""
        self._sampler.close()


def check_vocabularies(target: Model, draft: Model) -> None:
    """Raises UnsupportedError when the tokens of two models do not mean the same."""
    one, other = target.vocab, draft.vocab
    why = ""
    if one.kind != other.kind:
        why = "they are of different kinds"
    elif abs(one.size - other.size) > SIZE_DIFFERENCE:
        why = f"they have {one.size} and {other.size} tokens"
    elif (one.bos, one.eos, one.add_bos) != (other.bos, other.eos, other.add_bos):
        why = "they begin or end a text with different tokens"
    else:
        different = (
            token
            for token in range(5, min(one.size, other.size))
            if one.piece(token, special=True) != other.piece(token, special=True)
        )
        token = next(different, None)
        if token is not None:
            why = f"token {token} is {one.text(token)!r} in one and {other.text(token)!r} in the other"
    if why:
        raise UnsupportedError(
            f"the vocabularies of {target.path.name} and the draft {draft.path.name} do not match: {why}",
            "take a smaller model of the same family as the draft",
        )


class Speculation:
    """A drafter and how much it is trusted.

    The length of its guesses is the one that yields most tokens a second, by the share of guesses that come true and by
    the measured times of passes with so many tokens; none where plain passes are quicker.
    """

    def __init__(self, context: Context, drafter: Drafter, params: DraftParams) -> None:
        if context.model.recurrent or context.model.window:
            raise UnsupportedError(
                f"{context.model.path.name} cannot take back tokens, so nothing can be guessed for it",
                "leave out --lookup and -md",
            )
        self.drafter = drafter
        self._size = context.model.vocab.size
        self._least = params.least
        self._most = min(params.most, context.params.outputs - 1)
        self._rate = RATE
        self._plain = PLAIN_PASSES
        self._passes: dict[int, deque[float]] = {}
        self._drafting = 0.0
        self._watched: list[int] = []
        self._watched_from = 0

    def begin(self) -> None:
        """What comes next is another text, or one whose beginning has changed; else ``ids`` of `guess` only grow."""
        self.drafter.begin()
        self._watched = []

    def guess(self, ids: Sequence[int], room: int) -> list[int]:
        """Tokens that may follow ``ids``, at most ``room``; none when fewer than worth the trouble."""
        if self._plain > 0:
            self._plain -= 1
            if not self.drafter.free or not self._watch(ids):
                return []
            self._plain = 0
        count = self.length
        if not count:
            # What comes true changes with the text; a guess now and then finds out.
            self._plain = PAUSE
            count = max(1, self._least)
        count = min(count, room)
        if count <= 0:
            return []
        started = perf_counter()
        guessed = list(takewhile(self._size.__gt__, self.drafter.propose(ids, count)))
        if guessed:
            seconds = (perf_counter() - started) / len(guessed)
            self._drafting += (seconds - self._drafting) * (0.2 if self._drafting else 1.0)
        return guessed if len(guessed) >= max(1, self._least) else []

    def _watch(self, ids: Sequence[int]) -> bool:
        """Learn, without any pass for it, whether a guess would have come true; returns whether guessing pays now."""
        came = ids[self._watched_from :]
        if self._watched and len(came) <= len(self._watched):
            right = sum(1 for _ in takewhile(bool, map(eq, came, self._watched)))
            if right == len(came) < len(self._watched):
                return False
            self.learn(len(came), right)
        self._watched, self._watched_from = self.drafter.propose(ids, WATCHED), len(ids)
        return len(self._passes.get(1, ())) > 1 and self.length > 0

    @property
    def length(self) -> int:
        """Tokens to guess now."""
        steps = {min(max(step, self._least), self._most) if step else 0 for step in LENGTHS}
        return max(sorted(steps), key=self._speed)

    def _speed(self, count: int) -> float:
        """Tokens a second, or in any other unit while nothing is measured, with ``count`` guesses a pass."""
        rate = self._rate
        tokens = count + 1 if rate >= 1 else (1 - rate ** (count + 1)) / (1 - rate)
        return tokens / (self._seconds(count + 1) + count * self._drafting)

    def _seconds(self, tokens: int) -> float:
        known = max((size for size, times in self._passes.items() if size <= tokens and len(times) > 1), default=0)
        if not known:
            return 1 + EXTRA * tokens
        return min(self._passes[known]) * (1 + EXTRA * (tokens - known))

    def learn(self, guessed: int, right: int) -> None:
        """Of ``guessed`` tokens the first ``right`` came true."""
        tried = right + (right < guessed)
        self._rate += (right / tried - self._rate) * min(0.5, 0.125 * tried)

    def timed(self, tokens: int, seconds: float) -> None:
        """A pass with ``tokens`` tokens took so long, the choice of the first that follows included."""
        self._passes.setdefault(tokens, deque(maxlen=TIMED)).append(seconds)

    @property
    def plain_pass(self) -> float:
        """Seconds of a pass without guesses; 0 while there was none."""
        return statistics.median(self._passes[1]) if 1 in self._passes else 0.0
