"""llama.cpp's own endpoints and those that go to the child as they are: Anthropic's messages, OpenAI's responses."""

from __future__ import annotations

import json
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from ggufrun.server.apis import anthropic, styled, whole
from ggufrun.server.apis.grammar_check import check_grammars
from ggufrun.server.apis.openai import chunks_of, has_template
from ggufrun.server.catalog import Entry
from ggufrun.server.errors import ApiError
from ggufrun.server.metrics import labelled, sample
from ggufrun.server.plan import CHAT, RERANK
from ggufrun.server.service import Lines, Relay, Service, check_media, read
from ggufrun.server.upstream import Vanished, ask

TEMPLATED = {
    "/v1/messages": "/v1/messages",
    "/v1/responses": "/v1/responses",
    "/responses": "/v1/responses",
    "/v1/responses/input_tokens": "/v1/responses/input_tokens",
    "/v1/messages/count_tokens": "/v1/messages/count_tokens",
    "/v1/chat/completions/input_tokens": "/v1/chat/completions/input_tokens",
}
"""Paths whose requests the child writes down with the model's template, and what they are called there."""


def native_routes(service: Service, metrics: bool) -> dict[tuple[str, str], Any]:
    """Endpoints by method and path; ``metrics`` adds Prometheus' figures."""

    async def health(request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def to_template(request: Request) -> Response:
        data, body = await read(request)
        check_media(body)
        entry = service.entry(body.get("model"))
        path = TEMPLATED[request.url.path.rstrip("/")]
        templated = body.get("style") is None and await has_template(service, request, entry)
        if path == "/v1/messages" and (anthropic.insists(body) or not templated):
            return await translated(request, entry, body)
        if not templated:
            raise no_template(entry)
        if _insists(body.get("tool_choice")) and "messages" not in path:
            raise ApiError(400, "a tool cannot be forced in this API; /v1/chat/completions enforces tool_choice")
        await check_grammars(body)
        if path in whole.GATHER and whole.is_single(body):
            return JSONResponse(await whole.GATHER[path](whole.events_of(service, request, entry, path, body)))
        texts = 1 if path == "/v1/messages" else 0
        return Relay(service, request, entry, path, data, CHAT, generates="tokens" not in path, answers=texts)

    async def translated(request: Request, entry: Entry, body: dict[str, Any]) -> Response:
        chunks = chunks_of(service, request, entry, anthropic.as_openai(body))
        events = anthropic.events(chunks, entry.name)
        if body.get("stream"):
            return Lines(anthropic.sse(events), "text/event-stream")
        return JSONResponse(await anthropic.gathered(events))

    async def infill(request: Request) -> Response:
        data, body = await read(request)
        entry = service.entry(body.get("model"))
        await check_grammars(body)
        if whole.is_single(body):
            events = whole.events_of(service, request, entry, "/infill", body)
            return JSONResponse(await whole.completion(events))
        return Relay(service, request, entry, "/infill", data, CHAT)

    async def rerank(request: Request) -> Response:
        data, body = await read(request)
        return Relay(service, request, service.entry(body.get("model")), "/v1/rerank", data, RERANK)

    async def tokenize(request: Request) -> Response:
        _, body = await read(request)
        entry = service.entry(body.get("model"))
        if "content" not in body and "prompt" in body:
            body["content"] = body["prompt"]
        data = json.dumps(body).encode()
        return Relay(service, request, entry, "/tokenize", data, generates=False)

    async def detokenize(request: Request) -> Response:
        data, body = await read(request)
        return Relay(service, request, service.entry(body.get("model")), "/detokenize", data, generates=False)

    async def apply_template(request: Request) -> Response:
        data, body = await read(request)
        entry = service.entry(body.get("model"))
        if body.get("style") is None and await has_template(service, request, entry):
            return Relay(service, request, entry, "/apply-template", data, CHAT, generates=False)
        async with service.lease(request, entry, CHAT, generates=False) as running:
            style = styled.style_of(running, body)
            ids = await styled.prompt_ids(running, style, body.get("messages"))
            text = styled.prompt_text(style, body.get("messages"))
            return JSONResponse({"prompt": text, "tokens": ids, "style": style.name})

    async def props(request: Request) -> Response:
        name = request.query_params.get("model")
        entry = service.entry(name) if name else service.catalog.default
        loaded = {one.entry.name for one in service.pool.running.values()}
        if entry is None or (not name and entry.name not in loaded):
            names = [one.name for one in service.catalog.entries]
            return JSONResponse({"models": names, "build_info": f"ggufrun {service.version}"})
        async with service.lease(request, entry, generates=False) as running:
            status, found = await running.call("GET", "/props")
        # where files are is nobody's business
        found.pop("model_path", None)
        return JSONResponse({**found, "style": running.plan["style"]}, status)

    async def slots(request: Request) -> Response:
        entry = service.entry(request.query_params.get("model"))
        return Relay(service, request, entry, "/slots", None, CHAT, generates=False, method="GET")

    async def load(request: Request) -> Response:
        _, body = await read(request)
        entry = service.entry(body.get("model"))
        async with service.lease(request, entry, generates=False):
            return JSONResponse({"success": True})

    async def unload(request: Request) -> Response:
        _, body = await read(request)
        entry = service.entry(body.get("model"))
        await unload_idle(service, entry)
        return JSONResponse({"success": True})

    async def figures(request: Request) -> Response:
        lines = []
        for (path, status), count in sorted(service.metrics.requests.items()):
            lines.append(sample("ggufrun_requests_total", {"path": path, "status": str(status)}, count))
        for path, seconds in sorted(service.metrics.seconds.items()):
            lines.append(sample("ggufrun_request_seconds_total", {"path": path}, seconds))
        for name, count in sorted(service.pool.crashes.items()):
            lines.append(sample("ggufrun_model_crashes_total", {"model": name}, count))
        for running in list(service.pool.running.values()):
            labels = {"model": running.entry.name, "kind": running.plan["kind"]}
            lines.append(sample("ggufrun_model_requests_total", labels, running.requests))
            lines.append(sample("ggufrun_model_waiting", labels, running.waiting))
            async with service.pool.lease(running.entry, generates=False) as leased:
                lines += labelled(await _text(leased.socket, "/metrics"), running.entry.name)
        return PlainTextResponse("\n".join([*lines, ""]), media_type="text/plain; version=0.0.4")

    found: dict[tuple[str, str], Any] = {
        ("GET", "/health"): health,
        ("GET", "/v1/health"): health,
        ("GET", "/props"): props,
        ("GET", "/slots"): slots,
        ("POST", "/models/load"): load,
        ("POST", "/models/unload"): unload,
        ("POST", "/infill"): infill,
        ("POST", "/tokenize"): tokenize,
        ("POST", "/detokenize"): detokenize,
        ("POST", "/apply-template"): apply_template,
        **{("POST", path): rerank for path in ("/rerank", "/v1/rerank", "/reranking", "/v1/reranking")},
        **{("POST", path): to_template for path in TEMPLATED},
    }
    if metrics:
        found["GET", "/metrics"] = figures
    return found


def no_template(entry: Entry) -> ApiError:
    """What to do about a model that brings no chat template, where only one would do."""
    return ApiError(
        400,
        f"{entry.name} brings no chat template, which this API needs; /v1/chat/completions writes its prompt style",
        "no_chat_template",
    )


def _insists(choice: Any) -> bool:
    return choice == "required" or (isinstance(choice, dict) and choice.get("type") in ("any", "tool", "function"))


async def unload_idle(service: Service, entry: Entry) -> None:
    """End the processes of a model that nobody uses now."""
    for running in list(service.pool.running.values()):
        if running.entry.name == entry.name and running.leases == 0:
            await service.pool.unload(running)


async def _text(socket: str, path: str) -> str:
    try:
        async with ask(socket, "GET", path) as answer:
            return (await answer.body()).decode("utf-8", "replace")
    except Vanished:
        return ""
