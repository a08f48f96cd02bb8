"""Models that think before they answer: where their reasoning stands in what they write, and what of it is the answer.

The marks are those of published models; which of them a model may use is told by its template and its vocabulary, so
that an answer in XML stays an answer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from ggufrun.engine.sampling.thinking import Span, Thinking
from ggufrun.engine.vocabulary import Vocab


@dataclass(frozen=True)
class Marks:
    """``opening`` and ``closing`` stand around the reasoning. ``before`` and ``after`` are texts that may stand around
    the answer and belong to neither. ``sign`` is what a template or a vocabulary of such a model contains.
    """

    opening: str
    closing: str
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    sign: str = ""


THINK = Marks("<think>", "</think>", ("<response>",), ("</response>",))
"""Of so many models that it is looked for in all of them."""

MARKS: tuple[Marks, ...] = (
    THINK,
    Marks("<think:opensource>", "</think:opensource>", sign=":opensource"),
    Marks("<thinking>", "</thinking>"),
    Marks("<seed:think>", "</seed:think>"),
    Marks("<mm:think>", "</mm:think>"),
    Marks("[THINK]", "[/THINK]"),
    Marks("◁think▷", "◁/think▷"),
    Marks("<|inner_prefix|>", "<|inner_suffix|>"),
    Marks(
        "<|begin_of_thought|>",
        "<|end_of_thought|>",
        ("<|begin_of_solution|>",),
        ("<|end_of_solution|>",),
    ),
    Marks(
        "<|START_THINKING|>",
        "<|END_THINKING|>",
        ("<|START_RESPONSE|>", "<|START_TEXT|>"),
        ("<|END_RESPONSE|>", "<|END_TEXT|>"),
    ),
    Marks(
        "<|channel|>analysis<|message|>",
        "<|end|>",
        ("<|start|>assistant", "<|channel|>final<|message|>"),
        sign="<|channel|>",
    ),
    Marks("<|channel|>commentary<|message|>", "<|end|>", ("<|start|>assistant",), sign="<|channel|>"),
    Marks("<|channel>thought\n", "<channel|>", sign="<|channel>"),
    Marks("<|think|>", "<|end|>", ("<|begin|>assistant", "<|content|>")),
    Marks(
        "<|open|>think<|sep|>",
        "<|close|>think<|sep|>",
        ("<|open|>response<|sep|>",),
        ("<|close|>response<|sep|>",),
        sign="<|open|>",
    ),
    Marks(
        "to=self<|message|>",
        "<|eom|>",
        ("<|start|>assistant to=user<|message|>", "to=user<|message|>"),
        sign="to=self",
    ),
    Marks(
        "Here are my reasoning steps:",
        "[BEGIN FINAL RESPONSE]",
        after=("[END FINAL RESPONSE]",),
    ),
)
"""Every published way."""

CONTROL = re.compile(r"<[^<>\s]+>|\[/?[A-Z]+\]")
"""The control tokens in a mark."""


def marks_of(vocab: Vocab, template: str = "") -> tuple[Marks, ...]:
    """The marks that a model with this vocabulary and template may write."""
    found = [THINK]
    for marks in MARKS[1:]:
        sign = marks.sign or marks.opening
        if sign in template or (CONTROL.fullmatch(sign) and vocab.control(sign) is not None):
            found.append(marks)
    return tuple(found)


def thinking_of(vocab: Vocab, marks: Sequence[Marks], opened: Marks | None, template: str = "") -> Thinking | None:
    """How the model may think before a grammar begins: in the marks that the vocabulary has as tokens of their own, or
    that the template names. None for a model that has neither.
    """
    known = [mark for mark in marks if mark.opening in template or vocab.control(mark.opening.strip()) is not None]
    known += [mark for mark in marks if mark.sign and mark not in known]
    spans = {mark: _span(mark) for mark in [*known, *([opened] if opened is not None else [])]}
    return Thinking(tuple(spans.values()), spans[opened] if opened is not None else None) if spans else None


def _span(mark: Marks) -> Span:
    return Span(mark.opening.encode(), mark.closing.encode(), tuple(text.encode() for text in mark.before))


def control_names(vocab: Vocab, marks: Sequence[Marks], stops: Sequence[str] = ()) -> Mapping[int, bytes]:
    """The control tokens of marks and stop texts, which have no text of their own, and their names."""
    texts = {
        name
        for mark in marks
        for text in (mark.opening, mark.closing, *mark.before, *mark.after)
        for name in CONTROL.findall(text)
    }
    named = {token: text.encode() for text in texts if (token := vocab.control(text)) is not None}
    for token in (token for stop in stops for token in vocab.tokenize(stop, special=True)):
        if not vocab.piece(token):
            named[token] = vocab.piece(token, special=True)
    return MappingProxyType(named)


def opened_by(prompt: str, marks: Sequence[Marks]) -> Marks | None:
    """The marks whose opening a prompt ends with: then the answer begins with reasoning."""
    end = prompt.rstrip()
    return next((mark for mark in marks if end.endswith(mark.opening.rstrip())), None)


class Splitter:
    """Text in pieces, each handed out as ``(text, is reasoning)`` as soon as it is certain what it is.

    Reasoning is what stands between marks at the very beginning; ``opened`` says that the prompt has opened it already.
    White space around reasoning belongs to nothing.
    """

    def __init__(self, marks: Sequence[Marks] = (), opened: Marks | None = None) -> None:
        self._marks = marks
        self._active = opened
        self._state = "reasoning" if opened is not None else "beginning"
        self._held = ""
        self._fed = 0
        self._begun = False
        self._said = False
        self.thought = opened is not None
        self.answer_at: int | None = None
        """Characters of the text fed that lie before the answer, once it has begun."""
        if not marks:
            self._state, self.answer_at = "answer", 0

    def feed(self, text: str) -> list[tuple[str, bool]]:
        """What more text makes certain."""
        self._fed += len(text)
        if self._state == "answer" and not self._held and (self._active is None or not self._active.after):
            # as good as always
            return [(text, False)] if text else []
        self._held += text
        pieces: list[tuple[str, bool]] = []
        while self._step(pieces):
            pass
        return [piece for piece in pieces if piece[0]]

    def flush(self) -> list[tuple[str, bool]]:
        """What was held back, now that no more text comes."""
        held, self._held = self._held, ""
        if self._state == "reasoning":
            return [(held.rstrip(), True)] if held.strip() else []
        if self._state == "beginning":
            self.answer_at = self._fed - len(held)
            return [(held, False)] if held and not (self.thought and not held.strip()) else []
        ends = self._active.after if self._active is not None else ()
        end = next((end for end in ends if held.strip() == end), None)
        return [(held, False)] if held and end is None else []

    def _step(self, pieces: list[tuple[str, bool]]) -> bool:
        """Take one step with what is held; returns whether another may follow."""
        if self._state == "beginning":
            return self._begin()
        if self._state == "reasoning":
            return self._reason(pieces)
        ready = len(self._held) - self._doubtful_end()
        pieces.append((self._held[:ready], False))
        self._held = self._held[ready:]
        return False

    def _begin(self) -> bool:
        rest = self._held.lstrip()
        openings = {mark.opening: mark for mark in self._marks}
        # What frames an answer counts after reasoning, or where it is made of control tokens.
        frames = {
            text: mark
            for mark in self._marks
            for text in mark.before
            if mark is self._active or text.startswith(("<|", "to="))
        }
        for text, mark in {**frames, **openings}.items():
            if rest.startswith(text):
                self._active, self.thought = mark, True
                self._held = rest[len(text) :]
                if text in openings:
                    self._state, self._begun = "reasoning", False
                return True
        if any(text.startswith(rest) for text in (*frames, *openings)):
            return False
        self._held = rest if self.thought else self._held
        self._state, self.answer_at = "answer", self._fed - len(self._held)
        return True

    def _reason(self, pieces: list[tuple[str, bool]]) -> bool:
        assert self._active is not None
        body, found, rest = self._held.partition(self._active.closing)
        if not self._begun:
            body = body.lstrip()
        if found:
            self._think(pieces, body.rstrip())
            self._state, self._held = "beginning", rest
            return True
        ready = len(body.rstrip())
        for length in range(min(len(self._active.closing) - 1, len(body)), 0, -1):
            if self._active.closing.startswith(body[-length:]):
                ready = len(body[:-length].rstrip())
                break
        if ready:
            self._think(pieces, body[:ready])
        self._held = body[ready:]
        return False

    def _think(self, pieces: list[tuple[str, bool]], text: str) -> None:
        if text:
            # a second block is a paragraph of its own
            pieces.append((f"\n\n{text}" if self._said and not self._begun else text, True))
            self._begun = self._said = True

    def _doubtful_end(self) -> int:
        """Length of the held text's end that may be what frames the answer."""
        ends = self._active.after if self._active is not None else ()
        if not ends:
            return 0
        text = self._held.rstrip()
        for end in ends:
            for length in range(min(len(end), len(text)), 0, -1):
                if end.startswith(text[-length:]):
                    return len(self._held) - len(text[:-length].rstrip())
        return len(self._held) - len(text)
