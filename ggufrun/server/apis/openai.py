"""OpenAI's API: models, chat completions, completions, embeddings; and what of it the front does itself."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import AsyncIterator, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ggufrun.server.apis import required_tool, styled, whole
from ggufrun.server.apis.grammar_check import check_grammars
from ggufrun.server.catalog import Entry
from ggufrun.server.errors import ApiError
from ggufrun.server.plan import CHAT, EMBEDDING
from ggufrun.server.pool import Running
from ggufrun.server.service import Lines, Relay, Service, check_media, check_number, child_error, read
from ggufrun.server.upstream import Vanished, ask

OURS = ("keep_alive", "style")
"""What only the front understands."""

MOST_BIASES = 4096
"""Each is applied at every step; a hundred thousand of them took 25 seconds for two tokens."""

HEAD = ("id", "created", "model", "system_fingerprint")

SSE = "text/event-stream"


def model_row(service: Service, entry: Entry) -> dict[str, Any]:
    """A model as ``/v1/models`` lists it."""
    facts = service.facts(entry)
    running = next((one for one in service.pool.running.values() if one.entry.name == entry.name), None)
    return {
        "id": entry.name,
        "object": "model",
        "created": int(entry.modified),
        "owned_by": "ggufrun",
        "meta": {
            "n_ctx": running.plan["n_ctx"] if running else None,
            "n_ctx_train": facts.get("trained"),
            "n_params": facts.get("parameters"),
            "size": entry.size,
            "architecture": facts.get("architecture"),
            "quantization": facts.get("type"),
        },
        "capabilities": capabilities(facts, entry),
        "status": {"value": "loaded" if running else "unloaded"},
    }


def capabilities(facts: Mapping[str, Any], entry: Entry) -> list[str]:
    """What a model can do, in Ollama's words."""
    if facts.get("kind") == EMBEDDING:
        return ["embedding"]
    if facts.get("kind") != CHAT:
        return [str(facts["kind"])] if facts.get("kind") else []
    text = facts.get("template_text") or entry.settings.template or ""
    found = ["completion"]
    found += ["tools"] if "tools" in text else []
    found += ["vision"] if entry.settings.mmproj else []
    return found + (["thinking"] if "enable_thinking" in text or "<think>" in text else [])


def openai_routes(service: Service) -> dict[tuple[str, str], Any]:
    """Endpoints by method and path."""

    async def models(request: Request) -> Response:
        rows = [model_row(service, entry) for entry in service.catalog.entries]
        return JSONResponse(
            {"object": "list", "data": rows, "models": [{**row, "name": row["id"], "model": row["id"]} for row in rows]}
        )

    async def model(request: Request) -> Response:
        return JSONResponse(model_row(service, service.entry(request.path_params["model"])))

    async def chat(request: Request) -> Response:
        data, body = await read(request)
        check(body)
        entry = service.entry(body.get("model"))
        tools = required_tool.is_forced(body)
        if tools:
            required_tool.forced(body)
        await check_grammars(body)
        single = not body.get("stream") and body.get("n") in (None, 1)
        if not tools and not single and body.get("style") is None and await has_template(service, request, entry):
            if any(name in body for name in OURS) or body.get("tool_choice") == "none":
                body = cleaned(body)
                data = json.dumps(body).encode()
            count = body.get("n")
            answers = count if isinstance(count, int) and count > 0 else 1
            return Relay(service, request, entry, "/v1/chat/completions", data, CHAT, answers=answers)
        chunks = chunks_of(service, request, entry, body)
        if body.get("stream"):
            return Lines(_sse(chunks, _wants_usage(body)), SSE)
        return JSONResponse(await gathered(chunks))

    async def completions(request: Request) -> Response:
        data, body = await read(request)
        check(body)
        entry = service.entry(body.get("model"))
        await check_grammars(body)
        path = "/v1/completions" if request.url.path.startswith("/v1") else "/completion"
        if whole.is_single(body):
            events = whole.events_of(service, request, entry, path, body)
            return JSONResponse(await whole.GATHER[path](events))
        return Relay(service, request, entry, path, data, CHAT)

    async def embeddings(request: Request) -> Response:
        data, body = await read(request)
        entry = service.entry(body.get("model"))
        path = "/v1/embeddings" if request.url.path.startswith("/v1") else "/embeddings"
        return Relay(service, request, entry, path, data, EMBEDDING)

    return {
        ("GET", "/v1/models"): models,
        ("GET", "/models"): models,
        ("GET", "/v1/models/{model:path}"): model,
        ("POST", "/v1/chat/completions"): chat,
        ("POST", "/chat/completions"): chat,
        ("POST", "/v1/completions"): completions,
        ("POST", "/completions"): completions,
        ("POST", "/completion"): completions,
        ("POST", "/v1/embeddings"): embeddings,
        ("POST", "/embeddings"): embeddings,
        ("POST", "/embedding"): embeddings,
    }


def check(body: Mapping[str, Any]) -> None:
    """Raise ApiError for what would be misread, or would make the server fetch something."""
    check_number(body, "temperature", 0, 1000)
    check_number(body, "top_p", 0, 1)
    for name in ("max_tokens", "max_completion_tokens"):
        check_number(body, name, 0, 1 << 31)
    bias = body.get("logit_bias")
    if isinstance(bias, (dict, list)) and len(bias) > MOST_BIASES:
        raise ApiError(400, f"logit_bias names more than {MOST_BIASES} tokens", param="logit_bias")
    check_media(body.get("messages"))


def cleaned(body: Mapping[str, Any]) -> dict[str, Any]:
    """``body`` without what only the front understands, and without tools that must not be used."""
    left = {name: value for name, value in body.items() if name not in OURS}
    if left.get("tool_choice") == "none":
        left.pop("tools", None)
        left.pop("tool_choice")
    return left


async def has_template(service: Service, request: Request, entry: Entry) -> bool:
    """Does the model bring a chat template, which the child renders? It is loaded for the answer."""
    async with service.lease(request, entry, CHAT, generates=False) as running:
        return bool(running.plan["format"] == "template")


def _wants_usage(body: Mapping[str, Any]) -> bool:
    options = body.get("stream_options")
    return isinstance(options, dict) and bool(options.get("include_usage"))


async def chunks_of(
    service: Service, request: Request, entry: Entry, body: Mapping[str, Any]
) -> AsyncIterator[dict[str, Any]]:
    """A chat's answer as chat.completion.chunk objects, the last with ``usage``, however it is made: by the model's
    template, by a style, or held to a tool. Raises ApiError.
    """
    head = {
        "id": f"chatcmpl-{uuid.uuid4().hex}",
        "object": "chat.completion.chunk",
        "created": int(time.time()),
        "model": entry.name,
    }
    async with service.lease(request, entry, CHAT) as running:
        if required_tool.is_forced(body):
            required_tool.forced(body)
        if required_tool.is_forced(body) and running.plan["format"] == "template":
            source = _forced_chunks(running, body)
        elif running.plan["format"] == "template" and body.get("style") is None:
            source = _template_chunks(running, body)
        else:
            source = _style_chunks(running, body)
        async for chunk in source:
            yield {**chunk, **head}


async def _template_chunks(running: Running, body: Mapping[str, Any]) -> AsyncIterator[dict[str, Any]]:
    begun = False
    asked = {**cleaned(body), "stream": True, "stream_options": {"include_usage": True}}
    try:
        async with ask(running.socket, "POST", "/v1/chat/completions", json.dumps(asked).encode()) as answer:
            if answer.status != 200:
                raise await child_error(answer)
            async for event in answer.events():
                if "error" in event:
                    raise ApiError(int(event["error"].get("code") or 500), str(event["error"].get("message")))
                for choice in event.get("choices") or ():
                    delta = choice.get("delta") or {}
                    if not begun and delta.get("content"):
                        delta["content"], begun = delta["content"].removeprefix(" "), True
                yield event
    except Vanished:
        raise await running.gone() from None


async def _style_chunks(running: Running, body: Mapping[str, Any]) -> AsyncIterator[dict[str, Any]]:
    yield _chunk({"role": "assistant", "content": ""})
    async for event in styled.events(running, body):
        if "error" in event:
            raise ApiError(int(event["error"].get("code") or 500), str(event["error"].get("message")))
        index = int(event.get("index", 0))
        logprobs = None
        if found := event.get("completion_probabilities"):
            logprobs = {"content": found}
        if event.get("content") or logprobs:
            yield _chunk({"content": event.get("content", "")}, index=index, logprobs=logprobs)
        if event.get("stop"):
            reason = "length" if event.get("stop_type") == "limit" else "stop"
            yield {**_chunk({}, reason, index), "timings": event.get("timings")}
            yield {"choices": [], "usage": required_tool.usage_of(event), "timings": event.get("timings")}


async def _forced_chunks(running: Running, body: Mapping[str, Any]) -> AsyncIterator[dict[str, Any]]:
    found = await required_tool.answer(running, body)
    choice = found["choices"][0]
    message = choice["message"]
    yield _chunk({"role": "assistant", "content": message["content"]})
    if calls := message.get("tool_calls"):
        yield _chunk({"tool_calls": [{"index": place, **call} for place, call in enumerate(calls)]})
    yield _chunk({}, choice["finish_reason"])
    yield {"choices": [], "usage": found["usage"], "timings": found["timings"]}


def _chunk(delta: dict[str, Any], finish: str | None = None, index: int = 0, logprobs: Any = None) -> dict[str, Any]:
    choice = {"index": index, "delta": delta, "finish_reason": finish}
    return {"choices": [{**choice, "logprobs": logprobs} if logprobs else choice]}


async def gathered(chunks: AsyncIterator[dict[str, Any]]) -> dict[str, Any]:
    """The chat.completion that ``chunks`` make."""
    head: dict[str, Any] = {}
    choices: dict[int, dict[str, Any]] = {}
    more: dict[str, Any] = {}
    async for chunk in chunks:
        head = head or {name: chunk[name] for name in HEAD if name in chunk}
        more |= {name: chunk[name] for name in ("usage", "timings") if chunk.get(name)}
        for piece in chunk["choices"]:
            choice = choices.setdefault(
                piece["index"],
                {
                    "index": piece["index"],
                    "message": {"role": "assistant", "content": None},
                    "finish_reason": None,
                    "logprobs": None,
                },
            )
            merge(choice["message"], piece.get("delta") or {})
            choice["finish_reason"] = piece.get("finish_reason") or choice["finish_reason"]
            if found := piece.get("logprobs"):
                kept = choice["logprobs"] or {"content": []}
                choice["logprobs"] = {"content": [*kept["content"], *(found.get("content") or [])]}
    return {**head, "object": "chat.completion", "choices": [choices[place] for place in sorted(choices)], **more}


def merge(message: dict[str, Any], delta: Mapping[str, Any]) -> None:
    """Add a chunk's ``delta`` to a message."""
    for name in ("content", "reasoning_content"):
        if delta.get(name) is not None:
            message[name] = (message.get(name) or "") + delta[name]
    for call in delta.get("tool_calls") or ():
        calls = message.setdefault("tool_calls", [])
        place = call.get("index", len(calls))
        while len(calls) <= place:
            calls.append({"id": "", "type": "function", "function": {"name": "", "arguments": ""}})
        known, function = calls[place], call.get("function") or {}
        known["id"] = known["id"] or call.get("id") or ""
        known["function"]["name"] += function.get("name") or ""
        known["function"]["arguments"] += function.get("arguments") or ""


async def _sse(chunks: AsyncIterator[dict[str, Any]], usage: bool) -> AsyncIterator[bytes]:
    async for chunk in chunks:
        if chunk["choices"] or usage:
            yield f"data: {json.dumps(chunk, ensure_ascii=False)}\n\n".encode()
    yield b"data: [DONE]\n\n"
