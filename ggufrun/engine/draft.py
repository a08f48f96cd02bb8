"""Speculative decoding: somebody cheap guesses the next tokens, and the model checks them all in one pass.

Every token of the answer is still drawn by the sampler from the model's own logits, so the answer's distribution is
that of plain decoding, and a guess that the sampler does not draw costs time only. Guessers: the conversation itself,
where the same words came before (prompt look-up), or a small model with the same vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from ggufrun.engine.context import Context
from ggufrun.engine.model import Model
from ggufrun.engine.sampler import Sampler, SamplingParams
from ggufrun.errors import UnsupportedError, UsageError

SIZE_DIFFERENCE = 128
"""Rows by which two vocabularies that are otherwise the same may differ (padding), as in llama.cpp."""


@dataclass(frozen=True)
class DraftParams:
    """The fewest and the most tokens that are guessed at once. Raises UsageError."""

    most: int = 16
    least: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.most <= 256 or not 0 <= self.least <= self.most:
            raise UsageError(
                f"--draft-max is {self.most} and --draft-min {self.least}",
                "give 1 to 256, and no more at least than at most",
            )


class Drafter(Protocol):
    """Guesses how a text goes on."""

    def propose(self, ids: Sequence[int], count: int) -> list[int]:
        """Up to ``count`` tokens that may follow ``ids``, whose beginning it has mostly seen before."""

    def close(self) -> None:
        """Free what it holds."""


class Lookup:
    """Guesses that what followed the last few tokens before follows them again."""

    LENGTHS = (3, 2)
    """How many tokens must be the same, the longer first."""

    def __init__(self) -> None:
        self._ids: list[int] = []
        self._places: dict[tuple[int, ...], int] = {}

    def propose(self, ids: Sequence[int], count: int) -> list[int]:
        """What followed the most recent occurrence."""
        self._follow(ids)
        for length in self.LENGTHS:
            place = self._places.get(tuple(ids[-length:]))
            if place is not None and len(ids) > length:
                return list(ids[place : place + count])
        return []

    def _follow(self, ids: Sequence[int]) -> None:
        known = len(self._ids)
        # Only the end can differ without a new turn or a shift; both start over.
        if known > len(ids) or list(ids[max(0, known - 8) : known]) != self._ids[max(0, known - 8) :]:
            self._ids, self._places, known = [], {}, 0
        for place in range(max(known, 1), len(ids)):
            # What ends right before `place` is followed by it; the very end has no successor yet.
            for length in self.LENGTHS:
                if place >= length:
                    self._places[tuple(ids[place - length : place])] = place
        self._ids.extend(ids[known:])

    def close(self) -> None:
        """Nothing to free."""


class DraftModel:
    """Guesses what a small model finds most probable. The context is borrowed, and holds what the model has seen."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._sampler = Sampler(context.model, SamplingParams(temp=0), context.n_ctx)
        self._size = context.model.vocab.size

    def propose(self, ids: Sequence[int], count: int) -> list[int]:
        """The draft model's greedy continuation, as far as its context reaches."""
        context = self._context
        count = min(count, context.n_ctx - len(ids) - 1)
        if count <= 0 or max(ids[-64:]) >= self._size:
            return []
        context.feed(ids)
        guessed: list[int] = []
        while True:
            token = self._sampler.sample(context)
            if context.model.vocab.is_eog(token):
                # Guessing an end saves nothing.
                return guessed
            guessed.append(token)
            if len(guessed) >= count:
                return guessed
            context.push(token)

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
    """A drafter and how much it is trusted: the length of its guesses follows how many of them come true."""

    def __init__(self, context: Context, drafter: Drafter, params: DraftParams) -> None:
        if context.model.recurrent or context.model.window:
            raise UnsupportedError(
                f"{context.model.path.name} cannot take back tokens, so nothing can be guessed for it",
                "leave out --lookup and -md",
            )
        self.drafter = drafter
        self._params = params
        self._outputs = context.params.outputs
        self._length = max(params.least, min(4, params.most))

    def guess(self, ids: Sequence[int], room: int) -> list[int]:
        """Tokens that may follow ``ids``, at most ``room``; none when fewer than worth the trouble."""
        count = min(self._length, room, self._outputs - 1)
        guessed = self.drafter.propose(ids, count) if count > 0 else []
        return guessed if len(guessed) >= max(1, self._params.least) else []

    def learn(self, guessed: int, right: int) -> None:
        """All right: guess more next time; less than half: fewer."""
        if right == guessed:
            self._length = min(self._params.most, self._length + 4)
        elif 2 * right < guessed:
            self._length = max(1, self._params.least, self._length // 2)
