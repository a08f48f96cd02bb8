"""The web page: one document and one script of ours, and Markdown rendered for it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from ggufrun.server.apis.markdown import html
from ggufrun.server.errors import ApiError
from ggufrun.server.service import read

FOLDER = Path(__file__).parent / "page"

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'unsafe-inline'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Nothing but our script runs, nothing is fetched from elsewhere, no other page shows this one in a frame."""

HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}


def page_routes(page: bool) -> dict[tuple[str, str], Any]:
    """Endpoints by method and path; without ``page`` only the words that clients of Ollama look for at ``/``."""

    async def root(request: Request) -> Response:
        if page and "text/html" in request.headers.get("accept", ""):
            return Response((FOLDER / "index.html").read_bytes(), media_type="text/html", headers=HEADERS)
        return PlainTextResponse("Ollama is running")

    async def script(request: Request) -> Response:
        return Response((FOLDER / "page.js").read_bytes(), media_type="text/javascript", headers=HEADERS)

    async def render(request: Request) -> Response:
        _, body = await read(request)
        text = body.get("text")
        if not isinstance(text, str):
            raise ApiError(400, "text is not a text", param="text")
        # in a thread: a long text must not keep the others waiting
        return JSONResponse({"html": await asyncio.get_running_loop().run_in_executor(None, html, text)})

    found: dict[tuple[str, str], Any] = {("GET", "/"): root}
    return {**found, ("GET", "/page.js"): script, ("POST", "/render"): render} if page else found
