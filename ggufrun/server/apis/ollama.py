"""Ollama's API, as a translation: models, embeddings, and what its clients ask before they talk."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ggufrun.server.apis.grammar_check import check_grammars
from ggufrun.server.apis.ollama_chat import chat_reply, generate_reply
from ggufrun.server.apis.openai import capabilities
from ggufrun.server.catalog import Entry
from ggufrun.server.errors import ApiError
from ggufrun.server.plan import EMBEDDING
from ggufrun.server.service import Service, read

VERSION = "0.12.0"
"""What clients are told: some compare it with the release that brought a feature they need."""

NANO = 1_000_000_000
FOREVER = timedelta(days=36500)

NOT_OFFERED: dict[str, str] = {
    "create": "ggufrun convert and ggufrun quantize make models",
    "copy": "copy the file in the models folder",
    "push": "the hub's own client does that",
    "pull": "ggufrun pull NAME fetches a model; the server never does",
    "delete": "ggufrun remove NAME",
}
"""What Ollama's API can do to the models of a machine, and what does it here."""

TIME = re.compile(r"(-?\d+(?:\.\d+)?)(ms|s|m|h)")
SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def moment(seconds: float) -> str:
    """Seconds since 1970 as RFC 3339."""
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat().replace("+00:00", "Z")


def kept_seconds(value: Any) -> float | None:
    """``keep_alive`` in seconds: a number, or ``5m``, ``1h30m``; None where it is not given. Raises ApiError."""
    if value is None:
        return None
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, str):
        text = value.strip()
        if re.fullmatch(r"-?\d+(\.\d+)?", text):
            return float(text)
        if text and TIME.sub("", text) == "":
            return sum(float(number) * SECONDS[unit] for number, unit in TIME.findall(text))
    raise ApiError(400, f"keep_alive is {value!r:.40}: give seconds, or a time such as 5m")


def parameter_size(count: Any) -> str:
    """``7.6B``, ``494M``."""
    if not isinstance(count, int) or count <= 0:
        return ""
    return f"{count / 1e9:.1f}B" if count >= 1e9 else f"{count / 1e6:.1f}M"


def details(facts: Mapping[str, Any]) -> dict[str, Any]:
    """What Ollama tells about a model's format."""
    family = facts.get("architecture", "")
    return {
        "parent_model": "",
        "format": "gguf",
        "family": family,
        "families": [family] if family else [],
        "parameter_size": parameter_size(facts.get("parameters")),
        "quantization_level": facts.get("type", ""),
    }


def row(service: Service, entry: Entry) -> dict[str, Any]:
    """A model as ``/api/tags`` lists it."""
    return {
        "name": entry.name,
        "model": entry.name,
        "modified_at": moment(entry.modified),
        "size": entry.size,
        "digest": entry.digest,
        "details": details(service.facts(entry)),
    }


def ollama_routes(service: Service) -> dict[tuple[str, str], Any]:
    """Endpoints by method and path."""

    async def version(request: Request) -> Response:
        return JSONResponse({"version": VERSION})

    async def tags(request: Request) -> Response:
        return JSONResponse({"models": [row(service, entry) for entry in service.catalog.entries]})

    async def loaded(request: Request) -> Response:
        found = []
        for running in service.pool.running.values():
            left = running.expires
            expires = FOREVER.total_seconds() if left is None else left
            found.append(
                {
                    **row(service, running.entry),
                    "expires_at": moment(time.time() + expires),
                    "size_vram": sum(map(int, running.plan["devices"].values())),
                    "context_length": running.plan["n_ctx"],
                }
            )
        return JSONResponse({"models": found})

    async def show(request: Request) -> Response:
        _, body = await read(request)
        entry = service.entry(body.get("model") or body.get("name"))
        facts = service.facts(entry)
        arch = facts.get("architecture", "")
        settings = entry.settings.sampling
        return JSONResponse(
            {
                "modelfile": "",
                "parameters": "\n".join(f"{name} {value}" for name, value in settings.items()),
                "template": entry.settings.template or facts.get("template_text", ""),
                "license": facts.get("license", ""),
                "details": details(facts),
                "model_info": {
                    "general.architecture": arch,
                    "general.parameter_count": facts.get("parameters"),
                    f"{arch}.context_length": facts.get("trained"),
                    f"{arch}.embedding_length": facts.get("embedding_length"),
                },
                "capabilities": capabilities(facts, entry),
                "modified_at": moment(entry.modified),
            }
        )

    async def chat(request: Request) -> Response:
        _, body = await read(request)
        entry = service.entry(body.get("model"))
        await check_grammars(body)
        return await chat_reply(service, request, entry, body, kept_seconds(body.get("keep_alive")))

    async def generate(request: Request) -> Response:
        _, body = await read(request)
        entry = service.entry(body.get("model"))
        await check_grammars(body)
        return await generate_reply(service, request, entry, body, kept_seconds(body.get("keep_alive")))

    async def embed(request: Request) -> Response:
        _, body = await read(request)
        entry = service.entry(body.get("model"))
        given = body.get("input")
        texts = [given] if isinstance(given, str) else given
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise ApiError(400, "input is not a text or a list of texts")
        found, tokens, began, loading = await vectors(request, entry, texts, body)
        return JSONResponse(
            {
                "model": entry.name,
                "embeddings": found,
                "total_duration": int((time.monotonic() - began) * NANO),
                "load_duration": int(loading * NANO),
                "prompt_eval_count": tokens,
            }
        )

    async def embeddings(request: Request) -> Response:
        _, body = await read(request)
        entry = service.entry(body.get("model"))
        if not isinstance(body.get("prompt"), str):
            raise ApiError(400, "prompt is not a text")
        found, _, _, _ = await vectors(request, entry, [body["prompt"]], body)
        return JSONResponse({"embedding": found[0]})

    async def vectors(
        request: Request, entry: Entry, texts: list[str], body: Mapping[str, Any]
    ) -> tuple[list[list[float]], int, float, float]:
        began = time.monotonic()
        if not texts:
            return [], 0, began, 0.0
        async with service.lease(request, entry, EMBEDDING) as running:
            loading = time.monotonic() - began
            kept = kept_seconds(body.get("keep_alive"))
            if kept is not None:
                running.keep_alive = kept
            asked: list[Any] = list(texts)
            if body.get("truncate", True):
                # what does not fit is cut off, as Ollama does unless it is told not to
                asked = [await cut(running, text) for text in texts]
            status, found = await running.call("POST", "/v1/embeddings", {"input": asked})
        if status != 200:
            error = found.get("error", {}) if isinstance(found, dict) else {}
            raise ApiError(status, str(error.get("message", "the model refused the texts")))
        rows = sorted(found["data"], key=lambda one: one["index"])
        values = [one["embedding"] for one in rows]
        size = body.get("dimensions")
        if isinstance(size, int) and size > 0:
            values = [shortened(one, size) for one in values]
        return values, int(found["usage"]["prompt_tokens"]), began, loading

    async def cut(running: Any, text: str) -> Any:
        room = running.plan["n_ctx"] - 4
        if len(text.encode()) <= room:
            return text
        _, found = await running.call("POST", "/tokenize", {"content": text, "add_special": True})
        ids = found["tokens"]
        return text if len(ids) <= room else ids[:room]

    async def not_offered(request: Request) -> Response:
        what = request.path_params.get("what") or request.url.path.split("/")[2]
        raise ApiError(501, f"not offered here: {NOT_OFFERED.get(what, 'ggufrun --help')}")

    return {
        ("GET", "/api/version"): version,
        ("GET", "/api/tags"): tags,
        ("GET", "/api/ps"): loaded,
        ("POST", "/api/show"): show,
        ("POST", "/api/chat"): chat,
        ("POST", "/api/generate"): generate,
        ("POST", "/api/embed"): embed,
        ("POST", "/api/embeddings"): embeddings,
        **{("POST", f"/api/{what}"): not_offered for what in NOT_OFFERED if what != "delete"},
        ("DELETE", "/api/delete"): not_offered,
    }


def shortened(values: list[float], size: int) -> list[float]:
    """The first ``size`` numbers, of length one again."""
    kept = values[:size]
    length = sum(value * value for value in kept) ** 0.5
    return [value / length for value in kept] if length else kept
