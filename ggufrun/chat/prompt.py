"""How a conversation becomes the token ids that a model is fed: three kinds of format behind one protocol.

`StylePrompt` follows a published style, `AffixPrompt` the interactive mode of llama.cpp, `TemplatePrompt` the Jinja
template that a model brings. Each is asked for the whole id list of the next turn and starts from the ids that the
model has really seen, so that its own answers are never tokenized anew unless a template rewrites history.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Protocol

from ggufrun.chat.reasoning import Marks, control_names, marks_of, opened_by
from ggufrun.chat.styles import Style, encode
from ggufrun.chat.template import ChatTemplate, Message, TemplateExcess
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

    Of a model that thought first, ``reasoning`` are its thoughts, ``said`` is everything it wrote, and ``thought`` the
    place in ``after`` of the tokens that precede the answer; None where that is no longer known.
    """

    user: str
    answer: str
    before: tuple[int, ...]
    after: tuple[int, ...]
    rendered: str = ""
    opened: bool = False
    reasoning: str = ""
    said: str = ""
    thought: tuple[int, int] | None = None

    def without_reasoning(self, ids: Sequence[int]) -> list[int] | None:
        """``ids``, which are those of ``after``, without the tokens of the reasoning; None where they are not known."""
        if not self.said:
            return list(ids)
        if self.thought is None or tuple(ids) != self.after:
            return None
        start, stop = self.thought
        return [*ids[:start], *ids[stop:]]


@dataclass(frozen=True)
class Prompt:
    """What to feed for the next answer: all ids, and the text they come from where a template made it.

    ``seen`` of the ids are older than this turn; None when that is all that the model has seen, if it is there at all.
    ``reasons`` are the marks that the prompt has opened.
    """

    ids: list[int]
    rendered: str = ""
    seen: int | None = None
    reasons: Marks | None = None


class Format(Protocol):
    """A prompt format. ``stops`` are texts that end an answer; ``keep_stop`` leaves their tokens in the context, and
    ``strip_space`` says that an answer's leading space belongs to the vocabulary, not to the text. ``marks`` set
    reasoning apart, and ``named`` are the control tokens among them and the stops.
    """

    name: str
    stops: tuple[str, ...]
    keep_stop: bool
    strip_space: bool
    marks: tuple[Marks, ...]
    named: Mapping[int, bytes]

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
        self.marks = marks_of(vocab) if style.name != "none" else ()
        self.named = control_names(vocab, self.marks, self.stops)
        self._vocab = vocab

    def turn(self, past: Sequence[Exchange], ids: Sequence[int], system: str, user: str) -> Prompt:
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
        self.given = (prefix, suffix, prefix_bos)
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
    """The model's own Jinja template; ``variables`` are what it may ask for beside the messages."""

    name = "template"
    keep_stop = False
    strip_space = True

    def __init__(
        self,
        vocab: Vocab,
        template: ChatTemplate,
        reverse: Sequence[str] = (),
        variables: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        self.stops = tuple(reverse)
        self.template = template
        self.variables = dict(variables)
        self.marks = marks_of(vocab, template.source)
        self.named = control_names(vocab, self.marks, self.stops)
        self._vocab = vocab
        self._bos_text, self._eos_text = vocab.text(vocab.bos), vocab.text(vocab.eos)
        # one that the vocabulary does not have is not defined for the template either
        named = {"bos_token": self._bos_text, "eos_token": self._eos_text}
        self._tokens = {name: text for name, text in named.items() if text}

    def turn(self, past: Sequence[Exchange], ids: Sequence[int], system: str, user: str) -> Prompt:
        """Render the whole conversation, and feed only what is new in it if the rest is what the model has seen."""
        text = self._text(past, system, user)
        reasons = opened_by(text, self.marks)
        known = self._known(past, ids, text)
        if known is not None:
            start, delta = known
            return Prompt([*start, *self._vocab.tokenize(delta, special=True)], text, len(start), reasons)
        return Prompt(self._tokenize(text), text, reasons=reasons)

    def think(self, wanted: bool) -> bool:
        """Let the model think, or not; False when the template has no switch for it."""
        self.variables |= dict.fromkeys(self.template.switches, wanted)
        return bool(self.template.switches)

    def _text(self, past: Sequence[Exchange], system: str, user: str) -> str:
        """The conversation as the template has it, in the first form in which nothing of it is missing.

        Some templates know no system role; their authors put such words before the first message. Some want a message's
        content as a list of parts, some a list of tools, even of none.
        """
        last = user.strip()
        refusal: FormatError | None = None
        first = ""
        ways = [(form, self.variables) for form in _forms(past, system, user)]
        ways.append((_messages(past, system, user), {"tools": [], "documents": [], **self.variables}))
        for messages, variables in ways:
            try:
                text = self.template.render(messages, tokens=self._tokens, prompt=True, variables=variables)
            except TemplateExcess:
                raise
            except FormatError as error:
                refusal = refusal or error
                continue
            if last in text and system.strip() in text and text.strip():
                return text
            first = first or text
        if not first.strip():
            raise refusal or FormatError("the chat template makes an empty prompt", "use --style, or --chat-template")
        return first

    def _tokenize(self, text: str) -> list[int]:
        # The template may write BOS itself; it must stand there once.
        if self._bos_text and text.startswith(self._bos_text):
            return [self._vocab.bos, *self._vocab.tokenize(text.removeprefix(self._bos_text), special=True)]
        return self._vocab.tokenize(text, special=True, bos=True)

    def _known(self, past: Sequence[Exchange], ids: Sequence[int], text: str) -> tuple[list[int], str] | None:
        """The ids that stay, and what ``text`` has after the last answer; None when ``text`` is not what was seen.

        Templates drop the reasoning of earlier turns, or keep it; what the model has seen is cut accordingly.
        """
        if not past or not past[-1].rendered or not text.startswith(past[-1].rendered):
            return None
        last = past[-1]
        rest = text[len(last.rendered) :].lstrip()
        kept, said = list(ids), last.said.strip()
        if said and rest.startswith(said):
            rest = rest[len(said) :]
        else:
            answer = last.answer.strip()
            cut = last.without_reasoning(ids)
            if cut is None or not rest.startswith(answer):
                return None
            kept, rest = cut, rest[len(answer) :]
        if kept and self._vocab.is_eog(kept[-1]):
            # The model wrote the end itself: it is in the ids already, if it is the end that the template expects.
            end = self._vocab.text(kept[-1])
            return (kept, rest.lstrip().removeprefix(end)) if rest.lstrip().startswith(end) else None
        return kept, rest.lstrip() if self._eos_text and rest.lstrip().startswith(self._eos_text) else rest


def _forms(past: Sequence[Exchange], system: str, user: str) -> Iterator[list[Message]]:
    """The ways in which a conversation can be told, the usual one first."""
    ways = [_messages(past, system, user)]
    if system:
        ways.append(_messages(past, "", user, opening=system))
    yield from ways
    for messages in ways:
        yield [{**message, "content": [{"type": "text", "text": message["content"]}]} for message in messages]


def _messages(past: Sequence[Exchange], system: str, user: str, opening: str = "") -> list[Message]:
    messages: list[Message] = [{"role": "system", "content": system}] if system else []
    for index, user_text in enumerate([*(exchange.user for exchange in past), user]):
        text = f"{opening}\n\n{user_text}" if opening and index == 0 else user_text
        messages.append({"role": "user", "content": text})
        if index < len(past):
            reasoning = past[index].reasoning
            answer = {"role": "assistant", "content": past[index].answer}
            messages.append({**answer, "reasoning_content": reasoning} if reasoning else answer)
    return messages
