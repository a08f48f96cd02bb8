"""The local models: a folder, what is in it, and finding one by name."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ggufrun.errors import NotFoundError, UsageError
from ggufrun.hub.digests import METADATA, read_note
from ggufrun.hub.select import SPLIT, gguf_sets
from ggufrun.hub.shardindex import shard_names

MAX_DEPTH = 5
"""Folders below the models folder that are looked into; ``org/name/TYPE/file.gguf`` is three."""

MAX_SHARDS = 1000
"""More than any model has."""

WEIGHTS = ("*.safetensors", "pytorch_model*.bin", "consolidated.*.pth", "adapter_model.bin")
DESCRIPTIONS = ("config.json", "params.json", "adapter_config.json")


@dataclass(frozen=True)
class LocalModel:
    """A model in the models folder.

    ``name`` is its path below the folder, without ``.gguf`` and the number of a shard. ``path`` is what commands take:
    the first GGUF file, or the checkpoint's folder. ``missing`` names the files that belong to it and are not there.
    """

    name: str
    path: Path
    is_gguf: bool
    type: str
    files: tuple[Path, ...]
    missing: tuple[str, ...] = ()

    @property
    def is_adapter(self) -> bool:
        """Whether it is a LoRA adapter rather than a model."""
        return any(path.name == "adapter_config.json" for path in self.files) and not any(
            path.name == "config.json" for path in self.files
        )

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(path.stat().st_size for path in self.files if path.exists())

    @property
    def modified(self) -> float:
        """When its youngest file was written, in seconds."""
        return max((path.stat().st_mtime for path in self.files if path.exists()), default=0.0)


def models_folder() -> Path:
    """GGUFRUN_MODELS; else ``models`` here, if there is such a folder; else the user's data folder."""
    named = os.environ.get("GGUFRUN_MODELS")
    if named:
        return Path(named).expanduser()
    here = Path("models")
    if here.is_dir():
        return here
    import platformdirs

    return Path(platformdirs.user_data_dir("ggufrun", appauthor=False)) / "models"


def scan(folder: Path) -> list[LocalModel]:
    """The models below ``folder``, by name. Only names and sizes are looked at; hidden folders are left out."""
    found: list[LocalModel] = []
    for place, names in _walk(folder):
        if any(name in names for name in DESCRIPTIONS) and (checkpoint := _checkpoint(folder, place)):
            found.append(checkpoint)
        for item in gguf_sets(names):
            stem = (place / item.stem).relative_to(folder).as_posix()
            files = tuple(place / name for name in item.names)
            found.append(LocalModel(stem, files[0], True, item.kind, files, tuple(missing_shards(files[0]))))
    return sorted(found, key=lambda model: model.name.lower())


def missing_shards(path: Path) -> list[str]:
    """The names of the shards that belong to a shard of a GGUF and do not lie beside it."""
    split = SPLIT.search(path.stem)
    if split is None:
        return []
    count = min(int(split[2]), MAX_SHARDS)
    names = (f"{path.stem[: split.start()]}-{n:05d}-of-{split[2]}{path.suffix}" for n in range(1, count + 1))
    return [name for name in names if not (path.parent / name).exists()]


def stopped(folder: Path) -> dict[str, Path]:
    """What pulls that did not end have left below ``folder``: by the name that a file would have there, its part."""
    found = {}
    for place, _ in _walk(folder):
        home = place / METADATA
        for part in sorted(home.rglob("*.incomplete")):
            # NAME.DIGEST.incomplete
            name = part.relative_to(home).with_name(Path(part.stem).stem)
            found[(place.relative_to(folder) / name).as_posix()] = part
    return found


def first_shard(path: Path) -> Path:
    """The shard that llama.cpp is given, for any of a GGUF's shards; ``path`` where that is not there."""
    split = SPLIT.search(path.stem)
    if split is None:
        return path
    first = path.with_name(f"{path.stem[: split.start()]}-00001-of-{split[2]}{path.suffix}")
    return first if first.exists() else path


def _walk(folder: Path) -> Iterator[tuple[Path, list[str]]]:
    seen: set[str] = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        # a link may lead back up
        real = os.path.realpath(place)
        depth = len(Path(place).relative_to(folder).parts)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith(".")) if depth < MAX_DEPTH else []
        yield Path(place), [name for name in sorted(names) if not name.startswith(".")]


def _checkpoint(folder: Path, place: Path) -> LocalModel | None:
    weights = any(path for pattern in WEIGHTS for path in place.glob(pattern))
    # the reader's order: an index of safetensors decides, one of the older format only where there are none
    safetensors, torch = place / "model.safetensors.index.json", place / "pytorch_model.bin.index.json"
    index = safetensors if safetensors.is_file() else None if any(place.glob("*.safetensors")) else torch
    missing = tuple(sorted({name for name in shard_names(index) or () if not (place / name).exists()})) if index else ()
    if not weights and not missing:
        return None
    files = tuple(sorted(path for path in place.iterdir() if path.is_file() and path.suffix != ".gguf"))
    name = place.relative_to(folder).as_posix()
    return LocalModel(place.resolve().name if name == "." else name, place, False, "", files, missing)


def resolve_model(name: str, gguf_only: bool = False) -> Path:
    """The file or folder that MODEL means: a path that exists, or a model of the local folder by its name.

    Names match whatever their case, with or without ``.gguf``, whole or from any ``/`` on; ``org/name`` finds the
    model pulled from there, ``org/name:TYPE`` one of several. Nothing is fetched. Raises NotFoundError for no model
    of that name, UsageError for several.
    """
    path = Path(name)
    try:
        if path.exists():
            return first_shard(path) if gguf_only else path
    except PermissionError as error:
        raise NotFoundError(f"{name}: permission denied", "check the permissions of its folder") from error
    except (OSError, ValueError) as error:
        raise NotFoundError(f"no such file: {name[:100]!r}", "check the path") from error
    folder = models_folder()
    found = scan(folder) if folder.is_dir() else []
    models = [model for model in found if model.is_gguf or not gguf_only]
    model = named(name, models)
    if model is not None:
        return model.path
    unconverted = next((model for model in found if gguf_only and _is_called(model, name)), None)
    if unconverted is not None:
        raise _not_converted(unconverted)
    raise NotFoundError(f"no such file, and no model in {folder}: {name}", near(name, models))


class NotConvertedError(NotFoundError):
    """What was asked for is here, but not as a GGUF."""


def _not_converted(model: LocalModel) -> NotConvertedError:
    if model.is_adapter:
        return NotConvertedError(
            f"{model.path} is a LoRA adapter, not a GGUF",
            f"merge it into its base: ggufrun convert BASE --lora {model.path}",
        )
    return NotConvertedError(
        f"{model.path} is a checkpoint, not a GGUF", f"convert it: ggufrun convert {model.path} -t q4_k_m"
    )


def local_checkpoint(name: str, revision: str | None = None) -> LocalModel | None:
    """The checkpoint or adapter of the models folder that ``name`` means, None for none.

    With ``revision`` only one that was pulled at that commit. UsageError for a name of several, NotFoundError for one
    that has not come whole.
    """
    folder = models_folder()
    if not folder.is_dir():
        return None
    model = named(name, [model for model in scan(folder) if not model.is_gguf])
    if model is None or (revision is not None and revision != pulled_commit(model.path)):
        return None
    if model.missing:
        raise NotFoundError(
            f"{model.path} lacks {model.missing[0]} ({len(model.missing)} such)",
            f"complete it: ggufrun pull {model.name}",
        )
    return model


def pulled_commit(folder: Path) -> str | None:
    """The commit at which a folder was pulled from the hub, as the notes in it say; None for one of another origin."""
    notes = (read_note(path) for path in sorted((folder / METADATA).glob("*.metadata")))
    commits = {note[0] for note in notes if note}
    return commits.pop() if len(commits) == 1 else None


def named(name: str, models: Sequence[LocalModel]) -> LocalModel | None:
    """The one of ``models`` that ``name`` means, in its most exact reading that finds any; UsageError for several."""
    if not name.strip("./"):
        return None
    for test in (_has_file, _is_called, _is_pulled_from):
        matching = [model for model in models if test(model, name)]
        if len(matching) == 1:
            return matching[0]
        if matching:
            unique = len({model.name for model in matching}) == len(matching)
            names = ", ".join(model.name if unique else str(model.path) for model in matching[:8])
            raise UsageError(f"{name} may be {len(matching)} models: {names}", "write more of the name")
    return None


def near(name: str, models: Sequence[LocalModel]) -> str:
    """What to do about a name that no model has."""
    close = difflib.get_close_matches(name.lower(), [model.name.lower() for model in models], n=2, cutoff=0.6)
    return f"did you mean {' or '.join(close)}?" if close else "check the path; `ggufrun list` shows what is here"


def _has_file(model: LocalModel, name: str) -> bool:
    """Whether it has a shard of this name: a model may lie there in two numbers of shards."""
    asked = name.lower().removesuffix(".gguf")
    return SPLIT.search(asked) is not None and any(
        f"/{path.as_posix().lower()}".endswith(f"/{asked}.gguf") for path in model.files
    )


def _is_called(model: LocalModel, name: str) -> bool:
    asked = SPLIT.sub("", name.lower().removesuffix(".gguf"))
    return f"/{model.name.lower()}".endswith(f"/{asked}")


def _is_pulled_from(model: LocalModel, name: str) -> bool:
    repo, _, kind = name.lower().partition(":")
    parents = [f"/{parent.as_posix().lower()}" for parent in Path(model.name).parents]
    is_there = any(parent.endswith(f"/{repo}") for parent in parents) and model.is_gguf
    is_it = model.type.lower() == kind.replace("-", "_") or any(path.name.lower() == kind for path in model.files)
    return is_there and (not kind or is_it)
