"""How a conversation becomes the token ids that a model is fed: three kinds of format behind one protocol.

`StylePrompt` follows a published style, `AffixPrompt` the interactive mode of llama.cpp, and `TemplatePrompt`, in a
module of its own, the Jinja template that a model brings. Each is asked for the whole id list of the next turn and
starts from the ids that the model has really seen, so that its own answers are never tokenized anew unless a template
rewrites history.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ggufrun.chat.formats.history import Exchange
from ggufrun.chat.formats.reasoning import Marks, control_names, marks_of, thinking_of
from ggufrun.chat.formats.styles import Style, encode
from ggufrun.engine.sampling.thinking import Thinking
from ggufrun.engine.vocabulary import NULL, Vocab

SYSTEM_FORMS: dict[str, tuple[str, str, str]] = {
    "[INST]": ("<<SYS>>\n", "inside", "\n<</SYS>>\n\n"),
    "<|im_start|>": ("<|im_start|>system\n", "ahead", "<|im_end|>\n"),
}
"""A text in affixes that reveals their style, and what stands before a system prompt, whether that is inside the first
message or ahead of it, and what stands after it."""


@dataclass(frozen=True)
class Prompt:
    """What to feed for the next answer: all ids, and the text they come from where a template made it (``rendered``, of
    the turns from ``first`` on).

    ``seen`` of the ids are older than this turn; None when that is all that the model has seen, if it is there at all.
    ``reasons`` are the marks that the prompt has opened.
    """

    ids: list[int]
    rendered: str = ""
    seen: int | None = None
    reasons: Marks | None = None
    first: int = 0


class Format(Protocol):
    """A prompt format. ``stops`` are texts that end an answer; ``keep_stop`` leaves their tokens in the context, and
    ``strip_space`` says that an answer's leading space belongs to the vocabulary, not to the text. ``marks`` set
    reasoning apart, and ``named`` are the control tokens among them and the stops. ``key`` is JSON that tells a format
    from others, which would make other ids of the same words, and ``described`` is what it can be made from again.
    """

    name: str
    stops: tuple[str, ...]
    keep_stop: bool
    strip_space: bool
    marks: tuple[Marks, ...]
    named: Mapping[int, bytes]

    @property
    def key(self) -> list[Any]: ...

    @property
    def described(self) -> dict[str, Any]: ...

    def turn(
        self, past: Sequence[Exchange], ids: Sequence[int], system: str, user: str, room: int | None = None
    ) -> Prompt:
        """Ask ``user`` after ``past``, of which ``ids`` is what the model has seen.

        In a conversation that may outgrow its context, ``room`` is how many tokens that holds: what is older than it
        can hold need not be looked at.
        """

    def thinking(self, prompt: Prompt) -> Thinking | None:
        """How the model may think in its answer to ``prompt`` before a grammar begins."""


class StylePrompt:
    """A published style."""

    keep_stop = False

    def __init__(self, vocab: Vocab, style: Style, reverse: Sequence[str] = ()) -> None:
        self.name = style.name
        self.style = style
        self.stops = (*style.stops, *reverse)
        self.strip_space = style.name != "none"
        self.marks = marks_of(vocab) if style.name != "none" else ()
        self.named = control_names(vocab, self.marks, self.stops)
        self.key = ["style", self.name]
        self.described = {"style": self.name, "stops": list(reverse)}
        self._vocab = vocab

    def turn(
        self, past: Sequence[Exchange], ids: Sequence[int], system: str, user: str, room: int | None = None
    ) -> Prompt:
        """Open the conversation, or continue it after closing an answer that was cut short."""
        style, vocab = self.style, self._vocab
        if not past:
            return Prompt(encode(vocab, style, style.first if system else style.bare, user=user, system=system))
        # No style keeps what a model thought of earlier questions.
        start = past[-1].without_reasoning(ids)
        start = list(ids) if start is None else start
        # A model that ended its answer has written the end itself.
        end = [] if start and vocab.is_eog(start[-1]) else encode(vocab, style, style.end)
        return Prompt([*start, *end, *encode(vocab, style, style.later, user=user)], seen=len(start))

    def thinking(self, prompt: Prompt) -> Thinking | None:
        """In the marks that the vocabulary has tokens for."""
        return thinking_of(self._vocab, self.marks, prompt.reasons)


class AffixPrompt:
    """The interactive mode of llama.cpp (``--in-prefix``, ``--in-suffix``, ``-r``), token for token.

    A turn is BOS if ``prefix_bos``, then prefix, message and suffix, tokenized apart: the affixes with control tokens,
    the message without. Nothing closes an answer but what the model wrote itself; after an end of text the first
    reverse prompt is put in. As read in ``tools/completion/completion.cpp``.
    """

    name = "affixes"
    keep_stop = True
    strip_space = True
    # As in llama.cpp, what the model writes is the answer.
    marks: tuple[Marks, ...] = ()

    def __init__(
        self, vocab: Vocab, *, prefix: str = "", suffix: str = "", prefix_bos: bool = False, reverse: Sequence[str] = ()
    ) -> None:
        self.stops = tuple(reverse)
        self.named = control_names(vocab, self.marks, self.stops)
        self.described = {"affixes": [prefix, suffix, prefix_bos], "stops": list(reverse)}
        self._vocab = vocab
        self._bos = [vocab.bos] if prefix_bos and vocab.bos != NULL else []
        self._prefix = vocab.tokenize(prefix, special=True)
        self._suffix = vocab.tokenize(suffix, special=True)
        self.key = ["affixes", self._bos, self._prefix, self._suffix]
        self._reverse = vocab.tokenize(reverse[0], special=True) if reverse else []
        # Where a style can be told from its affixes, a system prompt has its place.
        self._form = next((form for mark, form in SYSTEM_FORMS.items() if mark in prefix + suffix), ("", "", ""))

    def opening(self, text: str) -> Prompt:
        """``-p``: the text as it stands, control tokens and all, with BOS if the model wants one."""
        return Prompt(self._vocab.tokenize(text, special=True, bos=True))

    def turn(
        self, past: Sequence[Exchange], ids: Sequence[int], system: str, user: str, room: int | None = None
    ) -> Prompt:
        """Append a message; an empty one gives the word back to the model."""
        vocab = self._vocab
        start = [*ids]
        if start and vocab.is_eog(start[-1]):
            start += self._reverse
        if not start and vocab.add_bos and not self._bos:
            start = [vocab.bos]
        if not user:
            return Prompt([*start, *self._bos])
        head: list[int] = []
        if system and not ids and self.takes_system:
            before, place, after = self._form
            if place == "inside":
                user = f"{before}{system}{after}{user}"
            else:
                head = [
                    *vocab.tokenize(before, special=True),
                    *vocab.tokenize(system, special=False),
                    *vocab.tokenize(after, special=True),
                ]
        message = vocab.tokenize(user, special=False)
        return Prompt([*start, *self._bos, *head, *self._prefix, *message, *self._suffix])

    def thinking(self, prompt: Prompt) -> Thinking | None:
        """Never: the grammar begins with the first token, as in llama.cpp."""
        return None

    @property
    def takes_system(self) -> bool:
        """Do the affixes belong to a style whose form of a system prompt is known?"""
        return bool(self._form[0])

    def with_system(self, text: str, system: str) -> str | None:
        """The opening ``text`` with a system prompt in it; None when there is no telling where it belongs."""
        before, place, after = self._form
        if not before or before.strip() in text:
            return None
        block = f"{before}{system}{after}"
        if place == "ahead":
            return block + text
        mark = next(mark for mark in SYSTEM_FORMS if SYSTEM_FORMS[mark] == self._form)
        head, found, rest = text.partition(mark)
        return f"{head}{mark} {block}{rest.removeprefix(' ')}" if found and not head.strip() else None
