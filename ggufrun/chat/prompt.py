"""How a conversation becomes the token ids that a model is fed: three kinds of format behind one protocol.

`StylePrompt` follows a published style, `AffixPrompt` the interactive mode of llama.cpp, `TemplatePrompt` the Jinja
template that a model brings. Each is asked for the whole id list of the next turn and starts from the ids that the
model has really seen, so that its own answers are never tokenized anew unless a template rewrites history.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from ggufrun.chat.styles import Style, encode
from ggufrun.chat.template import ChatTemplate, Message, TemplateRefusal
from ggufrun.engine.vocab import NULL, Vocab
from ggufrun.errors import FormatError

SYSTEM_FORMS: dict[str, tuple[str, str, str]] = {
    "[INST]": ("<<SYS>>\n", "inside", "\n<</SYS>>\n\n"),
    "<|im_start|>": ("<|im_start|>system\n", "ahead", "<|im_end|>\n"),
}
"""A text in affixes that reveals their style, and what stands before a system prompt, whether that is inside the first
message or ahead of it, and what stands after it."""


@dataclass(frozen=True)
class Exchange:
    """A question and its answer.

    ``before`` and ``after`` are the conversation's ids around it; ``answer`` is what the user saw, and ``rendered`` the
    text that a template had made of the conversation up to the answer, if one was used. ``opened`` marks a text that
    was fed as it stands instead of asked.
    """

    user: str
    answer: str
    before: tuple[int, ...]
    after: tuple[int, ...]
    rendered: str = ""
    opened: bool = False


@dataclass(frozen=True)
class Prompt:
    """What to feed for the next answer: all ids, and the text they come from where a template made it."""

    ids: list[int]
    rendered: str = ""


class Format(Protocol):
    """A prompt format. ``stops`` are texts that end an answer; ``keep_stop`` leaves their tokens in the context, and
    ``strip_space`` says that an answer's leading space belongs to the vocabulary, not to the text.
    """

    name: str
    stops: tuple[str, ...]
    keep_stop: bool
    strip_space: bool

    def turn(self, past: Sequence[Exchange], ids: Sequence[int], system: str, user: str) -> Prompt:
        """Ask ``user`` after ``past``, of which ``ids`` is what the model has seen."""


class StylePrompt:
    """A published style."""

    keep_stop = False

    def __init__(self, vocab: Vocab, style: Style, reverse: Sequence[str] = ()) -> None:
        self.name = style.name
        self.style = style
        self.stops = (*style.stops, *reverse)
        self.strip_space = style.name != "none"
        self._vocab = vocab

    def turn(self, past: Sequence[Exchange], ids: Sequence[int], system: str, user: str) -> Prompt:
        """Open the conversation, or continue it after closing an answer that was cut short."""
        style, vocab = self.style, self._vocab
        if not past:
            return Prompt(encode(vocab, style, style.first if system else style.bare, user=user, system=system))
        # A model that ended its answer has written the end itself.
        end = [] if ids and vocab.is_eog(ids[-1]) else encode(vocab, style, style.end)
        return Prompt([*ids, *end, *encode(vocab, style, style.later, user=user)])


class AffixPrompt:
    """The interactive mode of llama.cpp (``--in-prefix``, ``--in-suffix``, ``-r``), token for token.

    A turn is BOS if ``prefix_bos``, then prefix, message and suffix, tokenized apart: the affixes with control tokens,
    the message without. Nothing closes an answer but what the model wrote itself; after an end of text the first
    reverse prompt is put in. As read in ``tools/completion/completion.cpp``.
    """

    name = "affixes"
    keep_stop = True
    strip_space = True

    def __init__(
        self, vocab: Vocab, *, prefix: str = "", suffix: str = "", prefix_bos: bool = False, reverse: Sequence[str] = ()
    ) -> None:
        self.stops = tuple(reverse)
        self._vocab = vocab
        self._bos = [vocab.bos] if prefix_bos and vocab.bos != NULL else []
        self._prefix = vocab.tokenize(prefix, special=True)
        self._suffix = vocab.tokenize(suffix, special=True)
        self._reverse = vocab.tokenize(reverse[0], special=True) if reverse else []
        # Where a style can be told from its affixes, a system prompt has its place.
        self._form = next((form for mark, form in SYSTEM_FORMS.items() if mark in prefix + suffix), ("", "", ""))

    def opening(self, text: str) -> Prompt:
        """``-p``: the text as it stands, control tokens and all, with BOS if the model wants one."""
        return Prompt(self._vocab.tokenize(text, special=True, bos=True))

    def turn(self, past: Sequence[Exchange], ids: Sequence[int], system: str, user: str) -> Prompt:
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


class TemplatePrompt:
    """The model's own Jinja template."""

    name = "template"
    keep_stop = False
    strip_space = True

    def __init__(self, vocab: Vocab, template: ChatTemplate, reverse: Sequence[str] = ()) -> None:
        self.stops = tuple(reverse)
        self.template = template
        self._vocab = vocab
        self._bos_text, self._eos_text = vocab.text(vocab.bos), vocab.text(vocab.eos)
        # one that the vocabulary does not have is not defined for the template either
        named = {"bos_token": self._bos_text, "eos_token": self._eos_text}
        self._tokens = {name: text for name, text in named.items() if text}

    def turn(self, past: Sequence[Exchange], ids: Sequence[int], system: str, user: str) -> Prompt:
        """Render the whole conversation, and feed only what is new in it if the rest is what the model has seen."""
        messages = _messages(past, system, user)
        try:
            text = self._render(messages)
        except TemplateRefusal:
            if not system:
                raise
            # Some templates know no system role; their authors put such words before the first message.
            text = self._render(_messages(past, "", user, opening=system))
        delta = self._delta(past, ids, text)
        if delta is not None:
            return Prompt([*ids, *self._vocab.tokenize(delta, special=True)], text)
        return Prompt(self._tokenize(text), text)

    def _render(self, messages: Sequence[Message]) -> str:
        text = self.template.render(messages, tokens=self._tokens, prompt=True)
        if not text.strip():
            raise FormatError("the chat template makes an empty prompt", "use --style, or --chat-template")
        return text

    def _tokenize(self, text: str) -> list[int]:
        # The template may write BOS itself; it must stand there once.
        if self._bos_text and text.startswith(self._bos_text):
            return [self._vocab.bos, *self._vocab.tokenize(text.removeprefix(self._bos_text), special=True)]
        return self._vocab.tokenize(text, special=True, bos=True)

    def _delta(self, past: Sequence[Exchange], ids: Sequence[int], text: str) -> str | None:
        """What ``text`` has after the last answer, or None when it does not begin with what was rendered before."""
        if not past or not past[-1].rendered or not text.startswith(past[-1].rendered):
            return None
        last = past[-1]
        rest = text[len(last.rendered) :].lstrip()
        answer = last.answer.strip()
        if not rest.startswith(answer):
            return None
        rest = rest[len(answer) :]
        if ids and self._vocab.is_eog(ids[-1]):
            # The model wrote the end itself: it is in the ids already, if it is the end that the template expects.
            end = self._vocab.text(ids[-1])
            return rest.lstrip().removeprefix(end) if rest.lstrip().startswith(end) else None
        return rest.lstrip() if self._eos_text and rest.lstrip().startswith(self._eos_text) else rest


def _messages(past: Sequence[Exchange], system: str, user: str, opening: str = "") -> list[Message]:
    messages: list[Message] = [{"role": "system", "content": system}] if system else []
    for index, user_text in enumerate([*(exchange.user for exchange in past), user]):
        text = f"{opening}\n\n{user_text}" if opening and index == 0 else user_text
        messages.append({"role": "user", "content": text})
        if index < len(past):
            messages.append({"role": "assistant", "content": past[index].answer})
    return messages
