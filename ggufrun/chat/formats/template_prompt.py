"""A conversation in the words of the Jinja template that a model brings."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from ggufrun.chat.formats.history import Exchange, window
from ggufrun.chat.formats.prompt import Prompt
from ggufrun.chat.formats.reasoning import control_names, marks_of, opened_by, thinking_of
from ggufrun.chat.formats.template import ChatTemplate, Message, TemplateExcess
from ggufrun.engine.sampling.thinking import Thinking
from ggufrun.engine.vocabulary import Vocab
from ggufrun.errors import FormatError


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
        self.key = ["template", template.source]
        self.marks = marks_of(vocab, template.source)
        self.named = control_names(vocab, self.marks, self.stops)
        self._vocab = vocab
        self._bos_text, self._eos_text = vocab.text(vocab.bos), vocab.text(vocab.eos)
        # one that the vocabulary does not have is not defined for the template either
        named = {"bos_token": self._bos_text, "eos_token": self._eos_text}
        self._tokens = {name: text for name, text in named.items() if text}

    def turn(
        self, past: Sequence[Exchange], ids: Sequence[int], system: str, user: str, room: int | None = None
    ) -> Prompt:
        """Render the conversation, and feed only what is new in it if the rest is what the model has seen."""
        # what the last text began with, so that this one can be compared with it
        first = past[-1].rendered.first if ids and past and past[-1].rendered is not None else 0
        text = self._text(past[first:], system, user)
        reasons = opened_by(text, self.marks)
        known = self._known(past, ids, text)
        if room is not None and (later := window(past, first, room)) > first:
            # The next turn need not look back as far. A template that refuses such a beginning is left as it is.
            with contextlib.suppress(FormatError):
                text, first = self._text(past[later:], system, user), later
        if known is not None:
            start, delta = known
            return Prompt([*start, *self._vocab.tokenize(delta, special=True)], text, len(start), reasons, first)
        return Prompt(self._tokenize(text), text, reasons=reasons, first=first)

    def thinking(self, prompt: Prompt) -> Thinking | None:
        """In the marks that the vocabulary has tokens for, or that the template names."""
        return thinking_of(self._vocab, self.marks, prompt.reasons, self.template.source)

    @property
    def described(self) -> dict[str, Any]:
        """With the variables as they are now."""
        return {"template": self.template.source, "variables": self.variables, "stops": list(self.stops)}

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
        if not past or past[-1].rendered is None or not past[-1].rendered.trace.begins(text):
            return None
        last = past[-1]
        rest = text[past[-1].rendered.trace.length :].lstrip()
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
