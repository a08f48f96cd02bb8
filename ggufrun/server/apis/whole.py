"""Whole answers, put together from streams.

llama.cpp's server notices that a client has gone only when it sends something: a request that is not streamed would be
computed to its end, for nobody. So the child is always asked for a stream, and a client that wants a whole answer gets
it from here.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

from starlette.requests import Request

from ggufrun.server.apis import anthropic
from ggufrun.server.catalog import Entry
from ggufrun.server.errors import ApiError
from ggufrun.server.plan import CHAT
from ggufrun.server.service import Service, child_error
from ggufrun.server.upstream import Vanished, ask

Events = AsyncIterator[dict[str, Any]]
Gather = Callable[[Events], Awaitable[dict[str, Any]]]


def is_single(body: Mapping[str, Any]) -> bool:
    """Is one answer wanted, in one piece? Several at once are left to the child."""
    several = any(body.get(name) not in (None, 1) for name in ("n", "n_cmpl", "best_of"))
    prompt = body.get("prompt")
    texts = isinstance(prompt, list) and any(isinstance(part, (str, list)) for part in prompt)
    return not body.get("stream") and not several and not texts


async def events_of(service: Service, request: Request, entry: Entry, path: str, body: Mapping[str, Any]) -> Events:
    """The objects that the child streams for ``body``. Raises ApiError."""
    asked = {**body, "stream": True}
    if path == "/v1/completions":
        asked["stream_options"] = {"include_usage": True}
    async with service.lease(request, entry, CHAT) as running:
        try:
            async with ask(running.socket, "POST", path, json.dumps(asked).encode()) as answer:
                if answer.status != 200:
                    raise await child_error(answer)
                async for event in answer.events():
                    if isinstance(error := event.get("error"), dict):
                        raise ApiError(int(error.get("code") or 500), str(error.get("message")))
                    yield event
        except Vanished:
            raise await running.gone() from None


async def text_completion(events: Events) -> dict[str, Any]:
    """OpenAI's text_completion."""
    found: dict[str, Any] = {}
    choice: dict[str, Any] = {"text": "", "index": 0, "logprobs": None, "finish_reason": None}
    async for event in events:
        for piece in event.get("choices") or ():
            choice["text"] += piece.get("text") or ""
            choice["finish_reason"] = piece.get("finish_reason") or choice["finish_reason"]
            if logprobs := piece.get("logprobs"):
                kept = choice["logprobs"] or {}
                choice["logprobs"] = {name: [*kept.get(name, []), *rows] for name, rows in logprobs.items()}
        found |= {name: value for name, value in event.items() if value is not None}
    return {**found, "choices": [choice]}


async def completion(events: Events) -> dict[str, Any]:
    """The answer of ``/completion`` and ``/infill``: the last object, with the text and lists of all."""
    text, last = "", {}
    lists: dict[str, list[Any]] = {}
    async for event in events:
        text += event.get("content") or ""
        for name in ("tokens", "completion_probabilities"):
            lists.setdefault(name, []).extend(event.get(name) or [])
        last = event
    return {**last, "content": text, **{name: rows for name, rows in lists.items() if rows or name in last}}


async def message(events: Events) -> dict[str, Any]:
    """Anthropic's message, without the vocabulary's space."""
    found = await anthropic.gathered(events)
    for block in found["content"]:
        if block["type"] == "text":
            block["text"] = block["text"].removeprefix(" ")
            break
    return found


async def response(events: Events) -> dict[str, Any]:
    """OpenAI's response: the last event holds it."""
    found: dict[str, Any] = {}
    async for event in events:
        found = event.get("response") or found
    return found


GATHER: dict[str, Gather] = {
    "/v1/completions": text_completion,
    "/completion": completion,
    "/infill": completion,
    "/v1/messages": message,
    "/v1/responses": response,
}
"""How the child's streams become whole answers, by its path."""
