"""Removing a local model: all that belongs to it, and nothing else.

First is found what would go, which can be shown; then it goes. Links are removed and never followed. Nothing outside
the models folder is touched, but for a GGUF file whose path is given.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from ggufrun.errors import NotFoundError, TargetError, UsageError
from ggufrun.hub.digests import METADATA, notes
from ggufrun.hub.in_use import is_locked, opened_by
from ggufrun.hub.models import all_models, by_store, find_by_name, models_folder, near
from ggufrun.hub.scan import LocalModel, missing_shards, scan, stopped
from ggufrun.hub.select import COMPANIONS, WEIGHTS, gguf_sets
from ggufrun.hub.stores import label
from ggufrun.native.signals import defer_signals
from ggufrun.regularfile import read_start
from ggufrun.units import size_text

NOTE = r"(\.[0-9a-f]{16,64})?\.(metadata|incomplete|lock)"
"""What follows a file's name in the notes about it, and in the part of it that has come."""

GGUF, CHECKPOINT, STOPPED = "GGUF", "checkpoint", "stopped pull"
"""Kinds of what can be removed."""

BESIDE_NOTES = {"download", ".gitignore", "CACHEDIR.TAG"}
"""What `huggingface_hub` and we put into the folder of the notes."""


@dataclass(frozen=True)
class Removal:
    """What would go. ``files`` are files and links, in this order, ``notes`` what was noted about them when they were
    fetched; ``folders`` go where they are empty then, the inner ones first. ``stays`` names the models that lie in the
    folder of a checkpoint and are none of its files.
    """

    name: str
    path: Path
    kind: str
    files: tuple[Path, ...]
    notes: tuple[Path, ...] = ()
    folders: tuple[Path, ...] = ()
    stays: tuple[str, ...] = ()

    @property
    def is_gguf(self) -> bool:
        """Is it a GGUF with its shards, no folder?"""
        return self.kind == GGUF

    @property
    def is_link(self) -> bool:
        """Is the model itself somewhere else, and stays there?"""
        return self.path.is_symlink()

    @property
    def size(self) -> int:
        """Bytes that become free: links have none, and a file of several names keeps its own."""
        found = [path.lstat() for path in (*self.files, *self.notes) if os.path.lexists(path)]
        return sum(one.st_size for one in found if stat.S_ISREG(one.st_mode) and one.st_nlink == 1)


def find(name: str) -> Removal:
    """What removing the model called ``name`` would take away: a model of the models folder, or any GGUF file by its
    path, each with all its shards.

    NotFoundError for no such model; UsageError for several, and for what is neither.
    """
    root = models_folder()
    models = scan(root) if root.is_dir() else []
    path = Path(name)
    if not _exists(path):
        model = _named(name, models)
        if model is None and (cut := _stopped(name, root, models)):
            return cut
        if model is None:
            _refuse_other_stores(name)
            raise NotFoundError(f"no such file, and no model in {root}: {name}", near(name, models))
    elif listed := next((model for model in models if _is_at(model, path)), None):
        model = listed
    elif _is_gguf(path):
        _refuse_blob(path)
        return of(_by_path(path), root, models)
    else:
        called = _named(name, models)
        if called is not None:
            raise UsageError(f"{name} is here, and a model of {root} too", f"write {called.path} for that one")
        raise UsageError(
            f"{path} is not a model of {root}, nor a GGUF", "only a GGUF is removed by its path; see `ggufrun list`"
        )
    # a path that leads to a GGUF is a person's own word; a name is not
    if not (_exists(path) and model.is_gguf) and not _lies_in(root, model):
        real = os.path.realpath(model.path)
        raise UsageError(f"{model.name} lies behind a link, outside of {root}", f"remove it there: {real}")
    return of(model, root, models)


def of(model: LocalModel, root: Path, models: Sequence[LocalModel] = ()) -> Removal:
    """What belongs to ``model``; ``models`` are all of the models folder ``root``."""
    if model.path.is_symlink() and not model.is_gguf:
        return Removal(model.name, model.path, CHECKPOINT, (model.path,), folders=_parents(model.path, root))
    if not model.is_gguf:
        return _checkpoint(model, root, [other for other in models if other.path != model.path])
    lost = (model.path.with_name(name) for name in model.missing)
    noted = tuple(note for path in (*model.files, *lost) for note in _notes(path))
    return Removal(model.name, model.path, GGUF, model.files, noted, _parents(model.path, root))


def check_free(removal: Removal) -> None:
    """TargetError for a model that is being written, fetched or used, or whose folder is not ours to change."""
    for path in removal.files:
        if not os.access(path.parent, os.W_OK):
            raise TargetError(f"cannot remove {path}: its folder may not be written to", "check its permissions")
        if is_locked(path.with_name(f".{path.name}.part")):
            raise TargetError(f"another job is writing {path}", "wait for it")
    # a checkpoint's notes lie in its folder
    if any(path.suffix == ".lock" and is_locked(path) for path in (*removal.files, *removal.notes)):
        raise TargetError(f"{removal.path} is being fetched", "wait for it")
    real = [path for path in removal.files if not path.is_symlink()]
    if (found := opened_by(real)) is not None:
        raise TargetError(f"{found[0]} is open in {found[1]}", "end that first")


def carry_out(removal: Removal) -> None:
    """Remove it; what is gone already is no error. Ctrl+C waits until it is done."""
    with defer_signals():
        for path in (*removal.files, *removal.notes):
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
        for folder in {path.parent for path in (*removal.files, *removal.notes)}:
            _prune_notes(folder)
        for folder in removal.folders:
            with contextlib.suppress(OSError):
                folder.rmdir()


def cached(removal: Removal) -> tuple[str, int] | None:
    """The repository that a model of the models folder was pulled from, and the bytes of it in the cache that all
    programs share, which `convert` fills; None where that has nothing of it.
    """
    parts = Path(removal.name).parts[: -1 if removal.is_gguf else None][:2]
    if len(parts) < 2:
        return None
    from ggufrun.hub.places import repo_folder

    repo = "/".join(parts)
    blobs = repo_folder(repo) / "blobs"
    return (repo, sum(path.stat().st_size for path in blobs.iterdir())) if blobs.is_dir() else None


# --- what other programs keep -----------------------------------------------------------------------------------------


def _refuse_other_stores(name: str) -> None:
    """UsageError for a model that another program keeps: its files have other names and owners too."""
    others = [model for model in all_models() if model.store]
    for group in by_store(others):
        model = find_by_name(name, group)
        if model is not None:
            raise _other_store(model, others)


def _refuse_blob(path: Path) -> None:
    """UsageError for the path of a file in Ollama's store or the hub's cache, which their indexes count on."""
    real = Path(os.path.realpath(path))
    if real.parent.name != "blobs":
        return
    others = [model for model in all_models() if model.store in ("ollama", "hub")]
    model = next((one for one in others if real in {Path(os.path.realpath(file)) for file in one.files}), None)
    if model is not None:
        raise _other_store(model, others)


def _other_store(model: LocalModel, others: Sequence[LocalModel]) -> UsageError:
    where = f"{model.name} is kept by {label(model.store)}"
    shared = [one.name for one in others if one.path == model.path and one.name != model.name]
    frees = f"frees nothing while {shared[0]} has the same file" if shared else f"frees {size_text(model.size)}"
    if model.store == "ollama":
        return UsageError(where, f"`ollama rm {model.name}` removes it, and {frees}")
    if model.store == "hub":
        from ggufrun.hub import client

        repo = "/".join(model.name.split("/")[:2])
        size = size_text(_size_of_repo(repo))
        return UsageError(where, f"`{client.removing(repo)}` removes all of {repo}, and frees {size}")
    shown = str(model.path) if model.path.is_absolute() else f"./{model.path}"
    where = f"{model.name} is in {label(model.store)}, not in {models_folder()}"
    return UsageError(where, f"`ggufrun remove {shown}` removes it, and {frees}")


def _size_of_repo(repo: str) -> int:
    from ggufrun.hub.places import repo_folder

    return sum(path.stat().st_size for path in (repo_folder(repo) / "blobs").glob("*") if path.is_file())


# --- finding ----------------------------------------------------------------------------------------------------------


def _named(name: str, models: Sequence[LocalModel]) -> LocalModel | None:
    """As other commands read a name; but that of an organization alone means none of its models, not even an only
    one.
    """
    found = find_by_name(name, models)
    folders = [] if found is None else [part.lower() for part in Path(found.name).parts[:-2]]
    return None if name.lower().partition(":")[0] in folders else found


def _exists(path: Path) -> bool:
    try:
        return os.path.lexists(path)
    except ValueError:
        return False


def _is_at(model: LocalModel, path: Path) -> bool:
    """Whether ``path`` is one of a model's files, or a checkpoint's folder; links stand for themselves."""
    return any(_place(path) == _place(own) for own in (model.path, *(model.files if model.is_gguf else ())))


def _place(path: Path) -> Path:
    """Where a name stands, whatever leads there."""
    return Path(os.path.realpath(path.parent)) / path.name


def _is_gguf(path: Path) -> bool:
    """By its name or its first bytes; a link that leads nowhere by its name."""
    if not path.is_file():
        return path.is_symlink() and not path.exists() and path.suffix.lower() == ".gguf"
    if path.suffix.lower() == ".gguf":
        return True
    return read_start(path, 4) == b"GGUF"


def _by_path(path: Path) -> LocalModel:
    """A GGUF outside the models folder, with its shards."""
    sets = gguf_sets(sorted(entry.name for entry in path.parent.iterdir()))
    names = next((item.names for item in sets if path.name in item.names), (path.name,))
    files = tuple(path.with_name(name) for name in names)
    return LocalModel(path.name, files[0], True, "", files, tuple(missing_shards(files[0])))


def _lies_in(root: Path, model: LocalModel) -> bool:
    holder = model.path.parent if model.is_gguf or model.path.is_symlink() else model.path
    return Path(os.path.realpath(holder)).is_relative_to(os.path.realpath(root))


def _parents(path: Path, root: Path) -> tuple[Path, ...]:
    """The folders between the models folder and ``path``, the inner ones first; none for a path outside."""
    top = Path(os.path.realpath(root))
    return tuple(parent for parent in _place(path).parents if top in parent.parents)


def _checkpoint(model: LocalModel, root: Path, others: Sequence[LocalModel]) -> Removal:
    """The whole folder, but for models of their own in it; of the models folder itself only the files of one."""
    if model.path.samefile(root):
        known = (*COMPANIONS, *(pattern for patterns in WEIGHTS for pattern in patterns))
        mine = (path for path in model.files if any(fnmatch(path.name, pattern) for pattern in known))
        return Removal(model.name, model.path, CHECKPOINT, tuple(path for path in mine if path.name != "README.md"))
    inner = [other for other in others if model.path in other.path.parents]
    own = [other.path for other in inner if not other.is_gguf]
    # links to folders, too
    kept = {*own, *(parent for other in inner for parent in other.path.parents)}
    files: list[Path] = []
    folders: list[Path] = []
    for base, names in _below(model.path):
        if any(place == base or place in base.parents for place in own):
            continue
        # a GGUF that is listed is a model, one that is not may be one
        files += [base / name for name in names if not name.lower().endswith(".gguf") and base / name not in kept]
        folders.append(base)
    stays = tuple(other.name for other in inner)
    return Removal(model.name, model.path, CHECKPOINT, tuple(files), (), (*folders, *_parents(model.path, root)), stays)


def _stopped(name: str, root: Path, models: Sequence[LocalModel]) -> Removal | None:
    """A pull that did not end: the part of a file and, where no model lies in its folder, the files that came."""
    found = next(((file, part) for file, part in stopped(root).items() if file.lower() == name.lower()), None)
    if found is None:
        return None
    file, part = found
    home = next(parent for parent in part.parents if parent.parts[-len(METADATA.parts) :] == METADATA.parts)
    place = home.parents[len(METADATA.parts) - 1]
    is_shared = any(place in model.path.parents for model in models)
    known = [] if is_shared else notes(place)
    came = [path for path in known if path.is_file()]
    noted = [*_notes(root / file), *(note for path in known for note in _notes(path))]
    folders = () if is_shared else tuple(sorted({path.parent for path in came}, reverse=True))
    files = tuple(dict.fromkeys((part, *came)))
    rest = tuple(note for note in dict.fromkeys(noted) if note != part)
    return Removal(file, root / file, STOPPED, files, rest, (*folders, *_parents(root / file, root)))


def _below(folder: Path) -> Iterator[tuple[Path, list[str]]]:
    """Each folder, the inner ones first, with its files and the links to folders."""

    def refuse(error: OSError) -> None:
        raise error

    for base, folders, names in os.walk(folder, topdown=False, onerror=refuse):
        links = [name for name in folders if Path(base, name).is_symlink()]
        yield Path(base), sorted([*names, *links])


# --- the notes about what was fetched ---------------------------------------------------------------------------------


def _notes(path: Path) -> list[Path]:
    """What was noted about a file that came from the hub, and what has come of one that is not whole."""
    pattern = re.compile(re.escape(path.name) + NOTE)
    absolute = _place(path)
    places = [folder / METADATA / absolute.parent.relative_to(folder) for folder in absolute.parents]
    there = [note for place in places if place.is_dir() for note in sorted(place.iterdir())]
    return [note for note in there if pattern.fullmatch(note.name)]


def _prune_notes(folder: Path) -> None:
    """Remove the folder of the notes where it holds none any more."""
    for place in (folder, *folder.parents):
        if place.parts[-len(METADATA.parts) :] == METADATA.parts:
            break
    else:
        return
    home = place.parent
    if not place.is_dir() or any(names for _, _, names in os.walk(place)):
        return
    if {entry.name for entry in home.iterdir()} <= BESIDE_NOTES:
        # what cannot be tidied up harms nobody
        with contextlib.suppress(OSError):
            shutil.rmtree(home)
            home.parent.rmdir()
