"""What every endpoint uses: the models, the body of a request, and handing a request on to a child."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from ggufrun import jsontext
from ggufrun.errors import GgufrunError
from ggufrun.server.apis.leading_space import stream_without_space, without_space
from ggufrun.server.catalog import Catalog, Entry
from ggufrun.server.errors import ApiError, api_of, no_model
from ggufrun.server.metrics import Metrics
from ggufrun.server.plan import CHAT, EMBEDDING, RERANK
from ggufrun.server.pool import Pool, Running
from ggufrun.server.upstream import Answer, Vanished, ask

REMOTE = ("http:", "https:", "file:", "ftp:")
PICTURES = ("image_url", "input_image", "image", "input_audio", "input_video", "video_url")
"""Types of a message's parts that bring something to look at or to listen to."""

USES = {CHAT: "text", EMBEDDING: "embeddings", RERANK: "ranking"}

Describe = Callable[[Entry], dict[str, Any]]


@dataclass
class Service:
    """The models that are served. ``describe`` tells what the header of a model's file says."""

    catalog: Catalog
    pool: Pool
    describe: Describe
    version: str
    metrics: Metrics = field(default_factory=Metrics)

    def entry(self, name: Any) -> Entry:
        """The model called ``name``, or the default one for no name. Raises ApiError."""
        if name is None or name == "":
            if self.catalog.default is None:
                raise ApiError(400, "the request does not say which model", "model_required", "model")
            return self.catalog.default
        if not isinstance(name, str):
            raise ApiError(400, "model is not a text", param="model")
        found = self.catalog.find(name)
        if found is None:
            raise no_model(name)
        return found

    def facts(self, entry: Entry) -> dict[str, Any]:
        """What the file of ``entry`` says about itself; empty where it cannot be read."""
        try:
            return self.describe(entry)
        except (GgufrunError, OSError):
            return {}

    @asynccontextmanager
    async def lease(
        self, request: Request, entry: Entry, kind: str = "", generates: bool = True
    ) -> AsyncIterator[Running]:
        """The loaded model, for as long as ``request`` may take."""
        request.scope["notes"]["model"] = entry.name
        own = self.facts(entry).get("kind", kind)
        # a model that writes has vectors, too; no other is good for what it was not made for
        if kind and kind != own and (own, kind) != (CHAT, EMBEDDING):
            raise ApiError(400, f"{entry.name} is a model for {USES[own]}, not for {USES[kind]}", "wrong_kind", "model")
        async with self.pool.lease(entry, kind, generates) as running:
            yield running


def parsed(body: bytes) -> dict[str, Any]:
    """The object that a request brings. Raises ApiError."""
    try:
        value = jsontext.parse(body)
    except ValueError as error:
        raise ApiError(400, f"the body is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise ApiError(400, "the body is not a JSON object")
    return value


async def read(request: Request) -> tuple[bytes, dict[str, Any]]:
    """The body of ``request``, as it came and parsed. Raises ApiError."""
    body = await request.body()
    return body, parsed(body)


def check_media(value: Any) -> None:
    """Raise ApiError for pictures that the child would have to fetch: no request opens a connection or a file."""
    if isinstance(value, list):
        for item in value:
            check_media(item)
    elif isinstance(value, dict):
        if value.get("type") in PICTURES:
            for place in (value, value.get("image_url"), value.get("source"), value.get("input_audio")):
                links = (
                    [place.get(name) for name in ("url", "image_url", "data")] if isinstance(place, dict) else [place]
                )
                for link in links:
                    if isinstance(link, str) and link.lower().startswith(REMOTE):
                        what = "pictures are not fetched by address"
                        raise ApiError(
                            400, f"{what}: send the picture itself, as data:image/...;base64,...", param="messages"
                        )
        for item in value.values():
            if isinstance(item, (dict, list)):
                check_media(item)


def check_number(body: Mapping[str, Any], name: str, low: float, high: float) -> None:
    """Raise ApiError where ``name`` is given and is not a number between ``low`` and ``high``."""
    value = body.get(name)
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise ApiError(400, f"{name} is not a number between {low:g} and {high:g}", param=name)


async def child_error(answer: Answer) -> ApiError:
    """The error that a child answered with."""
    found = await answer.json()
    error = found.get("error", found) if isinstance(found, dict) else {}
    message = error.get("message") if isinstance(error, dict) else None
    status = answer.status if 400 <= answer.status < 600 else 500
    # what it answers to a parameter of the wrong type is a mistake of the client
    if status == 500 and message and ("json.exception" in message or "parse" in message.lower()):
        status = 400
    code = error.get("type") if isinstance(error, dict) else None
    return ApiError(status, str(message or "the model refused the request"), code)


class Relay(Response):
    """The answer of a child, as it comes. ``path`` is the child's, ``body`` what it gets. ``answers`` is how many texts
    of a chat come back, which lose the vocabulary's space; 0 where nothing is to be changed.
    """

    def __init__(
        self,
        service: Service,
        request: Request,
        entry: Entry,
        path: str,
        body: bytes | None,
        kind: str = "",
        *,
        generates: bool = True,
        method: str = "POST",
        answers: int = 0,
    ) -> None:
        self._service, self._request, self._entry = service, request, entry
        self._path, self._content, self._kind, self._generates, self._method = path, body, kind, generates, method
        self._answers = answers
        self.background = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Hand the request on, and the answer back."""
        api = api_of(scope["path"])
        async with self._service.lease(self._request, self._entry, self._kind, self._generates) as running:
            started = False
            try:
                async with ask(running.socket, self._method, self._path, self._content) as answer:
                    if answer.status >= 400:
                        raise await child_error(answer)
                    kind = answer.headers.get("content-type", "application/json")
                    headers = [(b"content-type", kind.encode("latin-1"))]
                    pieces = answer.pieces()
                    if answer.is_stream:
                        headers += [(b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no")]
                        pieces = stream_without_space(pieces, self._answers) if self._answers else pieces
                    else:
                        body = await answer.body()
                        body = without_space(body) if self._answers else body
                        headers.append((b"content-length", str(len(body)).encode()))
                        pieces = _once(body)
                    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
                    started = True
                    async for piece in pieces:
                        await send({"type": "http.response.body", "body": piece, "more_body": True})
                await send({"type": "http.response.body", "body": b""})
            except Vanished:
                error = await running.gone()
                if not started:
                    raise error from None
                await _break_off(send, error, api)


async def _once(body: bytes) -> AsyncIterator[bytes]:
    yield body


async def _break_off(send: Any, error: ApiError, api: str) -> None:
    """Say within a stream that it ends too early."""
    await send({"type": "http.response.body", "body": error.event(api), "more_body": True})
    await send({"type": "http.response.body", "body": b""})


class Lines(Response):
    """A stream made here: ``pieces`` yields its bytes. An error before the first is an answer of its own."""

    def __init__(self, pieces: AsyncIterator[bytes], media_type: str) -> None:
        self._pieces = pieces
        self._type = media_type
        self.background = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Send it."""
        api = api_of(scope["path"])
        started = False
        try:
            async for piece in self._pieces:
                if not started:
                    headers = [(b"content-type", self._type.encode()), (b"cache-control", b"no-cache")]
                    await send({"type": "http.response.start", "status": 200, "headers": headers})
                    started = True
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            if started:
                await send({"type": "http.response.body", "body": b""})
        except ApiError as error:
            if not started:
                raise
            await _break_off(send, error, api)
        finally:
            close = getattr(self._pieces, "aclose", None)
            if close is not None:
                await asyncio.shield(close())
