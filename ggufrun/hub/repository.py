"""Fetching a repository, or the part of it that is wanted."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from ggufrun.errors import GgufrunError, TargetError, UsageError
from ggufrun.hub import client, modelscope, places, transfer
from ggufrun.hub.client import ConnectionLostError, Listing, RemoteFile
from ggufrun.hub.copies import Copies
from ggufrun.hub.digests import file_digest, is_inside
from ggufrun.hub.ids import MODELSCOPE, HubId, parse
from ggufrun.hub.select import Selector, checkpoint_files
from ggufrun.hub.shardindex import shard_names


@dataclass(frozen=True)
class Progress:
    """Where a fetch stands: the file on the way, and the bytes done and to do over all files that were missing."""

    file: str
    done: int
    total: int


@dataclass(frozen=True)
class Fetched:
    """What is there now: ``files`` by name below ``folder``; in this run ``received`` of them came from the hub, and
    ``taken`` from the store of another program, by its label.
    """

    folder: Path
    commit: str
    files: tuple[str, ...]
    received: int
    taken: tuple[tuple[str, str], ...] = ()


OnProgress = Callable[[Progress], None]
OnNote = Callable[[str], None]


def fetch(
    spec: str | HubId,
    wanted: Selector = checkpoint_files,
    on_progress: OnProgress | None = None,
    on_note: OnNote | None = None,
) -> Path:
    """A checkpoint on the hub as a folder on this machine, in the cache that all users of the hub's client share.

    ``spec`` is ``org/name`` or ``org/name@revision``; ``wanted`` picks among the names in the repository. What is
    there is not fetched again, what was cut goes on where it stopped, and every file is held against the digest that
    the hub gives for it. Offline, or when the hub cannot be reached, a complete copy in the cache serves. Raises
    NotFoundError for a repository that is missing, gated, private or without such files, and for a transfer that
    stopped; FormatError for damaged content.
    """
    found = parse(spec) if isinstance(spec, str) else spec
    if found.kind:
        raise UsageError(f"{spec} names a GGUF type, a checkpoint has none", f"leave :{found.kind} out")
    return obtain(found, wanted, on_progress, on_note).folder


def obtain(
    spec: HubId,
    wanted: Selector = checkpoint_files,
    on_progress: OnProgress | None = None,
    on_note: OnNote | None = None,
    folder: Path | None = None,
    force: bool = False,
) -> Fetched:
    """As :func:`fetch`, into ``folder`` if one is given, and with the names of the files.

    A file in ``folder`` that is not the hub's stands unless ``force``: TargetError.
    """
    if spec.source == MODELSCOPE:
        with client.other_host(modelscope.host()):
            listing = modelscope.listing(spec.repo, spec.revision)
            return _obtained(spec, listing, wanted, on_progress, folder or modelscope_cache() / spec.repo, force)
    try:
        listing = client.listing(spec.repo, spec.revision)
    except ConnectionLostError as error:
        found = None if folder else _cached(spec, wanted)
        if found is None:
            raise
        if on_note:
            on_note(f"{error.what}; using the copy of {spec.repo} in the cache, commit {found.commit[:10]}")
        return found
    return _obtained(spec, listing, wanted, on_progress, folder, force)


def files_of(spec: HubId) -> Listing:
    """The files of a repository, wherever it is."""
    if spec.source == MODELSCOPE:
        return modelscope.listing(spec.repo, spec.revision)
    return client.listing(spec.repo, spec.revision)


def modelscope_cache() -> Path:
    """Where checkpoints from ModelScope go that are only converted."""
    import platformdirs

    return Path(platformdirs.user_cache_dir("ggufrun", appauthor=False)) / "modelscope"


def _obtained(
    spec: HubId,
    listing: Listing,
    wanted: Selector,
    on_progress: OnProgress | None,
    folder: Path | None,
    force: bool,
) -> Fetched:
    names = _select(listing.names, wanted, spec)
    place: places.Place = places.Folder(listing, folder, force) if folder else places.Cache(listing)
    received, taken = _fetch_all(listing, [listing.file(name) for name in names], place, on_progress)
    return Fetched(place.folder, listing.commit, tuple(names), received, taken)


def _select(names: Iterable[str], wanted: Selector, spec: HubId) -> list[str]:
    try:
        return wanted(list(names))
    except GgufrunError as error:
        # the selection knows names only
        raise type(error)(f"{spec}: {error.what}", error.todo) from None


def _fetch_all(
    listing: Listing, files: list[RemoteFile], place: places.Place, on_progress: OnProgress | None
) -> tuple[int, tuple[tuple[str, str], ...]]:
    """How many files came from the hub, and the names of those that a store had, with its label."""
    missing = [file for file in files if not place.has(file)]
    total = sum(file.size for file in missing)
    partial = {file.name: _size(place.partial(file)) for file in missing}
    _check_space(place.folder, total - sum(partial.values()))
    done = 0
    copies = Copies() if isinstance(place, places.Folder) else None
    taken: list[tuple[str, str]] = []
    # the small ones first: a cut fetch can tell by the weights that something is missing
    for file in sorted(missing, key=lambda file: (file.size, file.name)):

        def report(n_bytes: int, file: RemoteFile = file, before: int = done) -> None:
            if on_progress:
                on_progress(Progress(file.name, before + n_bytes, total))

        with client.locked(place.lock(file)):
            # another process may have been quicker
            if not place.has(file):
                store = copies.take(file, place.partial(file), report) if copies else None
                if store:
                    place.keep(file)
                    taken.append((file.name, store))
                else:
                    _fetch_one(listing, file, place, report)
        done += file.size
    place.finish()
    return len(missing) - len(taken), tuple(taken)


def _fetch_one(listing: Listing, file: RemoteFile, place: places.Place, report: transfer.OnDone) -> None:
    if file.address or file.size <= client.largest_plain():
        transfer.fetch_file(listing.repo, listing.commit, file, place.partial(file), report)
        place.keep(file)
        return
    report(0)
    path = place.download(file)
    if file_digest(path, file.digest.kind) != file.digest:
        path.unlink()
        raise transfer.damaged(file)
    report(file.size)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _check_space(folder: Path, needed: int) -> None:
    existing = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    if needed > free:
        raise TargetError(
            f"no space left: {needed:,} bytes to fetch, {free:,} free at {existing}",
            "free some space or use another disk",
        )


def _cached(spec: HubId, wanted: Selector) -> Fetched | None:
    """What the cache holds of ``spec``, if it is all there."""
    commit = places.cached_commit(spec.repo, spec.revision or "main")
    folder = places.repo_folder(spec.repo) / "snapshots" / commit
    if not is_inside(commit) or not folder.is_dir():
        return None
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    try:
        chosen = wanted(names)
    except GgufrunError:
        return None
    # an index that cannot be read stands for files that are not there
    lost = [part for name in chosen if name.endswith(".index.json") for part in shard_names(folder / name) or [""]]
    if not set(lost) <= set(names):
        return None
    return Fetched(folder, commit, tuple(chosen), 0)
