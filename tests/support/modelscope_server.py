"""A ModelScope on this machine: the list of files and their content, as ``modelscope download`` asks for them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

COMMIT = "89abcdef0123456789abcdef0123456789abcdef"


class ModelScopeServer:
    """Repositories by name, each of files by path; ``seen`` are the requests as (path, range, authorization)."""

    def __init__(self) -> None:
        self.repos: dict[str, dict[str, bytes]] = {}
        self.seen: list[tuple[str, str | None, str | None]] = []
        self.cuts: list[int] = []
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: ModelScopeServer
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *arguments: Any) -> None:
        pass

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        self.hub.seen.append((self.path, self.headers.get("Range"), self.headers.get("Authorization")))
        name = "/".join(url.path.removeprefix("/api/v1/models/").split("/")[:2])
        files = self.hub.repos.get(name)
        if files is None or query.get("Revision") not in ("master", "v1"):
            self._json(404, {"Code": 10010205001, "Message": "获取模型信息失败", "Success": False})
        elif url.path.endswith("/repo/files"):
            self._json(200, {"Code": 200, "Success": True, "Data": {"Files": self._entries(files)}})
        elif query.get("FilePath") in files:
            self._content(files[query["FilePath"]])
        else:
            self._json(404, {"Code": 10990101002, "Message": "file not found", "Success": False})

    def _entries(self, files: dict[str, bytes]) -> list[dict[str, Any]]:
        folders = [{"Path": "sub", "Name": "sub", "Type": "tree", "Size": 0, "Sha256": ""}]
        return folders + [
            {
                "Path": name,
                "Name": name.rpartition("/")[2],
                "Type": "blob",
                "Size": len(data),
                "Sha256": hashlib.sha256(data).hexdigest(),
                "Revision": COMMIT,
                "CommittedDate": 1700000000,
                "IsLFS": len(data) > 1000,
            }
            for name, data in files.items()
        ]

    def _content(self, data: bytes) -> None:
        start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").partition("-")[0])
        body = data[start:]
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.hub.cuts:
            self.wfile.write(body[: self.hub.cuts.pop(0)])
            self.close_connection = True
        else:
            self.wfile.write(body)

    def _json(self, status: int, value: Any) -> None:
        body = json.dumps(value, ensure_ascii=False).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextlib.contextmanager
def running() -> Iterator[ModelScopeServer]:
    """A server for the time of a test."""
    server = ModelScopeServer()
    try:
        yield server
    finally:
        server.close()
