"""``tool_choice`` "required" or a named tool, enforced: llama.cpp's server takes both and keeps to neither.

The conversation is written by the model's template with the tools in it; then the answer is held to a JSON schema that
only calls of these tools match.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from typing import Any

from ggufrun import jsontext
from ggufrun.server.apis.styled import PASSED
from ggufrun.server.errors import ApiError
from ggufrun.server.pool import Running
from ggufrun.server.service import child_error
from ggufrun.server.upstream import Vanished, ask

MOST_TOOLS = 256


def is_forced(body: Mapping[str, Any]) -> bool:
    """Does the request insist on a tool?"""
    choice = body.get("tool_choice")
    return choice == "required" or isinstance(choice, dict)


def forced(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The functions one of which must be called. Raises ApiError."""
    tools, choice = body.get("tools"), body.get("tool_choice")
    if not isinstance(tools, list) or not tools:
        raise ApiError(400, "tool_choice asks for a tool, and tools has none", param="tools")
    if len(tools) > MOST_TOOLS:
        raise ApiError(400, f"there are more than {MOST_TOOLS} tools", param="tools")
    functions = []
    for tool in tools:
        function = tool.get("function") if isinstance(tool, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise ApiError(400, "a tool is a function with a name", param="tools")
        functions.append(function)
    if choice == "required":
        return functions
    wanted = choice.get("function") if isinstance(choice, dict) else None
    name = wanted.get("name") if isinstance(wanted, dict) else None
    found = [function for function in functions if function["name"] == name]
    if not found:
        raise ApiError(400, f"tool_choice names {name!r}, which is not one of tools", param="tool_choice")
    return found


def schema_of(functions: list[dict[str, Any]]) -> dict[str, Any]:
    """What a call of one of ``functions`` looks like, as a JSON schema."""
    calls = [
        {
            "type": "object",
            "properties": {
                "name": {"const": function["name"]},
                "arguments": function.get("parameters") or {"type": "object"},
            },
            "required": ["name", "arguments"],
            "additionalProperties": False,
        }
        for function in functions
    ]
    return calls[0] if len(calls) == 1 else {"anyOf": calls}


async def answer(running: Running, body: Mapping[str, Any]) -> dict[str, Any]:
    """A whole chat.completion with the call in it. Raises ApiError."""
    functions = forced(body)
    # the prompt is to end where the answer begins, not within thoughts
    variables = {"enable_thinking": False, **(body.get("chat_template_kwargs") or {})}
    asked = {"messages": body.get("messages"), "tools": body["tools"], "chat_template_kwargs": variables}
    status, rendered = await running.call("POST", "/apply-template", asked)
    if status != 200:
        error = rendered.get("error", {}) if isinstance(rendered, dict) else {}
        raise ApiError(400, str(error.get("message", "the chat template refused the messages")), param="messages")
    request = {name: body[name] for name in PASSED if body.get(name) is not None and name not in ("grammar", "n")}
    most = body.get("max_completion_tokens", body.get("max_tokens"))
    if most is not None:
        request["n_predict"] = most
    request |= {"prompt": rendered["prompt"], "json_schema": schema_of(functions), "stream": True}
    text, found = "", {}
    try:
        async with ask(running.socket, "POST", "/completion", json.dumps(request).encode()) as reply:
            if reply.status != 200:
                raise await child_error(reply)
            async for event in reply.events():
                text, found = text + (event.get("content") or ""), event
    except Vanished:
        raise await running.gone() from None
    message: dict[str, Any] = {"role": "assistant", "content": None}
    finish = "length"
    try:
        call = jsontext.parse(text)
        arguments = json.dumps(call["arguments"], ensure_ascii=False)
        message["tool_calls"] = [
            {
                "id": f"call_{uuid.uuid4().hex[:24]}",
                "type": "function",
                "function": {"name": call["name"], "arguments": arguments},
            }
        ]
        finish = "tool_calls" if body.get("tool_choice") == "required" else "stop"
    except (ValueError, KeyError, TypeError):
        # cut off by max_tokens: half a call is not one
        message["content"] = ""
    return {
        "choices": [{"index": 0, "message": message, "finish_reason": finish, "logprobs": None}],
        "usage": usage_of(found),
        "timings": found.get("timings"),
    }


def usage_of(last: Mapping[str, Any]) -> dict[str, int]:
    """Tokens read and written, from the last object of ``/completion``."""
    read, written = int(last.get("tokens_evaluated", 0)), int(last.get("tokens_predicted", 0))
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}
