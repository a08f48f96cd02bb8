"""What goes wrong with a request, and how each API says so."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

OPENAI, ANTHROPIC, OLLAMA = "openai", "anthropic", "ollama"

TYPES: dict[int, str] = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    501: "not_supported_error",
    503: "overloaded_error",
    504: "timeout_error",
}
"""The type of an error by its status; ``api_error`` for all others."""


@dataclass
class ApiError(Exception):
    """An error that a client is told: HTTP ``status``, ``message``, and the ``code`` and ``param`` of OpenAI's form."""

    status: int
    message: str
    code: str | None = None
    param: str | None = None
    headers: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.message

    @property
    def type(self) -> str:
        """The kind of error, in words that OpenAI's and Anthropic's clients know."""
        return TYPES.get(self.status, "api_error")

    def body(self, api: str) -> dict[str, Any]:
        """The error in the form of ``api``."""
        if api == OLLAMA:
            return {"error": self.message}
        if api == ANTHROPIC:
            return {"type": "error", "error": {"type": self.type, "message": self.message}}
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}

    def event(self, api: str) -> bytes:
        """The error within a stream that has begun."""
        text = json.dumps(self.body(api), ensure_ascii=False)
        if api == OLLAMA:
            return f"{text}\n".encode()
        head = "event: error\n" if api == ANTHROPIC else ""
        return f"{head}data: {text}\n\n".encode()


def api_of(path: str) -> str:
    """Which API a path belongs to."""
    if path == "/api" or path.startswith("/api/"):
        return OLLAMA
    return ANTHROPIC if path.startswith("/v1/messages") else OPENAI


def busy(message: str, seconds: int = 1) -> ApiError:
    """Too much at once: try again in ``seconds``."""
    return ApiError(503, message, "overloaded", headers={"Retry-After": str(seconds)})


def no_model(name: str) -> ApiError:
    """A model that is not served."""
    return ApiError(
        404, f"there is no model {name[:200]!r} here; GET /v1/models lists them", "model_not_found", "model"
    )
