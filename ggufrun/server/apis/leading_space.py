"""The space that a SentencePiece vocabulary puts before every text belongs to the vocabulary, not to the answer: `chat`
leaves it out, llama.cpp's server sends it. One space at the very start of an answer is removed here.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any


def without_space(answer: bytes) -> bytes:
    """A whole answer, of a chat completion or of Anthropic's messages, without that space."""
    if b'" ' not in answer:
        return answer
    try:
        found = json.loads(answer)
    except ValueError:
        return answer
    for choice in found.get("choices") or ():
        _strip(choice.get("message"), "content")
    for block in found.get("content") or ():
        if _strip(block, "text"):
            break
    return json.dumps(found, ensure_ascii=False, separators=(",", ":")).encode()


def _strip(place: Any, name: str) -> bool:
    """Remove the space from the text called ``name``; whether there is such a text."""
    if not isinstance(place, dict) or not isinstance(place.get(name), str) or not place[name]:
        return False
    place[name] = place[name].removeprefix(" ")
    return True


async def stream_without_space(pieces: AsyncIterator[bytes], answers: int = 1) -> AsyncIterator[bytes]:
    """Server-sent events of ``answers`` texts. Each is looked at until its text has begun; the rest passes as it is."""
    rest = b""
    begun: set[int] = set()
    async for piece in pieces:
        if len(begun) >= answers:
            yield piece
            continue
        *events, rest = (rest + piece).split(b"\n\n")
        done = []
        for event in events:
            done.append(event if len(begun) >= answers else _event(event, begun))
        if done:
            yield b"".join(event + b"\n\n" for event in done)
        if len(begun) >= answers and rest:
            yield rest
            rest = b""
    if rest:
        yield rest


def _event(event: bytes, begun: set[int]) -> bytes:
    """``event`` without the space, if an answer's text begins in it; its number is added to ``begun``."""
    head, mark, data = event.rpartition(b"data: ")
    if not mark:
        return event
    try:
        found = json.loads(data)
    except ValueError:
        return event
    for choice in found.get("choices") or ():
        index = choice.get("index", 0)
        if index not in begun and _strip(choice.get("delta"), "content"):
            begun.add(index)
    if found.get("type") == "content_block_delta" and _strip(found.get("delta"), "text"):
        begun.add(0)
    return head + mark + json.dumps(found, ensure_ascii=False, separators=(",", ":")).encode()
