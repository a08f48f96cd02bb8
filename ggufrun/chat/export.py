"""Conversations written to be read, by people as Markdown or by programs as JSON messages."""

from __future__ import annotations

import json
from pathlib import Path

from ggufrun.chat.session import Session
from ggufrun.chat.store import write_whole
from ggufrun.errors import TargetError, UsageError


def export(session: Session, path: Path) -> None:
    """Write the conversation to be read: Markdown, or JSON messages where the name ends in .json. A file that stands is
    replaced only if it is an earlier export of this conversation.

    Raises UsageError, TargetError.
    """
    suffix = path.suffix.lower()
    if suffix not in (".md", ".markdown", ".txt", ".json"):
        raise UsageError(f"{path.name} says no format", "give a name that ends in .md or .json")
    text = as_json(session) if suffix == ".json" else as_markdown(session)
    if path.exists() and path.resolve() not in session.exports:
        raise TargetError(f"{path} exists", "choose another name")
    try:
        write_whole(path, text)
        session.exports.add(path.resolve())
    except OSError as error:
        raise TargetError(f"{path} cannot be written: {error.strerror}", "choose another name") from error


def as_json(session: Session) -> str:
    """``{"model": ..., "messages": [...]}``, as training data and other programs have it."""
    messages = [{"role": "system", "content": session.system}] if session.system else []
    for exchange in session.past:
        messages.append({"role": "user", "content": exchange.user})
        answer = {"role": "assistant", "content": exchange.answer}
        messages.append({**answer, "reasoning_content": exchange.reasoning} if exchange.reasoning else answer)
    whole = {"model": session.context.model.name, "messages": messages}
    return json.dumps(whole, ensure_ascii=False, indent=2) + "\n"


def as_markdown(session: Session) -> str:
    """Questions as quotations, answers as they stand."""
    parts = [f"# {session.context.model.name}"]
    if session.system:
        parts.append("\n".join(f"> *{line}*" if line.strip() else ">" for line in session.system.splitlines()))
    for exchange in session.past:
        parts.append("\n".join(f"> {line}".rstrip() for line in exchange.user.split("\n")))
        if exchange.reasoning:
            parts.append(f"<details><summary>Reasoning</summary>\n\n{exchange.reasoning}\n\n</details>")
        parts.append(exchange.answer.strip("\n"))
    return "\n\n".join(parts) + "\n"
