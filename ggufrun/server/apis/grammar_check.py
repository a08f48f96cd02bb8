"""Schemas and grammars that would keep a model's process busy for ever are refused before it sees them.

llama.cpp follows every way in which a grammar may continue, in one call that cannot be ended. `chat` counts these ways
first (`ggufrun.engine.sampling.ambiguity`), and so does the front.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping
from typing import Any

from ggufrun.engine.sampling.ambiguity import MOST, widest
from ggufrun.engine.sampling.schema import to_grammar
from ggufrun.errors import GgufrunError
from ggufrun.server.apis.repetition import nesting
from ggufrun.server.errors import ApiError

MOST_NESTED = 100_000
"""Of `nesting`."""

MAX_TEXT = 1 << 20
"""Characters of a grammar or a schema."""


def constraints(body: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Every schema and grammar in a request, with the name of the field that holds it."""
    if isinstance(body.get("grammar"), str):
        yield "grammar", body["grammar"]
    for name in ("json_schema", "format"):
        if isinstance(body.get(name), dict):
            yield name, body[name]
    form = body.get("response_format")
    if isinstance(form, dict):
        inner = form.get("json_schema")
        for schema in (form.get("schema"), inner.get("schema") if isinstance(inner, dict) else None):
            if isinstance(schema, dict):
                yield "response_format", schema
    text = body.get("text")
    if isinstance(text, dict) and isinstance(text.get("format"), dict):
        yield "text", text["format"].get("schema") or {}
    for tool in body.get("tools") or () if isinstance(body.get("tools"), list) else ():
        function = tool.get("function", tool) if isinstance(tool, dict) else None
        if isinstance(function, dict):
            yield "tools", function.get("parameters") or function.get("input_schema") or {}


async def check_grammars(body: Mapping[str, Any]) -> None:
    """Raise ApiError for a grammar or schema with too many ways to continue."""
    found = list(constraints(body))
    if found:
        await asyncio.get_running_loop().run_in_executor(None, _check, found)


def _check(found: list[tuple[str, Any]]) -> None:
    for name, value in found:
        text = value if isinstance(value, str) else json.dumps(value)
        if len(text) > MAX_TEXT:
            raise ApiError(400, f"{name} is longer than {MAX_TEXT} characters", param=name)
        try:
            grammar = text if isinstance(value, str) else to_grammar(text)
            rule, ways = widest(grammar)
        except (GgufrunError, RecursionError, ValueError):
            # what cannot be counted here is the child's to accept or refuse
            continue
        if ways > MOST or nesting(grammar) > MOST_NESTED:
            what = f"{name} may continue in more ways than can be followed (in {rule})"
            raise ApiError(400, f"{what}: bound its repetitions, or give fewer alternatives", param=name)
