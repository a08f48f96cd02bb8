"""A conversation that goes on with another model: what of it is words, and how they become the other's tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from ggufrun.chat.replay import replay
from ggufrun.chat.session import Session
from ggufrun.engine.sampling.params import SamplingParams


@dataclass(frozen=True)
class Carried:
    """What is said, and what the user has set: ``settings`` that are not the first model's usual ones, ``system`` and
    ``limit`` None where they are.
    """

    turns: tuple[tuple[str, str], ...]
    reasoning: tuple[str, ...]
    opened: bool
    system: str | None
    settings: Mapping[str, Any]
    limit: int | None


def carry(session: Session, usual: SamplingParams, usual_system: str) -> Carried:
    """The words of ``session``; what is the ``usual`` of its model is left behind."""
    now = session.sampling
    changed = {
        item.name: getattr(now, item.name)
        for item in fields(SamplingParams)
        # tokens of a bias are another vocabulary's
        if item.name != "logit_bias" and getattr(now, item.name) != getattr(usual, item.name)
    }
    return Carried(
        tuple((exchange.user, exchange.answer) for exchange in session.past),
        tuple(exchange.reasoning for exchange in session.past),
        bool(session.past) and session.past[0].opened,
        None if session.system == usual_system else session.system,
        changed,
        None if session.limit == session.context.n_ctx else session.limit,
    )


def take_up(session: Session, carried: Carried) -> None:
    """Go on in ``session``, which is new, with what was said to another model. Raises FormatError."""
    session.sampling = replace(session.sampling, **carried.settings)
    session.limit = session.limit if carried.limit is None else carried.limit
    session.system = session.system if carried.system is None else carried.system
    session.past, session.ids = replay(
        session.format,
        session.context.model.vocab,
        session.system,
        carried.turns,
        opened=carried.opened,
        reasoning=carried.reasoning,
        room=session.context.n_ctx if session.shift else None,
    )
