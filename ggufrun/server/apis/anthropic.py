"""Anthropic's messages, where the child's own translation does not do: a tool that must be called, a model without a
chat template. The request becomes one of OpenAI's, the answer comes back as Anthropic's events.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncIterator, Mapping
from typing import Any

from ggufrun import jsontext
from ggufrun.server.errors import ApiError

STOPS = {"length": "max_tokens", "tool_calls": "tool_use"}
SAME = ("max_tokens", "temperature", "top_p", "top_k", "stream", "style")


def insists(body: Mapping[str, Any]) -> bool:
    """Must a tool be called?"""
    choice = body.get("tool_choice")
    return isinstance(choice, dict) and choice.get("type") in ("any", "tool")


def as_openai(body: Mapping[str, Any]) -> dict[str, Any]:
    """The request in OpenAI's form. Raises ApiError for what it cannot say."""
    found: dict[str, Any] = {name: body[name] for name in SAME if body.get(name) is not None}
    if not isinstance(found.get("max_tokens"), int):
        raise ApiError(400, "max_tokens is needed: a number of tokens", param="max_tokens")
    if body.get("stop_sequences"):
        found["stop"] = body["stop_sequences"]
    messages: list[dict[str, Any]] = []
    if system := body.get("system"):
        messages.append({"role": "system", "content": _text(system)})
    given = body.get("messages")
    if not isinstance(given, list) or not given:
        raise ApiError(400, "messages is not a list of messages", param="messages")
    for message in given:
        messages += _messages(message)
    found["messages"] = messages
    if tools := body.get("tools"):
        found["tools"] = [_tool(tool) for tool in tools]
    choice = body.get("tool_choice")
    if isinstance(choice, dict):
        named = {"type": "function", "function": {"name": choice.get("name")}}
        kinds: dict[Any, Any] = {"any": "required", "tool": named, "none": "none"}
        found["tool_choice"] = kinds.get(choice.get("type"), "auto")
    return found


def _tool(tool: Any) -> dict[str, Any]:
    if not isinstance(tool, dict) or not isinstance(tool.get("name"), str):
        raise ApiError(400, "a tool has a name and an input_schema", param="tools")
    schema = tool.get("input_schema") or {"type": "object"}
    function = {"name": tool["name"], "description": tool.get("description") or "", "parameters": schema}
    return {"type": "function", "function": function}


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "".join(str(block.get("text", "")) for block in content if isinstance(block, dict))
    raise ApiError(400, "content is neither a text nor a list of blocks", param="messages")


def _messages(message: Any) -> list[dict[str, Any]]:
    role = message.get("role") if isinstance(message, dict) else None
    if role not in ("user", "assistant"):
        raise ApiError(400, "a message has a role, user or assistant", param="messages")
    content = message.get("content")
    if isinstance(content, str):
        return [{"role": role, "content": content}]
    results: list[dict[str, Any]] = []
    parts: list[dict[str, Any]] = []
    calls: list[dict[str, Any]] = []
    blocks = content if isinstance(content, list) else [None]
    for block in (one if isinstance(one, dict) else {} for one in blocks):
        kind = block.get("type")
        if kind == "text":
            parts.append({"type": "text", "text": str(block.get("text", ""))})
        elif kind == "image":
            source = block.get("source") or {}
            url = f"data:{source.get('media_type', 'image/png')};base64,{source.get('data', '')}"
            parts.append({"type": "image_url", "image_url": {"url": url}})
        elif kind == "tool_use":
            arguments = json.dumps(block.get("input") or {}, ensure_ascii=False)
            function = {"name": str(block.get("name")), "arguments": arguments}
            calls.append({"id": str(block.get("id")), "type": "function", "function": function})
        elif kind == "tool_result":
            text = _text(block.get("content") or "")
            results.append({"role": "tool", "tool_call_id": str(block.get("tool_use_id")), "content": text})
        elif kind not in ("thinking", "redacted_thinking"):
            raise ApiError(400, f"a block of the type {kind!r:.40} is not understood", param="messages")
    found = list(results)
    plain = all(part["type"] == "text" for part in parts)
    if parts or calls:
        said = "".join(part["text"] for part in parts) if plain else parts
        found.append({"role": role, "content": said, **({"tool_calls": calls} if calls else {})})
    return found


async def events(chunks: AsyncIterator[Mapping[str, Any]], model: str) -> AsyncIterator[dict[str, Any]]:
    """Anthropic's events of an answer that comes as chat.completion.chunk objects."""
    message: dict[str, Any] = {
        "id": f"msg_{uuid.uuid4().hex}",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {"input_tokens": 0, "output_tokens": 0},
    }
    begun = False
    index, open_kind = -1, ""
    reason, usage = "end_turn", {"input_tokens": 0, "output_tokens": 0}
    async for chunk in chunks:
        if not begun:
            # not before the first chunk: an error before it is an answer of its own
            begun = True
            yield {"type": "message_start", "message": message}
        if found := chunk.get("usage"):
            usage = {"input_tokens": found["prompt_tokens"], "output_tokens": found["completion_tokens"]}
        for choice in chunk["choices"][:1]:
            for kind, block, delta in _pieces(choice.get("delta") or {}):
                if kind != open_kind or block is not None:
                    if open_kind:
                        yield {"type": "content_block_stop", "index": index}
                    index, open_kind = index + 1, kind
                    begin = block or ({"type": "text", "text": ""} if kind == "text" else {"type": kind, kind: ""})
                    yield {"type": "content_block_start", "index": index, "content_block": begin}
                if delta:
                    yield {"type": "content_block_delta", "index": index, "delta": delta}
            if finish := choice.get("finish_reason"):
                reason = STOPS.get(finish, "end_turn")
    if open_kind:
        yield {"type": "content_block_stop", "index": index}
    reason = "tool_use" if open_kind == "tool_use" else reason
    yield {"type": "message_delta", "delta": {"stop_reason": reason, "stop_sequence": None}, "usage": usage}
    yield {"type": "message_stop"}


def _pieces(delta: Mapping[str, Any]) -> list[tuple[str, dict[str, Any] | None, dict[str, Any]]]:
    """Of a chunk's delta: the kind of block, the block if a new one begins, what is added to it."""
    found: list[tuple[str, dict[str, Any] | None, dict[str, Any]]] = []
    if text := delta.get("reasoning_content"):
        found.append(("thinking", None, {"type": "thinking_delta", "thinking": text}))
    if text := delta.get("content"):
        found.append(("text", None, {"type": "text_delta", "text": text}))
    for call in delta.get("tool_calls") or ():
        function = call.get("function") or {}
        block = None
        if function.get("name"):
            identity = (call.get("id") or f"call_{uuid.uuid4().hex[:24]}").replace("call_", "toolu_")
            block = {"type": "tool_use", "id": identity, "name": function["name"], "input": {}}
        added = {"type": "input_json_delta", "partial_json": function.get("arguments") or ""}
        found.append(("tool_use", block, added))
    return found


async def sse(found: AsyncIterator[Mapping[str, Any]]) -> AsyncIterator[bytes]:
    """Events as bytes of a stream."""
    async for event in found:
        yield f"event: {event['type']}\ndata: {json.dumps(event, ensure_ascii=False)}\n\n".encode()


async def gathered(found: AsyncIterator[Mapping[str, Any]]) -> dict[str, Any]:
    """The whole message that events make."""
    message: dict[str, Any] = {}
    texts: list[str] = []
    async for event in found:
        if event["type"] == "message_start":
            message = dict(event["message"])
            message["content"] = []
        elif event["type"] == "content_block_start":
            message["content"].append(dict(event["content_block"]))
            texts.append("")
        elif event["type"] == "content_block_delta":
            delta = event["delta"]
            texts[-1] += delta.get("text") or delta.get("thinking") or delta.get("partial_json") or ""
        elif event["type"] == "message_delta":
            message |= {**event["delta"], "usage": event["usage"]}
    for block, text in zip(message["content"], texts, strict=True):
        if block["type"] == "tool_use":
            try:
                block["input"] = jsontext.parse(text or "{}")
            except ValueError:
                # cut off by max_tokens: half a call says nothing
                block["input"] = {}
        else:
            block[block["type"]] = text
    return message
