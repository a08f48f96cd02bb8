"""Chat templates: what a model file says of how to talk to it, in Jinja.

They are rendered as transformers' ``apply_chat_template`` renders them, in a process of their own, which can be ended
whatever it does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from ggufrun.chat.formats import template_process
from ggufrun.chat.formats.sandbox import TemplateExcess as TemplateExcess
from ggufrun.chat.formats.sandbox import TemplateRefusal as TemplateRefusal

Message = Mapping[str, Any]
"""``role`` and ``content``, and for an answer that was thought about ``reasoning_content``."""

REASONING_NAMES = ("reasoning_content", "thinking", "reasoning")
"""What templates call a message's reasoning; the first is the one that most read."""

SWITCHES = ("enable_thinking", "thinking")
"""Variables by which templates let their model think, or not."""


class ChatTemplate:
    """A template that compiles. Raises FormatError, naming the line, when it is not valid Jinja."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.variables = template_process.variables(source)

    @property
    def switches(self) -> tuple[str, ...]:
        """The variables of `SWITCHES` that this template asks for."""
        return tuple(name for name in SWITCHES if name in self.variables)

    def render(
        self,
        messages: Sequence[Message],
        *,
        tokens: Mapping[str, str] = MappingProxyType({}),
        prompt: bool,
        variables: Mapping[str, Any] = MappingProxyType({}),
    ) -> str:
        """The conversation as text; with ``prompt`` it ends where the assistant's answer begins.

        ``tokens`` are special tokens by their names (``bos_token``), ``variables`` anything else that the template may
        ask for, ``tools`` and ``documents`` among it. Raises TemplateRefusal when the template does not accept the
        messages, TemplateExcess when it does not come to an end, FormatError when it fails.
        """
        given = {"tools": None, "documents": None, **tokens, **variables}
        values = {**given, "messages": [_message(message) for message in messages], "add_generation_prompt": prompt}
        return template_process.render(self.source, values)


def _message(message: Message) -> dict[str, Any]:
    """What the template sees: nothing that is None, and a reasoning by the names that templates look for."""
    plain = {name: value for name, value in message.items() if value is not None}
    reasoning = next((plain[name] for name in REASONING_NAMES if name in plain), None)
    return plain if reasoning is None else {"thinking": reasoning, **plain, "reasoning_content": reasoning}
