"""The conversation that an answer is led away from: the same questions and answers after the negative prompt.

As in Chinese-LLaMA-Alpaca-2's script the negative prompt stands where the system prompt does. A format without a
place for one has it at the very beginning; a text that is continued as it stands is replaced by it. Without a negative
prompt there is only the last token of the question, as in transformers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ggufrun.chat.formats.history import Exchange, Step, Trace, rendered_trace
from ggufrun.chat.formats.prompt import Format, Prompt
from ggufrun.chat.replay import replay
from ggufrun.engine.guidance import Guidance
from ggufrun.engine.sequence import common_prefix
from ggufrun.engine.vocabulary import Vocab
from ggufrun.errors import FormatError


class Negative:
    """``guidance`` and what it is to lead away from; ``text`` None stands for no negative prompt."""

    def __init__(self, guidance: Guidance, vocab: Vocab, text: str | None) -> None:
        self.guidance = guidance
        self._vocab = vocab
        self._text = text
        self._format: Format | None = None
        self._takes = False
        self._past: list[Exchange] = []
        self._ids: list[int] = []
        self._asked = Prompt([])

    def ask(
        self,
        format: Format,
        past: Sequence[Exchange],
        user: str,
        prompt: Sequence[int],
        seen: int,
        *,
        opened: bool,
        shift: bool,
    ) -> None:
        """Tell the guidance what stands for ``prompt``, the ids of a conversation whose newest question is ``user``.

        ``past`` is what was said before, the first ``seen`` ids of ``prompt``; ``opened`` that ``user`` is a text as it
        stands. What has been taken back or loaded since the last question is followed.
        """
        if self._text is None:
            self._asked = Prompt(list(prompt[-1:]))
            self.guidance.prompt(self._asked.ids)
            return
        if format is not self._format:
            self._format, self._past, self._ids = format, [], []
            self._takes = _takes(format, self._text)
        self._follow(format, past)
        if opened:
            self._asked = Prompt(self._opening())
        elif self._takes:
            self._asked = format.turn(self._past, self._ids, self._text, user, self.guidance.n_ctx if shift else None)
        elif seen and self._ids:
            self._asked = Prompt([*self._ids, *prompt[seen:]])
        else:
            self._asked = Prompt([*self._opening(), *self._without_bos(prompt)])
        ids = self._asked.ids
        if not ids:
            raise FormatError("the negative prompt is empty", "give one with --cfg-negative-prompt")
        known = len(self._ids) if ids[: len(self._ids)] == self._ids else 0
        self.guidance.prompt(ids, seen=known, keep=self._pinned(format, ids) if shift else None)

    def answered(self, words: Exchange, kept: Sequence[int]) -> None:
        """The answer to the last question, and which of its tokens stay in the conversation."""
        if self._text is None:
            return
        before, asked = self._ids, self._asked
        self._ids = [*self._asked.ids, *kept]
        for shift in self.guidance.shifts:
            shift.apply(self._ids)
        thought = words.thought
        if thought is not None:
            # the same tokens, behind another prompt
            start = len(asked.ids)
            thought = None if self.guidance.shifts else (start, start + thought[1] - thought[0])
        self._past.append(
            replace(
                words,
                step=Step.between(before, self._ids),
                rendered=rendered_trace(asked.rendered, asked.first),
                thought=thought,
                after=Trace.of_ids(self._ids) if words.said else None,
            )
        )

    def _follow(self, format: Format, past: Sequence[Exchange]) -> None:
        same = common_prefix([_words(one) for one in self._past], [_words(one) for one in past])
        while len(self._past) > same:
            self._ids = self._past.pop().step.taken_back(self._ids)
        if same < len(past):
            system = self._text if self._takes and self._text is not None else ""
            turns = [(one.user, one.answer) for one in past]
            self._past, self._ids = replay(format, self._vocab, system, turns, opened=past[0].opened)
            if not self._takes:
                self._ids = [*self._opening(), *self._without_bos(self._ids)]

    def _opening(self) -> list[int]:
        return self._vocab.tokenize(self._text or "", special=True, bos=True)

    def _without_bos(self, ids: Sequence[int]) -> list[int]:
        return list(ids[1:] if self._vocab.add_bos and ids[:1] == [self._vocab.bos] else ids)

    def _pinned(self, format: Format, ids: list[int]) -> int:
        """How many of the first tokens stay when this side is full: the negative prompt."""
        if self._takes:
            one, other = (format.turn([], [], self._text or "", text).ids for text in ("A", "一"))
            pinned = min(common_prefix(ids, one), common_prefix(ids, other))
        else:
            pinned = common_prefix(ids, self._opening())
        return min(pinned, self.guidance.n_ctx // 2)


def _takes(format: Format, text: str) -> bool:
    """Does the format have a place for a system prompt?"""
    return format.turn([], [], text, "A").ids != format.turn([], [], "", "A").ids


def _words(exchange: Exchange) -> tuple[str, str, bool]:
    return exchange.user, exchange.answer, exchange.opened
