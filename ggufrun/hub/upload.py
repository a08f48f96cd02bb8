"""Putting a folder onto the hub through its own client; what is there already, as its digest says, is not sent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ggufrun.errors import GgufrunError, NotFoundError
from ggufrun.hub import client
from ggufrun.hub.digests import file_digest


@dataclass(frozen=True)
class Upload:
    """A file to send: its ``name`` in the repository, and its bytes."""

    path: Path
    name: str
    size: int


def files_to_upload(folder: Path) -> list[Upload]:
    """The files of ``folder``, hidden and partial ones left out: the small ones first. NotFoundError for none."""
    found = [
        Upload(path, path.relative_to(folder).as_posix(), path.stat().st_size)
        for path in folder.rglob("*")
        if path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and path.suffix not in (".part", ".incomplete")
    ]
    if not found:
        raise NotFoundError(f"{folder} holds no files", "name the folder to publish")
    return sorted(found, key=lambda one: (one.size, one.name))


def upload(
    repo: str,
    files: list[Upload],
    private: bool = False,
    revision: str | None = None,
    on_file: Callable[[Upload, bool], None] | None = None,
) -> str:
    """Send ``files`` to ``repo``, which is made if there is none; the address of the repository.

    Every file is a commit of its own, so that a transfer that was cut continues with the file at which it stopped.
    ``on_file`` hears each file once it is there, and whether it was sent. Raises NotFoundError and others as fetching.
    """
    api = client.hub().HfApi()
    with client.explained(repo, revision or "main"):
        address = str(api.create_repo(repo, private=private, exist_ok=True))
        if revision:
            api.create_branch(repo, branch=revision, exist_ok=True)
    there = _there(repo, revision)
    for one in files:
        sent = not _is_there(one, there)
        if sent:
            with client.explained(repo, revision or "main"):
                api.upload_file(
                    path_or_fileobj=str(one.path),
                    path_in_repo=one.name,
                    repo_id=repo,
                    revision=revision,
                    commit_message=f"Upload {one.name}",
                )
        if on_file:
            on_file(one, sent)
    return address


def _there(repo: str, revision: str | None) -> client.Listing | None:
    try:
        return client.listing(repo, revision)
    except client.ConnectionLostError:
        raise
    except GgufrunError:
        # a new one has no commit yet
        return None


def _is_there(one: Upload, there: client.Listing | None) -> bool:
    if there is None or one.name not in there.names:
        return False
    file = there.file(one.name)
    return file.size == one.size and file_digest(one.path, file.digest.kind) == file.digest
