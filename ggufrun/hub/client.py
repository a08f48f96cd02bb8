"""The hub through its own client, and what its errors mean: the only place that imports ``huggingface_hub``.

The client decides where things are and who asks: HF_HOME, HF_HUB_CACHE, HF_ENDPOINT, HF_TOKEN and stored tokens,
HF_HUB_OFFLINE, HF_HUB_DOWNLOAD_TIMEOUT, proxies. The bytes are moved by ``transfer``: the client drops a partial file
when a transfer fails, and would begin a cut one again.
"""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ggufrun.errors import FormatError, GgufrunError, NotFoundError, UnsupportedError, UsageError
from ggufrun.hub.digests import Digest, hub_digest, is_inside

TRANSIENT = {408, 429, 500, 502, 503, 504}
"""HTTP statuses after which the same request may succeed."""

MAX_SIZE = 1 << 60
"""Bytes of a file."""

_COMMIT = re.compile("[0-9a-f]{40}")


@dataclass(frozen=True)
class RemoteFile:
    """A file of a repository: ``name`` with forward slashes, ``size`` in bytes, the digest that names its content.

    ``address`` is where it is fetched from another server than the hub.
    """

    name: str
    size: int
    digest: Digest
    address: str | None = None


@dataclass(frozen=True)
class Listing:
    """A repository at one commit; ``names`` are all its files."""

    repo: str
    revision: str
    commit: str
    names: tuple[str, ...]
    _known: dict[str, tuple[int | None, Digest | None]]

    def file(self, name: str) -> RemoteFile:
        """What is to be fetched under ``name``; the server is asked where the listing did not tell."""
        if not is_inside(name):
            raise FormatError(f"{self.repo} has a file named {name!r}", "do not trust this repository")
        size, digest = self._known.get(name, (None, None))
        if size is None or digest is None:
            size, digest = _ask(self.repo, self.commit, name)
        return RemoteFile(name, size, digest)


class ConnectionLostError(NotFoundError):
    """The hub cannot be reached or is out of order, or its client was told not to try."""


@cache
def hub() -> Any:
    """``huggingface_hub``, made quiet: its bars and log lines would run into ours."""
    module: Any = importlib.import_module("huggingface_hub")
    for part in ("constants", "errors", "utils"):
        # the package loads its parts when they are named, but these are no names of it
        importlib.import_module(f"huggingface_hub.{part}")
    if module.constants.HF_HUB_DISABLE_PROGRESS_BARS is None:
        module.utils.disable_progress_bars()
    if "HF_HUB_VERBOSITY" not in os.environ:
        module.utils.logging.set_verbosity_error()
    return module


def endpoint() -> str:
    """The hub in use, as a URL without a final slash."""
    return str(hub().constants.ENDPOINT)


_other_host: ContextVar[str | None] = ContextVar("other_host", default=None)


@contextmanager
def other_host(name: str) -> Iterator[None]:
    """While this lasts, errors name another server instead of the hub."""
    token = _other_host.set(name)
    try:
        yield
    finally:
        _other_host.reset(token)


def host() -> str:
    """The server's name, for people."""
    if other := _other_host.get():
        return other
    return urlsplit(endpoint()).netloc or endpoint()


def cache_folder() -> Path:
    """The client's cache."""
    return Path(hub().constants.HF_HUB_CACHE)


def removing(repo: str) -> str:
    """The client's command that removes a model from its cache."""
    newer = int(str(hub().__version__).partition(".")[0]) >= 1
    return f"hf cache rm model/{repo}" if newer else "huggingface-cache delete-cache"


def listing(repo: str, revision: str | None) -> Listing:
    """The files of a repository; NotFoundError and others with what to do."""
    asked = revision or str(hub().constants.DEFAULT_REVISION)
    with explained(repo, asked), _sensible():
        info = (
            hub()
            .HfApi()
            .model_info(repo, revision=asked, files_metadata=True, timeout=hub().constants.HF_HUB_DOWNLOAD_TIMEOUT)
        )
        commit, siblings = str(info.sha), info.siblings or []
        known = {str(item.rfilename): _known(item) for item in siblings}
    if not _COMMIT.fullmatch(commit):
        raise FormatError(f"{host()} gives no commit for {repo}", "check HF_ENDPOINT")
    return Listing(repo, asked, commit, tuple(sorted(known)), known)


@contextmanager
def _sensible() -> Iterator[None]:
    """An answer that is not JSON, or lacks what the client counts on, is not the hub's."""
    try:
        yield
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError) as error:
        if isinstance(error, (hub().errors.HFValidationError, hub().errors.HfHubHTTPError)):
            raise
        raise FormatError(f"{host()} answers, but not as a hub", "check HF_ENDPOINT and the proxy") from error


def _known(item: Any) -> tuple[int | None, Digest | None]:
    """Size and digest, as far as the listing tells. ValueError and others for what no hub says."""
    if item.lfs:
        return _size(item.lfs["size"]), hub_digest(str(item.lfs["sha256"]))
    digest = hub_digest(str(item.blob_id)) if item.blob_id else None
    return (_size(item.size) if item.size is not None else None), digest


def _size(value: Any) -> int:
    size = int(value)
    if not 0 <= size < MAX_SIZE:
        raise ValueError("a size that no file has")
    return size


def _ask(repo: str, commit: str, name: str) -> tuple[int, Digest]:
    with explained(repo, commit):
        found = hub().get_hf_file_metadata(url(repo, commit, name), token=None)
    digest = hub_digest(found.etag or "")
    if found.size is None or digest is None:
        raise UnsupportedError(
            f"{host()} tells no size or digest of {name}", "use a hub that does: ggufrun keeps only what it can check"
        )
    return found.size, digest


def url(repo: str, commit: str, name: str) -> str:
    """Where a file is fetched."""
    return str(hub().hf_hub_url(repo, name, revision=commit))


@contextmanager
def get(address: str, start: int, stop: int | None = None) -> Iterator[tuple[Any, Iterator[bytes]]]:
    """A GET from byte ``start`` on, or to byte ``stop``: the response, and its content as it comes in."""
    # compressed on the way, a range would count other bytes than the file's
    headers = hub().utils.build_hf_headers() | {"Accept-Encoding": "identity"}
    if not address.startswith(f"{endpoint()}/"):
        # a token of the hub is nobody else's business
        headers.pop("authorization", None)
        if token := os.environ.get("MODELSCOPE_API_TOKEN"):
            headers["Authorization"] = f"Bearer {token}"
    if start or stop:
        headers["Range"] = f"bytes={start}-{stop - 1 if stop else ''}"
    session, timeout = hub().utils.get_session(), hub().constants.HF_HUB_DOWNLOAD_TIMEOUT
    # a method of httpx, a setting of requests
    if callable(session.stream):
        with session.stream("GET", address, headers=headers, timeout=timeout) as response:
            hub().utils.hf_raise_for_status(response)
            yield response, response.iter_bytes()
    else:
        # which the client used before its release 1.0
        with session.get(address, headers=headers, timeout=timeout, stream=True) as response:
            hub().utils.hf_raise_for_status(response)
            yield response, response.iter_content(1 << 16)


def link_into_cache(repo: str, commit: str, name: str) -> None:
    """Let the client find a file whose content lies under its digest in the cache."""
    with explained(repo, commit):
        hub().hf_hub_download(repo, name, revision=commit)


def largest_plain() -> int:
    """Bytes up to which the hub serves a file over plain HTTP."""
    return int(getattr(hub().constants, "MAX_HTTP_DOWNLOAD_SIZE", 50_000_000_000))


def download(repo: str, commit: str, name: str, folder: Path | None) -> Path:
    """Leave a file to the client, which can use the hub's chunk storage: for files too large for plain HTTP."""
    into: dict[str, Any] = {"local_dir": folder} if folder else {}
    with explained(repo, commit):
        try:
            return Path(hub().hf_hub_download(repo, name, revision=commit, **into))
        except ValueError as error:
            raise UnsupportedError(
                f"{name} is too large for plain HTTP", "install hf_xet with `pip install hf_xet`, and run it again"
            ) from error


def in_cache(repo: str, revision: str, name: str) -> Path | None:
    """The file in the client's cache, if it has it."""
    found = hub().try_to_load_from_cache(repo, name, revision=revision)
    return Path(found) if isinstance(found, str) else None


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """One process at a time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with hub().utils.WeakFileLock(path):
        yield


def is_network(error: BaseException) -> bool:
    """Whether an error comes from the wire: no answer, a cut or slow connection; not an answer that says no."""
    if isinstance(error, hub().errors.HfHubHTTPError):
        return False
    bases = {base.__name__ for base in type(error).__mro__ if base.__module__.split(".")[0] in _WIRE}
    return bool(bases & {"RequestError", "RequestException", "StreamError"})


_WIRE = {"httpx", "httpx2", "requests"}
"""The packages whose errors the client lets through; which one depends on its release."""


def status(error: BaseException) -> int | None:
    """The HTTP status of an answer that says no."""
    response = getattr(error, "response", None)
    return getattr(response, "status_code", None) if isinstance(error, hub().errors.HfHubHTTPError) else None


@contextmanager
def explained(repo: str, revision: str) -> Iterator[None]:
    """Turn the client's errors into ours."""
    try:
        yield
    except GgufrunError:
        raise
    except Exception as error:
        found = explain(error, repo, revision)
        if found is None:
            raise
        raise found from error


def explain(error: Exception, repo: str, revision: str) -> GgufrunError | None:
    """What an error of the client means, and what to do; None for one that has nothing to do with the hub."""
    errors = hub().errors
    for name, meaning in _MEANINGS.items():
        kind = getattr(errors, name, None)
        if kind and isinstance(error, kind):
            return meaning(repo, revision)
    code = status(error)
    if code is not None:
        return _refused(code, repo, str(error))
    if is_network(error):
        words = " ".join(str(error).split())[:120] or type(error).__name__
        return ConnectionLostError(f"cannot reach {host()} ({words})", "check the network, the proxy and HF_ENDPOINT")
    if isinstance(error, errors.LocalEntryNotFoundError) and error.__cause__ is not None:
        return explain(error.__cause__, repo, revision) if isinstance(error.__cause__, Exception) else None
    if isinstance(error, errors.HFValidationError):
        return UsageError(f"{repo!r} is not a model id", "write org/name, org/name@revision or org/name:TYPE")
    return None


def _has_token() -> bool:
    return bool(hub().get_token())


LOG_IN = "log in with `hf auth login`, or set HF_TOKEN"


def _gated(repo: str, revision: str) -> GgufrunError:
    page = f"{endpoint()}/{repo}"
    if _has_token():
        return NotFoundError(
            f"{repo} is gated, and your token may not read it", f"ask for access at {page} with the token's account"
        )
    return NotFoundError(f"{repo} is gated", f"accept its terms at {page}, then {LOG_IN}")


def _missing_repo(repo: str, revision: str) -> GgufrunError:
    if _has_token():
        hint = "check the spelling, and that your token may read it"
    else:
        hint = f"check the spelling; for a private one {LOG_IN}"
    return NotFoundError(f"{host()} has no model {repo}, or it is private", hint)


def _missing_revision(repo: str, revision: str) -> GgufrunError:
    return NotFoundError(f"{repo} has no revision {revision}", "name a branch, a tag or a whole commit id")


def _missing_file(repo: str, revision: str) -> GgufrunError:
    return NotFoundError(f"{repo} lost a file while it was fetched", "run the same command again")


def _disabled(repo: str, revision: str) -> GgufrunError:
    return NotFoundError(f"{host()} has disabled {repo}", "look for another copy of the model")


def _offline(repo: str, revision: str) -> GgufrunError:
    return ConnectionLostError(f"HF_HUB_OFFLINE is set, so {repo} cannot be fetched", "unset it while you fetch")


_MEANINGS: dict[str, Callable[[str, str], GgufrunError]] = {
    # a gated repository is a kind of missing one to the client: the order matters
    "GatedRepoError": _gated,
    "DisabledRepoError": _disabled,
    "RepositoryNotFoundError": _missing_repo,
    "RevisionNotFoundError": _missing_revision,
    "RemoteEntryNotFoundError": _missing_file,
    "OfflineModeIsEnabled": _offline,
}


def _refused(code: int, repo: str, words: str) -> GgufrunError:
    if code == 401:
        if _has_token():
            return NotFoundError(f"{host()} does not accept your token", "log in again, or correct HF_TOKEN")
        return _missing_repo(repo, "")
    if code == 403:
        return NotFoundError(f"{host()} does not let you read {repo}", "use a token that may read it")
    if code == 404:
        return _missing_repo(repo, "")
    if code == 429:
        return NotFoundError(f"{host()} counts too many requests from you", f"wait some minutes, or {LOG_IN}")
    if code >= 500:
        return ConnectionLostError(f"{host()} answers with error {code}", "run the same command again later")
    return NotFoundError(f"{host()} answers with error {code} ({' '.join(words.split())[:120]})", "check HF_ENDPOINT")
