"""What a conversation keeps of each turn: no more than the turn brought.

Nothing here holds all ids of a context, or all of a rendered conversation: kept for every turn, these would grow with
the square of the conversation's length.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from ggufrun.engine.sequence import common_prefix

DIGEST = 16
"""Bytes."""


@dataclass(frozen=True)
class Step:
    """How a turn changed the conversation's ids, to be taken back: the first ``kept`` of them stayed as they were, and
    ``lost`` followed those before the turn. Nothing is lost but where a context was shifted or a template rewrote what
    was said.
    """

    kept: int = 0
    lost: array[int] = field(default_factory=lambda: array("i"))

    @classmethod
    def between(cls, before: Sequence[int], after: Sequence[int]) -> Step:
        """From ``before`` to ``after``."""
        kept = common_prefix(before, after)
        return cls(kept, array("i", before[kept:]))

    def taken_back(self, after: Sequence[int]) -> list[int]:
        """The ids before the turn, from those after it, or from more that follow those."""
        return [*after[: self.kept], *self.lost]


@dataclass(frozen=True)
class Trace:
    """That something of ``length`` was there: enough to know it again."""

    length: int
    digest: bytes

    @classmethod
    def of_text(cls, text: str) -> Trace:
        """Of a text."""
        return cls(len(text), _digest(text.encode("utf-8", "surrogatepass")))

    @classmethod
    def of_ids(cls, ids: Sequence[int]) -> Trace:
        """Of ids."""
        return cls(len(ids), _digest(array("i", ids).tobytes()))

    @property
    def saved(self) -> list[Any]:
        """As JSON."""
        return [self.length, self.digest.hex()]

    def begins(self, text: str) -> bool:
        """Does ``text`` begin with the one that this is of?"""
        return len(text) >= self.length and self.of_text(text[: self.length]) == self

    def is_of(self, ids: Sequence[int]) -> bool:
        """Is this of ``ids``?"""
        return len(ids) == self.length and self.of_ids(ids) == self


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=DIGEST).digest()


@dataclass(frozen=True)
class Rendered:
    """The text that a template made of a conversation up to an answer: of the turns from ``first`` on."""

    trace: Trace
    first: int = 0


@dataclass(frozen=True)
class Exchange:
    """A question and its answer.

    ``step`` takes it back, ``size`` is how many tokens its words have, without those of reasoning. ``answer`` is what
    the user saw, and ``rendered`` tells the text that a template had made of the conversation up to the answer, if one
    was used. ``opened`` marks a text that was fed as it stands instead of asked.

    Of a model that thought first, ``reasoning`` are its thoughts, ``said`` is everything it wrote, and ``thought`` the
    place of the tokens that precede the answer in the ids after the turn, which ``after`` tells; None where that is no
    longer known.
    """

    user: str
    answer: str
    step: Step
    size: int = 0
    rendered: Rendered | None = None
    opened: bool = False
    reasoning: str = ""
    said: str = ""
    thought: tuple[int, int] | None = None
    after: Trace | None = None

    @cached_property
    def saved(self) -> str:
        """The turn as JSON. A conversation is written after each turn; what earlier ones make is made once."""
        found: dict[str, Any] = {
            "user": self.user,
            "answer": self.answer,
            "kept": self.step.kept,
            "lost": self.step.lost.tolist(),
            "size": self.size,
            "opened": self.opened,
        }
        if self.rendered is not None:
            found["rendered"] = [*self.rendered.trace.saved, self.rendered.first]
        if self.reasoning:
            found["reasoning"] = self.reasoning
        if self.said:
            found |= {"said": self.said, "thought": self.thought}
            found["after"] = None if self.after is None else self.after.saved
        return json.dumps(found, ensure_ascii=False, separators=(",", ":"))

    def without_reasoning(self, ids: Sequence[int]) -> list[int] | None:
        """``ids`` without the tokens of the reasoning; None where it is not known which these are, as in other ids than
        those after this turn.
        """
        if not self.said:
            return list(ids)
        if self.thought is None or self.after is None or not self.after.is_of(ids):
            return None
        start, stop = self.thought
        return [*ids[:start], *ids[stop:]]


def rendered_trace(text: str, first: int) -> Rendered | None:
    """What is kept of ``text``, made of the turns from ``first`` on; None where no template made one."""
    return Rendered(Trace.of_text(text), first) if text else None


def window(past: Sequence[Exchange], first: int, room: int) -> int:
    """Where the part of ``past`` begins that is still worth rendering for a context of ``room`` tokens, at ``first`` or
    later: it holds twice as much as the context, and moves on only when it would hold twice that.
    """
    if sum(exchange.size for exchange in past[first:]) <= 4 * room:
        return first
    return max(first, reach(past, room))


def reach(past: Sequence[Exchange], room: int) -> int:
    """The last turn of ``past`` from which on there is twice as much as a context of ``room`` tokens holds, or 0."""
    total = 0
    for index in range(len(past) - 1, -1, -1):
        total += past[index].size
        if total >= 2 * room:
            return index
    return 0
