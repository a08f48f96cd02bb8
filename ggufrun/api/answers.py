"""What a model answers, as records: whole, or piece by piece while it comes."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from types import TracebackType

from ggufrun.chat.reply import Text, Thought
from ggufrun.chat.session import Done, Event
from ggufrun.engine.generate import StopReason

FINISH: dict[StopReason, str] = {
    StopReason.END: "stop",
    StopReason.TEXT: "stop",
    StopReason.LENGTH: "length",
    StopReason.FULL: "length",
    StopReason.INTERRUPTED: "interrupted",
    StopReason.CLOSED: "interrupted",
}
"""Why an answer ended, in the words of OpenAI's API, and one for an answer that the caller cut short."""


@dataclass(frozen=True)
class Answer:
    """A whole answer; ``str()`` of it is its text.

    ``reasoning`` is what the model thought first, if it is one that does. ``finish_reason`` is ``stop``, ``length``
    (``max_tokens`` or the context was reached) or ``interrupted``. ``prompt_tokens`` were read for it, of which
    ``cached_tokens`` had been computed before; ``completion_tokens`` were generated in ``seconds``.
    """

    text: str
    reasoning: str = ""
    finish_reason: str = "stop"
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0

    def __str__(self) -> str:
        return self.text

    @property
    def tokens_per_second(self) -> float:
        """Speed of the generation, without reading the prompt."""
        return self.completion_tokens / self.seconds if self.seconds else 0.0


@dataclass(frozen=True)
class Piece:
    """A part of an answer on its way: whole characters of its ``text``, or of the ``reasoning`` before it."""

    text: str = ""
    reasoning: str = ""

    def __str__(self) -> str:
        return self.text


@dataclass
class _Heard:
    """What came of an answer so far."""

    text: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    done: Done | None = None


def _pieces(events: Generator[Event, None, None], heard: _Heard) -> Generator[Piece, None, None]:
    # not a method: a stream that its own generator holds would not end when nobody else holds it
    try:
        for event in events:
            if isinstance(event, Text) and event.text:
                heard.text.append(event.text)
                yield Piece(text=event.text)
            elif isinstance(event, Thought) and event.text:
                heard.reasoning.append(event.text)
                yield Piece(reasoning=event.text)
            elif isinstance(event, Done):
                heard.done = event
    finally:
        # the conversation keeps what came, before anybody else may use the model
        events.close()


class Stream:
    """An answer on its way: iterate over its pieces; ``answer`` is the whole once they have ended.

    Closing it, or leaving its ``with`` block, stops the model; what came until then is ``answer``.
    """

    def __init__(self, events: Generator[Event, None, None], release: Callable[[], None]) -> None:
        self._heard = _Heard()
        self._pieces = _pieces(events, self._heard)
        self._release = release

    def __iter__(self) -> Iterator[Piece]:
        return self

    def __next__(self) -> Piece:
        try:
            return next(self._pieces)
        except BaseException:
            self._release()
            raise

    @property
    def answer(self) -> Answer:
        """The answer so far; whole when the pieces have ended."""
        text, reasoning, done = "".join(self._heard.text), "".join(self._heard.reasoning), self._heard.done
        if done is None:
            return Answer(text, reasoning, "interrupted")
        stats = done.stats
        return Answer(
            text,
            reasoning,
            FINISH[stats.reason],
            stats.prompt_tokens,
            stats.prompt_tokens - stats.decoded_prompt_tokens,
            stats.tokens,
            stats.time,
        )

    def close(self) -> None:
        """Stop the model. Closing twice is fine."""
        try:
            self._pieces.close()
        finally:
            self._release()

    def __enter__(self) -> Stream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        # a stream that nobody reads to its end must not keep the model for ever
        self.close()
