"""An open model as one thing to talk through: its context, its prompt format, and who may use it now."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any, cast

from ggufrun.api.answers import Answer, Stream
from ggufrun.api.options import AnswerOptions
from ggufrun.chat.formats.choose_format import Choice, FormatOptions, choose
from ggufrun.chat.session import Event, Session
from ggufrun.engine.context import Context
from ggufrun.engine.draft import Speculation
from ggufrun.errors import EngineError


class Turn:
    """One answer at a time: another thread waits, the thread that has the model already is refused."""

    def __init__(self) -> None:
        self._lock, self._owner = threading.Lock(), 0

    def take(self) -> Callable[[], None]:
        """Take the model; returns what gives it back, which may be called more than once."""
        me = threading.get_ident()
        if self._owner == me and self._lock.locked():
            raise EngineError("the model is still answering", "read its stream to the end, or close it, first")
        self._lock.acquire()
        self._owner = me
        given_back = False

        def give_back() -> None:
            nonlocal given_back
            if not given_back:
                given_back = True
                self._owner = 0
                self._lock.release()

        return give_back


@dataclass(frozen=True)
class Speaker:
    """``options`` and ``choice`` are the prompt format, ``speculation`` guesses ahead, ``stack`` frees everything."""

    stack: ExitStack
    held: Context
    speculation: Speculation | None
    options: FormatOptions
    choice: Choice
    turn: Turn = field(default_factory=Turn)

    @property
    def context(self) -> Context:
        """The context; raises EngineError if the model is closed."""
        _ = self.held.model.pointer
        return self.held

    def format(self, stop: tuple[str, ...] = (), think: bool | None = None) -> Choice:
        """The prompt format with these texts that end an answer."""
        if not stop and think is None:
            return self.choice
        return choose(self.context.model, replace(self.options, reverse=stop, think=think))

    def session(self, choice: Choice, asked: AnswerOptions, system: str | None) -> Session:
        """A new conversation."""
        return Session(
            self.context,
            choice.format,
            asked.sampling,
            system=choice.system if system is None else system,
            limit=self.held.n_ctx if asked.max_tokens is None else asked.max_tokens,
            speculation=self.speculation,
            why=choice.why,
        )

    def answer(self, ask: Callable[[], Iterator[Event]], stream: bool) -> Any:
        """The `Answer` whose events ``ask`` yields, or its `Stream`."""
        running = Stream(cast(Generator[Event, None, None], ask()), self.turn.take())
        if stream:
            return running
        return whole(running)


def whole(stream: Stream) -> Answer:
    """Read a stream to its end."""
    with stream:
        for _ in stream:
            pass
    return stream.answer
