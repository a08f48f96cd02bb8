"""Ollama's chat and generate: its requests as OpenAI's, and the answers back, a line for each piece."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ggufrun import jsontext
from ggufrun.server.apis.openai import chunks_of, merge
from ggufrun.server.catalog import Entry
from ggufrun.server.errors import ApiError
from ggufrun.server.plan import CHAT
from ggufrun.server.service import Lines, Service, child_error
from ggufrun.server.upstream import Vanished, ask

NDJSON = "application/x-ndjson"
NANO = 1_000_000_000

OPTIONS: dict[str, str] = {
    "num_predict": "max_tokens",
    "num_keep": "n_keep",
    "typical_p": "typical_p",
    **{
        name: name
        for name in (
            "temperature", "top_k", "top_p", "min_p", "repeat_last_n", "repeat_penalty", "presence_penalty",
            "frequency_penalty", "seed", "stop", "mirostat", "mirostat_tau", "mirostat_eta",
        )
    },
}  # fmt: skip
"""Options of Ollama and what they are called here; those of the hardware mean nothing: the server was told at its
start."""

Shape = Callable[[Mapping[str, Any]], dict[str, Any]]
"""From a piece of the answer (content, thinking, tool_calls) to the fields of a line."""


@dataclass(frozen=True)
class Timing:
    """When a request began, and the seconds that loading took of it."""

    began: float
    loading: float


def options_of(body: Mapping[str, Any]) -> dict[str, Any]:
    """``options`` as fields of a request here. Raises ApiError."""
    given = body.get("options") or {}
    if not isinstance(given, dict):
        raise ApiError(400, "options is not an object")
    found = {OPTIONS[name]: value for name, value in given.items() if name in OPTIONS and value is not None}
    most = found.get("max_tokens")
    if isinstance(most, (int, float)) and most < 0:
        # -1: no end but the context's, -2: fill the context
        del found["max_tokens"]
    return found


def format_of(body: Mapping[str, Any]) -> dict[str, Any]:
    """``format``, "json" or a schema, as ``response_format``. Raises ApiError."""
    form = body.get("format")
    if form in (None, ""):
        return {}
    if form == "json":
        return {"response_format": {"type": "json_object"}}
    if isinstance(form, dict):
        return {"response_format": {"type": "json_schema", "json_schema": {"name": "format", "schema": form}}}
    raise ApiError(400, 'format is neither "json" nor a schema')


def thinking_of(body: Mapping[str, Any]) -> dict[str, Any]:
    """``think``, true, false or a level, as variables of the chat template."""
    think = body.get("think")
    if think is None:
        return {}
    variables: dict[str, Any] = {"enable_thinking": bool(think), "thinking": bool(think)}
    if isinstance(think, str):
        variables["reasoning_effort"] = think
    return {"chat_template_kwargs": variables}


def message_of(message: Any) -> dict[str, Any]:
    """A message of Ollama's as one of OpenAI's. Raises ApiError."""
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        raise ApiError(400, "a message is an object with a role")
    text = message.get("content") or ""
    if not isinstance(text, str):
        raise ApiError(400, "the content of a message is not a text")
    found: dict[str, Any] = {"role": message["role"], "content": text}
    if images := message.get("images"):
        if not isinstance(images, list) or not all(isinstance(image, str) for image in images):
            raise ApiError(400, "images is not a list of base64 texts")
        pictures = [{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{image}"}} for image in images]
        found["content"] = [{"type": "text", "text": text}, *pictures]
    if isinstance(message.get("thinking"), str):
        found["reasoning_content"] = message["thinking"]
    if calls := message.get("tool_calls"):
        found["tool_calls"] = [call_of(call, place) for place, call in enumerate(calls)]
    if name := message.get("tool_name") or message.get("name"):
        found["name"] = name
    if message["role"] == "tool":
        found["tool_call_id"] = str(message.get("tool_call_id") or "call_0")
    return found


def call_of(call: Any, place: int) -> dict[str, Any]:
    """A tool call of Ollama's, whose arguments are an object, as one of OpenAI's. Raises ApiError."""
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise ApiError(400, "a tool call is a function with a name")
    arguments = function.get("arguments") or {}
    text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return {
        "id": str(call.get("id") or f"call_{place}"),
        "type": "function",
        "function": {"name": function["name"], "arguments": text},
    }


async def chat_reply(
    service: Service, request: Request, entry: Entry, body: Mapping[str, Any], kept: float | None
) -> Response:
    """``/api/chat``: a stream of lines unless that is refused; without messages the model is loaded, or unloaded."""
    messages = body.get("messages")
    if not messages:
        return await _load(service, request, entry, kept, {"message": {"role": "assistant", "content": ""}})
    if not isinstance(messages, list):
        raise ApiError(400, "messages is not a list")
    asked = {
        "messages": [message_of(message) for message in messages],
        **options_of(body),
        **format_of(body),
        **thinking_of(body),
    }
    if tools := body.get("tools"):
        asked["tools"] = tools
    _logprobs(asked, body)

    def shape(piece: Mapping[str, Any]) -> dict[str, Any]:
        return {"message": {"role": "assistant", "content": piece.get("content", ""), **_others(piece)}}

    return await _reply(service, request, entry, body, asked, kept, shape)


async def generate_reply(
    service: Service, request: Request, entry: Entry, body: Mapping[str, Any], kept: float | None
) -> Response:
    """``/api/generate``: one question, or with ``raw`` a text to continue; ``suffix`` fills in between."""
    prompt = body.get("prompt") or ""
    if not isinstance(prompt, str):
        raise ApiError(400, "prompt is not a text")
    if not prompt and not body.get("images"):
        return await _load(service, request, entry, kept, {"response": ""})

    def shape(piece: Mapping[str, Any]) -> dict[str, Any]:
        return {"response": piece.get("content", ""), **_others(piece)}

    if body.get("raw") or body.get("suffix"):
        asked = {**options_of(body), "stream": True}
        if "max_tokens" in asked:
            asked["n_predict"] = asked.pop("max_tokens")
        form = format_of(body).get("response_format")
        if form:
            asked["json_schema"] = form.get("json_schema", {}).get("schema", {"type": "object"})
        if body.get("suffix"):
            asked |= {"input_prefix": prompt, "input_suffix": body["suffix"]}
            return await _reply(service, request, entry, body, asked, kept, shape, "/infill")
        return await _reply(service, request, entry, body, {**asked, "prompt": prompt}, kept, shape, "/completion")
    system = [{"role": "system", "content": body["system"]}] if body.get("system") else []
    user = message_of({"role": "user", "content": prompt, "images": body.get("images")})
    asked = {"messages": [*system, user], **options_of(body), **format_of(body), **thinking_of(body)}
    _logprobs(asked, body)
    return await _reply(service, request, entry, body, asked, kept, shape)


def _logprobs(asked: dict[str, Any], body: Mapping[str, Any]) -> None:
    if body.get("logprobs"):
        asked["logprobs"] = True
        if body.get("top_logprobs"):
            asked["top_logprobs"] = body["top_logprobs"]


def _others(piece: Mapping[str, Any]) -> dict[str, Any]:
    return {name: piece[name] for name in ("thinking", "tool_calls") if piece.get(name)}


def now() -> str:
    """The time as RFC 3339."""
    return datetime.now(timezone.utc).isoformat().replace("+00:00", "Z")


async def _load(
    service: Service, request: Request, entry: Entry, kept: float | None, fields: dict[str, Any]
) -> Response:
    """Load the model, or unload it where it is to be kept for no time."""
    reason = "load"
    if kept == 0:
        reason = "unload"
        for running in list(service.pool.running.values()):
            if running.entry.name == entry.name:
                running.keep_alive = 0
    else:
        async with service.lease(request, entry, CHAT, generates=False) as running:
            running.keep_alive = running.keep_alive if kept is None else kept
    return JSONResponse({"model": entry.name, "created_at": now(), **fields, "done": True, "done_reason": reason})


async def _reply(
    service: Service,
    request: Request,
    entry: Entry,
    body: Mapping[str, Any],
    asked: Mapping[str, Any],
    kept: float | None,
    shape: Shape,
    path: str = "",
) -> Response:
    began = time.monotonic()
    async with service.lease(request, entry, CHAT, generates=False) as running:
        timing = Timing(began, time.monotonic() - began)
        if kept is not None:
            running.keep_alive = kept
    source = _continued(service, request, entry, path, asked) if path else chunks_of(service, request, entry, asked)
    lines = _lines(entry, source, shape, timing)
    if body.get("stream", True):
        return Lines(_encoded(lines), NDJSON)
    return JSONResponse(await _whole(lines, shape))


async def _continued(
    service: Service, request: Request, entry: Entry, path: str, asked: Mapping[str, Any]
) -> AsyncIterator[dict[str, Any]]:
    """A text continued, in the form of a chat's chunks."""
    async with service.lease(request, entry, CHAT) as running:
        try:
            async with ask(running.socket, "POST", path, json.dumps(asked).encode()) as answer:
                if answer.status != 200:
                    raise await child_error(answer)
                async for event in answer.events():
                    reason = ("length" if event.get("stop_type") == "limit" else "stop") if event.get("stop") else None
                    delta = {"content": event.get("content", "")}
                    yield {"choices": [{"index": 0, "delta": delta, "finish_reason": reason}], **_usage(event)}
        except Vanished:
            raise await running.gone() from None


def _usage(event: Mapping[str, Any]) -> dict[str, Any]:
    if not event.get("stop"):
        return {}
    read, written = event.get("tokens_evaluated", 0), event.get("tokens_predicted", 0)
    return {"usage": {"prompt_tokens": read, "completion_tokens": written}, "timings": event.get("timings")}


async def _lines(
    entry: Entry, chunks: AsyncIterator[Mapping[str, Any]], shape: Shape, timing: Timing
) -> AsyncIterator[dict[str, Any]]:
    """Lines of the answer. A tool call comes whole, after the text: the client gets its arguments as an object."""
    reason = "stop"
    usage: Mapping[str, Any] = {}
    timings: Mapping[str, Any] = {}
    gathered: dict[str, Any] = {}
    async for chunk in chunks:
        usage, timings = chunk.get("usage") or usage, chunk.get("timings") or timings
        for choice in chunk["choices"]:
            delta = choice.get("delta") or {}
            piece: dict[str, Any] = {}
            if delta.get("content"):
                piece["content"] = delta["content"]
            if delta.get("reasoning_content"):
                piece["thinking"] = delta["reasoning_content"]
            merge(gathered, {"tool_calls": delta.get("tool_calls")})
            if choice.get("finish_reason"):
                reason = "length" if choice["finish_reason"] == "length" else "stop"
            if piece:
                line = {"model": entry.name, "created_at": now(), **shape(piece), "done": False}
                if found := choice.get("logprobs"):
                    line["logprobs"] = found.get("content")
                yield line
    if calls := gathered.get("tool_calls"):
        yield {"model": entry.name, "created_at": now(), **shape({"tool_calls": _calls(calls)}), "done": False}
    read, write = (int(1e6 * float((timings or {}).get(name) or 0)) for name in ("prompt_ms", "predicted_ms"))
    yield {
        "model": entry.name,
        "created_at": now(),
        **shape({}),
        "done": True,
        "done_reason": reason,
        "total_duration": int((time.monotonic() - timing.began) * NANO),
        "load_duration": int(timing.loading * NANO),
        "prompt_eval_count": usage.get("prompt_tokens", 0),
        "prompt_eval_duration": read,
        "eval_count": usage.get("completion_tokens", 0),
        "eval_duration": write,
    }


def _calls(calls: list[dict[str, Any]]) -> list[dict[str, Any]]:
    found = []
    for call in calls:
        try:
            arguments = jsontext.parse(call["function"]["arguments"] or "{}")
        except ValueError:
            raise ApiError(500, "the model wrote a tool call whose arguments are not JSON") from None
        found.append({"id": call["id"], "function": {"name": call["function"]["name"], "arguments": arguments}})
    return found


async def _encoded(lines: AsyncIterator[dict[str, Any]]) -> AsyncIterator[bytes]:
    async for line in lines:
        yield json.dumps(line, ensure_ascii=False).encode() + b"\n"


async def _whole(lines: AsyncIterator[dict[str, Any]], shape: Shape) -> dict[str, Any]:
    """All lines as one."""
    pieces: dict[str, Any] = {}
    logprobs: list[Any] = []
    last: dict[str, Any] = {}
    async for line in lines:
        last = line
        piece = line.get("message") or {"content": line.get("response"), **line}
        for name in ("content", "thinking"):
            if piece.get(name):
                pieces[name] = pieces.get(name, "") + piece[name]
        if piece.get("tool_calls"):
            pieces["tool_calls"] = piece["tool_calls"]
        logprobs += line.get("logprobs") or []
    return {**last, **shape(pieces), **({"logprobs": logprobs} if logprobs else {})}
