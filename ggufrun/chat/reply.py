"""An answer on its way: from the bytes of its tokens to the pieces that are shown."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ggufrun.chat.formats.prompt import Format, Prompt
from ggufrun.chat.formats.reasoning import Splitter
from ggufrun.chat.stream import AnswerStream


@dataclass(frozen=True)
class Text:
    """A piece of the answer, ready to be shown: whole characters only."""

    text: str


@dataclass(frozen=True)
class Thought:
    """A piece of what the model thinks before it answers."""

    text: str


class Reply:
    """An answer on its way: the bytes of its tokens become pieces of reasoning and of the answer."""

    def __init__(self, format: Format, prompt: Prompt) -> None:
        self.stream = AnswerStream(format.stops, strip_space=format.strip_space)
        self.splitter = Splitter(format.marks, prompt.reasons)
        self._pieces: tuple[list[str], list[str], list[str]] = ([], [], [])

    def feed(self, piece: bytes) -> Iterator[Text | Thought]:
        """What one more token makes certain."""
        text = self.stream.feed(piece)
        return self._events(self.splitter.feed(text), text)

    def flush(self) -> Iterator[Text | Thought]:
        """What the end of the answer sets free."""
        text = self.stream.flush()
        return self._events([*self.splitter.feed(text), *self.splitter.flush()], text)

    def _events(self, pieces: list[tuple[str, bool]], text: str) -> Iterator[Text | Thought]:
        answer, reasoning, said = self._pieces
        said.append(text)
        for part, thought in pieces:
            (reasoning if thought else answer).append(part)
            yield Thought(part) if thought else Text(part)

    @property
    def answer(self) -> str:
        """What the user is answered."""
        return "".join(self._pieces[0])

    @property
    def reasoning(self) -> str:
        """What was thought before."""
        return "".join(self._pieces[1])

    @property
    def said(self) -> str:
        """All that was written, marks included."""
        return "".join(self._pieces[2])

    def place(self, start: int, count: int) -> tuple[int, int] | None:
        """Where among ids the tokens are that precede the answer, of ``count`` that begin at ``start``."""
        if self.splitter.answer_at is None:
            return (start, start + count)
        within = self.stream.tokens_within(self.splitter.answer_at)
        return None if within is None else (start, start + min(within, count))
