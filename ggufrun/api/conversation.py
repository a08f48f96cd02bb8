"""A conversation that remembers what was said, to be continued, changed, saved and loaded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast, overload

from ggufrun.api.answers import Answer, Stream
from ggufrun.api.options import answer_options, path_of
from ggufrun.api.speaker import Speaker
from ggufrun.chat import store
from ggufrun.chat.session import Event

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ggufrun.api.options import Sampling


class Conversation:
    """Made by `Model.session`. Several may share a model; each computes again what another one has displaced."""

    def __init__(self, speaker: Speaker, system: str | None, options: dict[str, Any]) -> None:
        self._speaker, self._options = speaker, options
        asked = answer_options(options, speaker.choice.sampling)
        self._session = speaker.session(speaker.format(asked.stop), asked, system)
        self._session.shift = True

    @property
    def system(self) -> str:
        """The system prompt; empty for none."""
        return str(self._session.system)

    @property
    def messages(self) -> list[dict[str, str]]:
        """What was said, as OpenAI's API writes it."""
        found = [{"role": "system", "content": self.system}] if self.system else []
        for exchange in self._session.past:
            found.append({"role": "user", "content": exchange.user})
            found.append({"role": "assistant", "content": exchange.answer})
        return found

    @overload
    def ask(self, text: str, *, stream: Literal[False] = False, **options: Unpack[Sampling]) -> Answer: ...

    @overload
    def ask(self, text: str, *, stream: Literal[True], **options: Unpack[Sampling]) -> Stream: ...

    def ask(self, text: str, *, stream: bool = False, **options: Any) -> Answer | Stream:
        """Ask, and remember question and answer. ``options`` hold for this answer only.

        When the context is full, its older half is forgotten, but not the system prompt.
        """
        return self._answered(lambda: self._session.ask(text), stream, options)

    @overload
    def regenerate(self, *, stream: Literal[False] = False, **options: Unpack[Sampling]) -> Answer: ...

    @overload
    def regenerate(self, *, stream: Literal[True], **options: Unpack[Sampling]) -> Stream: ...

    def regenerate(self, *, stream: bool = False, **options: Any) -> Answer | Stream:
        """Answer the last question again. With a fixed seed the next seed is taken, or nothing would change."""
        return self._answered(self._session.again, stream, options)

    def undo(self) -> str | None:
        """Take back the last question and its answer; returns the question, None when there is none."""
        last = self._session.undo()
        return None if last is None else last.user

    def clear(self) -> None:
        """Forget what was said; the system prompt stays."""
        self._session.clear()

    def save(self, path: str | Path) -> None:
        """Write the conversation, and next to it what the model has computed of it, as ``chat --session`` does.

        Raises TargetError.
        """
        store.check_replaceable(path_of(path))
        release = self._speaker.turn.take()
        try:
            store.save(self._session, path_of(path))
        finally:
            release()

    def load(self, path: str | Path) -> None:
        """Put a saved conversation in the place of this one. Raises NotFoundError, FormatError."""
        release = self._speaker.turn.take()
        try:
            store.load(self._session, path_of(path))
        finally:
            release()

    def _answered(self, ask: Callable[[], Iterator[Event]], stream: bool, options: dict[str, Any]) -> Answer | Stream:
        speaker, session = self._speaker, self._session
        # what is given here holds for this answer, the rest as for all of them
        asked = answer_options({**self._options, **options}, speaker.choice.sampling)
        session.sampling = asked.sampling
        session.limit = speaker.held.n_ctx if asked.max_tokens is None else asked.max_tokens
        if asked.stop != session.format.stops:
            session.format = speaker.format(asked.stop).format
        return cast(Answer | Stream, speaker.answer(ask, stream))
