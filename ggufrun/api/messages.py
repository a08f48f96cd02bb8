"""Messages as OpenAI's API has them, as a system prompt, past turns and the question that is to be answered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ggufrun.errors import UsageError

FORM = "give {'role': 'user', 'content': '...'}: perhaps a system prompt first, then user and assistant in turn"


@dataclass(frozen=True)
class Talk:
    """``system`` None means that nothing was said about it; ``turns`` are pairs of question and answer."""

    question: str
    turns: tuple[tuple[str, str], ...] = ()
    system: str | None = None


def parse(messages: str | Sequence[Mapping[str, Any]]) -> Talk:
    """A single question, or a list of messages whose last is the user's. Raises UsageError."""
    if isinstance(messages, str):
        return Talk(messages)
    given = [one for one in messages if isinstance(one, Mapping)]
    if not given or len(given) != len(messages):
        raise UsageError("there are no messages", FORM)
    said = [(str(one.get("role")), _content(one)) for one in given]
    system = None
    if said[0][0] in ("system", "developer"):
        system = said.pop(0)[1]
    roles = [role for role, _ in said]
    if roles != ["user", "assistant"] * (len(roles) // 2) + ["user"]:
        raise UsageError(f"the roles of the messages are {', '.join(roles) or 'none'}", FORM)
    texts = [text for _, text in said]
    return Talk(texts[-1], tuple(zip(texts[:-1:2], texts[1::2], strict=True)), system)


def _content(message: Mapping[str, Any]) -> str:
    """The text of a message: a string, or parts of type text."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    if isinstance(content, Sequence):
        parts = [part.get("text") for part in content if isinstance(part, Mapping) and part.get("type") == "text"]
        texts = [part for part in parts if isinstance(part, str)]
        if len(texts) == len(content):
            return "".join(texts)
    raise UsageError(f"a message has the content {str(content)[:60]!r}", "only text is understood")
