"""The application: its allow-list of endpoints, behind the guard."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ggufrun.server.apis.native import native_routes
from ggufrun.server.apis.ollama import ollama_routes
from ggufrun.server.apis.openai import openai_routes
from ggufrun.server.apis.page_routes import page_routes
from ggufrun.server.errors import ApiError, api_of
from ggufrun.server.guard import Guard, Rules
from ggufrun.server.service import Service

Logged = Callable[[str, str, int, float, dict[str, Any]], None]


def application(
    service: Service, rules: Rules, metrics: bool = False, page: bool = True, logged: Logged | None = None
) -> Guard:
    """The whole of it as an ASGI application. ``logged`` hears of each answer: never of what was said."""
    routes = {
        **openai_routes(service),
        **native_routes(service, metrics),
        **ollama_routes(service),
        **page_routes(page),
    }

    known = {path for _, path in routes}
    app = Starlette(
        routes=[
            Route(path, endpoint, methods=[method, "HEAD"] if method == "GET" else [method])
            for (method, path), endpoint in routes.items()
        ],
        exception_handlers={ApiError: _api_error, HTTPException: _http_error, 500: _unexpected},
    )

    def done(method: str, path: str, status: int, seconds: float, notes: dict[str, Any]) -> None:
        service.metrics.add(path if path in known else "other", status, seconds)
        if logged is not None:
            logged(method, path, status, seconds, notes)

    return Guard(app, rules, done)


def _shown(request: Request, error: ApiError) -> Response:
    return JSONResponse(error.body(api_of(request.url.path)), error.status, error.headers)


async def _api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return _shown(request, error)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    what = f"{request.method} {request.url.path} is not offered here"
    return _shown(request, ApiError(error.status_code, what, headers=dict(error.headers or {})))


async def _unexpected(request: Request, error: Exception) -> Response:
    return _shown(request, ApiError(500, "the server made a mistake with this request"))
