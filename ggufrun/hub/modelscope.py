"""ModelScope as a second source: its list of a repository's files, and where each of them is fetched.

The API is the one that ``modelscope download`` uses: https://modelscope.cn/docs/models/download. MODELSCOPE_ENDPOINT
names another server, MODELSCOPE_API_TOKEN signs requests for private models.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from ggufrun import jsontext
from ggufrun.errors import FormatError, NotFoundError, UnsupportedError
from ggufrun.hub import client
from ggufrun.hub.client import ConnectionLostError, Listing, RemoteFile
from ggufrun.hub.digests import Digest, is_inside

ENDPOINT = "https://modelscope.cn"
BRANCH = "master"
"""ModelScope's default branch."""

MAX_ANSWER = 16 << 20
"""Bytes of a list of files."""

_SHA256 = re.compile("[0-9a-f]{64}")
_COMMIT = re.compile("[0-9a-f]{40}")


@dataclass(frozen=True)
class ModelScopeListing(Listing):
    """A repository on ModelScope; ``address`` of a file says where it is fetched."""

    def file(self, name: str) -> RemoteFile:
        """What is to be fetched under ``name``."""
        if not is_inside(name):
            raise FormatError(f"{self.repo} has a file named {name!r}", "do not trust this repository")
        size, digest = self._known[name]
        if size is None or digest is None:
            raise UnsupportedError(
                f"{host()} gives no size or SHA-256 of {name}", "fetch it from the hub: ggufrun keeps what it can check"
            )
        address = f"{_api(self.repo)}?Revision={quote(self.revision, safe='')}&FilePath={quote(name, safe='')}"
        return RemoteFile(name, size, digest, address)


def endpoint() -> str:
    """The server, as a URL without a final slash."""
    return os.environ.get("MODELSCOPE_ENDPOINT", ENDPOINT).rstrip("/")


def host() -> str:
    """The server's name, for people."""
    return endpoint().partition("://")[2] or endpoint()


def listing(repo: str, revision: str | None) -> Listing:
    """The files of a repository; NotFoundError and others with what to do."""
    asked = revision or BRANCH
    try:
        answer = _asked(f"{_api(repo)}/files?Revision={quote(asked, safe='')}&Recursive=true")
    except NotFoundError as error:
        if isinstance(error, ConnectionLostError):
            raise
        raise NotFoundError(
            f"{host()} has no model {repo} at {asked}, or it is private",
            "check the spelling; set MODELSCOPE_API_TOKEN for a private one",
        ) from error
    known: dict[str, tuple[int | None, Digest | None]] = {}
    newest = (-1.0, "")
    try:
        for item in answer["Data"]["Files"]:
            if item.get("Type") == "tree":
                continue
            digest = str(item.get("Sha256") or "").lower()
            size = int(item["Size"])
            checked = Digest("sha256", digest) if _SHA256.fullmatch(digest) else None
            known[str(item["Path"])] = (size if 0 <= size < client.MAX_SIZE else None, checked)
            newest = max(newest, (float(item.get("CommittedDate") or 0), str(item.get("Revision") or "")))
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise FormatError(f"{host()} answers, but not as ModelScope", "check MODELSCOPE_ENDPOINT") from error
    commit = newest[1] if _COMMIT.fullmatch(newest[1]) else "0" * 40
    return ModelScopeListing(repo, asked, commit, tuple(sorted(known)), known)


def _api(repo: str) -> str:
    return f"{endpoint()}/api/v1/models/{repo}/repo"


def _asked(address: str) -> dict[str, Any]:
    """The JSON that an address answers with. NotFoundError for a refusal, ConnectionLostError for no answer."""
    hub = client.hub()
    try:
        with client.get(address, 0) as (_, chunks):
            data = b""
            for chunk in chunks:
                data += chunk
                if len(data) > MAX_ANSWER:
                    raise FormatError(f"{host()} sends too long a list of files", "check MODELSCOPE_ENDPOINT")
    except hub.errors.HfHubHTTPError as error:
        code = client.status(error) or 0
        if code >= 500 or code == 429:
            raise ConnectionLostError(f"{host()} answers with error {code}", "run the same command later") from error
        raise NotFoundError(f"{host()} answers with error {code}", "check the name") from error
    except Exception as error:
        if not client.is_network(error):
            raise
        words = " ".join(str(error).split())[:120] or type(error).__name__
        raise ConnectionLostError(f"cannot reach {host()} ({words})", "check the network and the proxy") from error
    try:
        answer = jsontext.parse(data)
    except ValueError as error:
        raise FormatError(f"{host()} answers, but not as ModelScope", "check MODELSCOPE_ENDPOINT") from error
    if not isinstance(answer, dict) or answer.get("Code") != 200:
        raise NotFoundError(f"{host()} refuses", "check the name")
    return answer
