"""Where a grammar begins in the answer of a model that thinks first: after the thoughts, and what frames the answer.

A grammar that applied from the first token would leave the model no way to think, or to answer: a model trained to
think writes an empty answer, or a bad one, when the first character it may write is ``{``.
"""

from __future__ import annotations

from dataclasses import dataclass

MOST_SPACE = 16
"""Bytes of white space between the thoughts and the answer that the grammar does not see."""


@dataclass(frozen=True)
class Span:
    """Thoughts are between ``opening`` and ``closing``. ``before`` are texts that may precede the answer."""

    opening: bytes
    closing: bytes
    before: tuple[bytes, ...] = ()


@dataclass(frozen=True)
class Thinking:
    """How a model thinks: the ``spans`` that it may write, and the one that its prompt has ``opened``."""

    spans: tuple[Span, ...]
    opened: Span | None = None


class Gate:
    """Follows an answer, token by token, up to the place where the grammar begins."""

    def __init__(self, thinking: Thinking) -> None:
        self._thinking = thinking
        self.restart()

    def restart(self) -> None:
        """Back to the beginning of an answer."""
        self._span = self._thinking.opened
        self._text = b""
        self._thought = self._span is not None
        self._space = 0
        self.passed = False
        """Is all that follows the grammar's?"""

    @property
    def thinks(self) -> bool:
        """Is the model within its thoughts, where everything may be written?"""
        return self._span is not None

    @property
    def partial(self) -> bool:
        """Has a mark been begun that is not complete?"""
        return bool(self._text) and self._span is None

    def admits(self, piece: bytes) -> bool:
        """May ``piece`` come next without the grammar: a part of thoughts, of a mark, or white space after thoughts?"""
        if self._span is not None:
            return True
        if self.passed or not piece:
            return False
        text = self._text + piece
        if not text.strip():
            return self._thought and self._space + len(piece) <= MOST_SPACE
        text = text.lstrip()
        return any(mark.startswith(text) or text.startswith(mark) for mark in self._marks())

    def see(self, piece: bytes) -> None:
        """``piece`` was written, and `admits` it."""
        self._text += piece
        if self._span is None and self._thought and not self._text.strip():
            self._space += len(piece)
            self._text = b""
        while self._take_mark():
            pass

    def close(self) -> None:
        """The grammar has begun."""
        self.passed = True

    def _marks(self) -> tuple[bytes, ...]:
        """What may be written next: thoughts begin, or what frames an answer."""
        found = []
        for span in self._thinking.spans:
            found.append(span.opening)
            # what frames an answer counts without thoughts too where it is made of control tokens
            found += [text for text in span.before if self._thought or text.startswith((b"<|", b"to="))]
        return tuple(found)

    def _take_mark(self) -> bool:
        """Take one whole mark from the text that was written; returns whether there was one."""
        if self._span is not None:
            _, found, rest = self._text.partition(self._span.closing)
            if not found:
                # as much as may be the beginning of the closing mark
                self._text = self._text[-(len(self._span.closing) - 1) :] if len(self._span.closing) > 1 else b""
                return False
            self._span, self._text, self._space = None, rest.lstrip(), 0
            return bool(rest.strip())
        text = self._text.lstrip()
        for span in self._thinking.spans:
            if text.startswith(span.opening):
                self._span, self._thought, self._text = span, True, text[len(span.opening) :]
                return True
        for mark in self._marks():
            if text.startswith(mark):
                self._thought, self._text, self._space = True, text[len(mark) :], 0
                return bool(self._text)
        return False
