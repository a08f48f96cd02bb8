"""A repository without its weights: enough to plan a conversion of it, in some hundred kilobytes."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ggufrun.errors import FormatError, GgufrunError, UnsupportedError
from ggufrun.hub import client, transfer
from ggufrun.hub.client import Listing, RemoteFile
from ggufrun.hub.ids import MODELSCOPE, HubId
from ggufrun.hub.select import checkpoint_files

FIRST = 1 << 18
"""Bytes asked for at first; most headers are shorter."""

MAX_HEADER = 100_000_000
"""Bytes; the limit of the reference reader of safetensors."""


def fetch_outline(spec: HubId, folder: Path) -> Path:
    """Put the small files of a checkpoint, and the headers of its weights, into a folder below ``folder``.

    Each safetensors file has its true header and size, and a hole for its data: tensors can be listed, not read.
    The folder has the model's name. Raises UnsupportedError for weights in another format, which have no such header.
    """
    if spec.source == MODELSCOPE:
        raise UnsupportedError(f"{spec} is on ModelScope, where headers cannot be had alone", "fetch it with pull")
    listing = client.listing(spec.repo, spec.revision)
    try:
        names = checkpoint_files(listing.names)
    except GgufrunError as error:
        raise type(error)(f"{spec}: {error.what}", error.todo) from None
    weights = [name for name in names if name.endswith(".safetensors")]
    if not weights:
        raise UnsupportedError(f"{spec} has no safetensors, whose headers could be read alone", "fetch it with pull")
    place = folder / spec.name
    place.mkdir(parents=True)
    for file in map(listing.file, names):
        path = place / file.name
        if file.name not in weights:
            transfer.fetch_file(listing.repo, listing.commit, file, path, lambda done: None)
            continue
        with path.open("wb") as sink:
            sink.write(_header(listing, file))
            sink.truncate(file.size)
    return place


def _header(listing: Listing, file: RemoteFile) -> bytes:
    """The length and the header of a safetensors file."""
    data = _start(listing, file, min(FIRST, file.size))
    needed = 8 + int.from_bytes(data[:8], "little")
    if needed > min(MAX_HEADER, file.size):
        raise FormatError(f"{file.name} is not a safetensors file: its header has {needed} bytes", "tell its authors")
    return data[:needed] if needed <= len(data) else _start(listing, file, needed)


def _start(listing: Listing, file: RemoteFile, n_bytes: int) -> bytes:
    with client.explained(listing.repo, listing.commit):
        address = client.url(listing.repo, listing.commit, file.name)
        with client.get(address, 0, n_bytes) as (_, chunks):
            data = _take(chunks, n_bytes)
    if len(data) < n_bytes:
        raise client.ConnectionLostError(f"the transfer of {file.name} was cut", "run the same command again")
    return data


def _take(chunks: Iterable[bytes], n_bytes: int) -> bytes:
    """The first bytes; a server that ignores ranges would send the rest too."""
    parts: list[bytes] = []
    done = 0
    for chunk in chunks:
        parts.append(chunk)
        done += len(chunk)
        if done >= n_bytes:
            break
    return b"".join(parts)[:n_bytes]
