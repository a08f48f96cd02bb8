"""A running `ggufrun serve`, and asking it over plain HTTP."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from ggufrun.errors import NotFoundError
from ggufrun.server.executable import executable


def need_server() -> None:
    """Skip where llama.cpp's server is not installed: `make setup SERVER=0`."""
    try:
        executable()
    except NotFoundError:
        pytest.skip("llama.cpp's server is not installed here")


@dataclass
class Reply:
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, parsed."""
        return json.loads(self.body)

    @property
    def events(self) -> list[Any]:
        """The objects of server-sent events, without the closing mark."""
        lines = [line.removeprefix("data: ") for line in self.body.decode().split("\n") if line.startswith("data: ")]
        return [json.loads(line) for line in lines if line != "[DONE]"]

    @property
    def lines(self) -> list[Any]:
        """The objects of a stream of lines."""
        return [json.loads(line) for line in self.body.decode().splitlines()]


@dataclass
class Serving:
    """A server that runs. ``said`` is its stderr so far."""

    process: subprocess.Popen[str]
    url: str
    said: list[str] = field(default_factory=list)

    @property
    def port(self) -> int:
        """Where it listens."""
        return urlsplit(self.url).port or 0

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Reply:
        """One request; a body that is not bytes goes as JSON."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
            connection.request(method, path, data, {name.replace("_", "-"): text for name, text in headers.items()})
            answer = connection.getresponse()
            found = {name.lower(): value for name, value in answer.getheaders()}
            return Reply(answer.status, found, answer.read())
        finally:
            connection.close()

    def post(self, path: str, /, **body: Any) -> Reply:
        """A request with these fields."""
        return self.ask("POST", path, body)

    def children(self) -> list[int]:
        """The processes of its models."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
                name = (folder / "comm").read_text().strip()
            except OSError:
                continue
            if int(fields[1]) == self.process.pid and name == "llama-server":
                found.append(int(folder.name))
        return found


@contextmanager
def serving(*arguments: str | Path, **environment: str) -> Iterator[Serving]:
    """`ggufrun serve` with these arguments at any free port, until the block ends."""
    need_server()
    command = [sys.executable, "-m", "ggufrun", "serve", *map(str, arguments), "--port", "0"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **environment}
    )
    said: list[str] = []

    def listen() -> None:
        assert process.stderr is not None
        while line := process.stderr.readline():
            said.append(line)

    reader = threading.Thread(target=listen, daemon=True)
    reader.start()
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert url.startswith("http"), said
        yield Serving(process, url, said)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        reader.join(5)
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()
