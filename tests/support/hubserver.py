"""A hub on this machine: an HTTP server that speaks the API as ``huggingface_hub`` uses it, and misbehaves on demand.

Large files (``LFS_FROM`` bytes and more) are kept as the hub keeps them: their etag is their SHA-256 and they come from
another host (``cdn``); small ones have git's SHA-1 of them and come from the hub itself.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

LFS_FROM = 1000
TOKEN = "hf_sesame"


def git_sha1(data: bytes) -> str:
    """What git calls a file."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@dataclass
class Repo:
    """``files`` by revision; a revision is a branch or tag. ``lie`` changes what is sent, not what is promised."""

    files: dict[str, bytes]
    private: bool = False
    gated: bool = False
    branches: dict[str, dict[str, bytes]] = field(default_factory=dict)
    lie: Callable[[bytes], bytes] = bytes

    def at(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        for name, files in {"main": self.files, **self.branches}.items():
            tree = sorted((file, git_sha1(data)) for file, data in files.items())
            commit = hashlib.sha1(repr(tree).encode()).hexdigest()
            if revision in (name, commit):
                return commit, files
        return None


@dataclass
class Seen:
    """A request: ``host`` is ``hub`` or ``cdn``; names of headers in lower case."""

    host: str
    method: str
    path: str
    headers: dict[str, str]


class HubServer:
    """Repositories, what was asked for, and what goes wrong next."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.seen: list[Seen] = []
        self.cuts: list[int] = []
        """The next transfers of large files end after so many bytes."""
        self.stalls: list[float] = []
        """The next transfers of large files fall silent in the middle for so many seconds."""
        self.ranges = True
        """Whether the CDN honours Range."""
        self.broken = 0
        """So many of the next transfers of large files are answered with 503."""
        self._hub, self._cdn = (self._serve(name) for name in ("hub", "cdn"))
        self.url = f"http://127.0.0.1:{self._hub.server_port}"
        self.cdn = f"http://localhost:{self._cdn.server_port}"

    def _serve(self, name: str) -> ThreadingHTTPServer:
        handler = type("Handler", (_Handler,), {"hub": self, "name": name})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        return server

    def close(self) -> None:
        for server in (self._hub, self._cdn):
            server.shutdown()
            server.server_close()

    def asked(self, host: str = "cdn", method: str = "GET") -> list[str | None]:
        """The Range header of each request for content."""
        return [
            seen.headers.get("range")
            for seen in self.seen
            if seen.host == host and seen.method == method and "/api/" not in seen.path
        ]

    def received(self) -> list[str]:
        """The names of files that were fetched, whoever sent them."""
        return [
            seen.path.partition("/resolve/")[2].partition("/")[2]
            for seen in self.seen
            if seen.host == "hub" and seen.method == "GET" and "/resolve/" in seen.path
        ]


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    name: str
    protocol_version = "HTTP/1.1"
    # or every answer waits for the delayed acknowledgement of its headers
    disable_nagle_algorithm = True
    wbufsize = -1

    def log_message(self, format: str, *arguments: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.seen.append(Seen(self.name, self.command, path, {k.lower(): v for k, v in self.headers.items()}))
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            if self.name == "cdn":
                self._content(path.removeprefix("/"))
            elif path.startswith("/api/models/"):
                self._info(path.removeprefix("/api/models/"))
            elif "/resolve/" in path:
                self._resolve(path.removeprefix("/"))
            else:
                self._error(404, "")

    def _error(self, status: int, code: str, message: str = "no") -> None:
        self._send(status, {"X-Error-Code": code, "X-Error-Message": message} if code else {}, b'{"error": "no"}')

    def _send(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        if "Content-Length" not in headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _repo(self, name: str, content: bool) -> Repo | None:
        """The repository, if this client may see it; otherwise the answer has been sent."""
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        repo = self.hub.repos.get(name)
        if token and token not in (TOKEN, "hf_stranger"):
            self._error(401, "", "Invalid credentials in Authorization header")
        elif repo is None or (repo.private and token != TOKEN):
            # the hub does not tell missing from private, nor either from a stranger
            self._error(404 if token else 401, "RepoNotFound", "Repository not found")
        elif repo.gated and content and token != TOKEN:
            self._error(403 if token else 401, "GatedRepo", f"Access to model {name} is restricted")
        else:
            return repo
        return None

    def _info(self, path: str) -> None:
        name, _, revision = path.partition("/revision/")
        repo = self._repo(name, content=False)
        if repo is None:
            return
        found = repo.at(revision)
        if found is None:
            self._error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            return
        commit, files = found
        siblings: list[dict[str, Any]] = []
        for file, data in files.items():
            item: dict[str, Any] = {"rfilename": file, "size": len(data), "blobId": git_sha1(data)}
            if len(data) >= LFS_FROM:
                sha256 = hashlib.sha256(data).hexdigest()
                item |= {"blobId": git_sha1(sha256.encode())}
                item |= {"lfs": {"sha256": sha256, "size": len(data), "pointerSize": 130}}
            siblings.append(item)
        info = {"id": name, "modelId": name, "sha": commit, "private": repo.private, "gated": repo.gated}
        body = json.dumps(info | {"tags": [], "downloads": 0, "likes": 0, "siblings": siblings})
        self._send(200, {"Content-Type": "application/json"}, body.encode())

    def _resolve(self, path: str) -> None:
        name, _, rest = path.partition("/resolve/")
        revision, _, file = rest.partition("/")
        repo = self._repo(name, content=True)
        if repo is None:
            return
        found = repo.at(revision)
        if found is None:
            self._error(404, "RevisionNotFound")
            return
        commit, files = found
        if file not in files:
            self._error(404, "EntryNotFound")
            return
        data = files[file]
        headers = {"X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        if len(data) < LFS_FROM:
            headers |= {"ETag": f'"{git_sha1(data)}"'}
            self._send(200, headers, repo.lie(data))
            return
        sha256 = hashlib.sha256(data).hexdigest()
        location = f"{self.hub.cdn}/{name}/{sha256}"
        headers |= {"X-Linked-Etag": f'"{sha256}"', "X-Linked-Size": str(len(data)), "Location": location}
        self._send(302, headers)

    def _content(self, path: str) -> None:
        name, _, sha256 = path.rpartition("/")
        repo = self.hub.repos[name]
        everything = [repo.files, *repo.branches.values()]
        data = next(d for files in everything for d in files.values() if hashlib.sha256(d).hexdigest() == sha256)
        data = repo.lie(data)
        if self.hub.broken:
            self.hub.broken -= 1
            self._error(503, "")
            return
        asked, start, stop, status = self.headers.get("Range"), 0, len(data), 200
        headers = {"Accept-Ranges": "bytes"}
        if asked and self.hub.ranges:
            first, _, last = asked.removeprefix("bytes=").partition("-")
            start, stop, status = int(first), min(int(last or len(data)), len(data) - 1) + 1, 206
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(data)}"
        body = data[start:stop]
        headers["Content-Length"] = str(len(body))
        if self.hub.cuts:
            self._send(status, headers, body[: self.hub.cuts.pop(0)])
            self.close_connection = True
        elif self.hub.stalls:
            self._send(status, headers, body[: len(body) // 2])
            self.wfile.flush()
            time.sleep(self.hub.stalls.pop(0))
            self.wfile.write(body[len(body) // 2 :])
        else:
            self._send(status, headers, body)


@contextlib.contextmanager
def running() -> Iterator[HubServer]:
    """A hub for the time of a test."""
    server = HubServer()
    try:
        yield server
    finally:
        server.close()
