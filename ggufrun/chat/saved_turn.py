"""Turns of a conversation from JSON, in the two forms that sessions have had: `Exchange.saved`, and an older one.

In the older one each turn held the ids before and after it and all of the text that a template had made, so that files
grew with the square of the conversation's length. It is still read.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ggufrun.chat.formats.history import DIGEST, Exchange, Rendered, Step, Trace, rendered_trace


def read_turn(turn: Any, index: int) -> Exchange:
    """What `Exchange.saved` wrote, the turn at ``index`` of a conversation. ValueError for what is not one.

    Its ids may be of any vocabulary.
    """
    if not isinstance(turn, dict):
        raise ValueError("a turn is not an object")
    rendered = None
    if (saved := turn.get("rendered")) is not None:
        if not isinstance(saved, list) or len(saved) != 3:
            raise ValueError("rendered")
        rendered = Rendered(_read_trace(saved[:2]), natural(saved[2], index))
    after = None if turn.get("after") is None else _read_trace(turn["after"])
    return Exchange(
        **_words(turn),
        step=Step(natural(turn.get("kept")), Step.between(ids(turn.get("lost")), ()).lost),
        size=natural(turn.get("size")),
        rendered=rendered,
        thought=_thought(turn, after.length if after is not None else 0),
        after=after,
    )


def read_first_form(turn: Any, whole: list[int]) -> Exchange:
    """A turn in the first form, of a conversation that has the ids ``whole``. ValueError for what is not one."""
    if not isinstance(turn, dict):
        raise ValueError("a turn is not an object")
    before, after = (
        whole[: natural(turn[name])] if type(turn.get(name)) is int else ids(turn.get(name))
        for name in ("before", "after")
    )
    words = _words(turn)
    return Exchange(
        **words,
        step=Step.between(before, after),
        size=max(0, len(after) - len(before)),
        rendered=rendered_trace(text(turn.get("rendered")), 0),
        thought=_thought(turn, len(after)),
        after=Trace.of_ids(after) if words["said"] else None,
    )


def _words(turn: dict[str, Any]) -> dict[str, Any]:
    return {
        "user": text(turn.get("user")),
        "answer": text(turn.get("answer")),
        "opened": turn.get("opened") is True,
        "reasoning": text(turn.get("reasoning", "")),
        "said": text(turn.get("said", "")),
    }


def _thought(turn: dict[str, Any], length: int) -> tuple[int, int] | None:
    if turn.get("thought") is None:
        return None
    found = ids(turn["thought"])
    if len(found) != 2 or not found[0] <= found[1] <= length:
        raise ValueError("thought")
    return found[0], found[1]


def _read_trace(value: Any) -> Trace:
    if not isinstance(value, list) or len(value) != 2:
        raise ValueError("a trace")
    digest = bytes.fromhex(text(value[1]))
    if len(digest) != DIGEST:
        raise ValueError("a digest")
    return Trace(natural(value[0]), digest)


def text(value: Any) -> str:
    """A text. ValueError."""
    if not isinstance(value, str):
        raise ValueError("not a text")
    return value


def natural(value: Any, most: int = (1 << 31) - 1) -> int:
    """A whole number from 0 to ``most``. ValueError."""
    if type(value) is not int or not 0 <= value <= most:
        raise ValueError("not a number")
    return value


def ids(value: Any, size: int = 1 << 31) -> list[int]:
    """Ids below ``size``. ValueError."""
    if not isinstance(value, list) or not all(type(token) is int and 0 <= token < size for token in value):
        raise ValueError("not a list of ids")
    return value


def largest_lost(past: Sequence[Exchange]) -> int:
    """The largest id that taking turns back may bring; -1 where there is none."""
    return max((max(exchange.step.lost, default=-1) for exchange in past), default=-1)
