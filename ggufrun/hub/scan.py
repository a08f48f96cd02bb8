"""The models in a folder: GGUF files with their shards, and checkpoints."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ggufrun.hub.digests import METADATA
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
    """A model on this machine.

    ``name`` is its path below the folder, without ``.gguf`` and the number of a shard. ``path`` is what commands take:
    the first GGUF file, or the checkpoint's folder. ``missing`` names the files that belong to it and are not there.
    ``store`` is the key of the program that keeps it (see :mod:`ggufrun.hub.stores`), empty for the models folder.
    """

    name: str
    path: Path
    is_gguf: bool
    type: str
    files: tuple[Path, ...]
    missing: tuple[str, ...] = ()
    store: str = ""

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


def scan(folder: Path, max_depth: int = MAX_DEPTH) -> list[LocalModel]:
    """The models below ``folder``, by name. Only names and sizes are looked at; hidden folders are left out."""
    found: list[LocalModel] = []
    for place, names in _walk(folder, max_depth):
        if any(name in names for name in DESCRIPTIONS) and (checkpoint := _checkpoint(folder, place)):
            found.append(checkpoint)
        for item in gguf_sets(names):
            if item.joined:
                # pieces that are still to be joined
                continue
            stem = (place / item.stem).relative_to(folder).as_posix()
            files = tuple(place / name for name in item.names)
            found.append(LocalModel(stem, files[0], True, item.kind, files, tuple(missing_shards(files[0]))))
    return sorted(found, key=lambda model: model.name.lower())


def missing_shards(path: Path) -> list[str]:
    """The names of the shards that belong to a shard of a GGUF and are not next to it."""
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


def _walk(folder: Path, max_depth: int = MAX_DEPTH) -> Iterator[tuple[Path, list[str]]]:
    seen: set[str] = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        # a link may lead back up
        real = os.path.realpath(place)
        depth = len(Path(place).relative_to(folder).parts)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith(".")) if depth < max_depth else []
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
