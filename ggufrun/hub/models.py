"""The models on this machine by name: those of the models folder, and those that other programs keep."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

from ggufrun.errors import NotFoundError, UsageError
from ggufrun.hub import catalogue
from ggufrun.hub.digests import METADATA, read_note
from ggufrun.hub.scan import LocalModel, first_shard, scan
from ggufrun.hub.select import SPLIT
from ggufrun.hub.stores import models_in_stores


def models_folder() -> Path:
    """GGUFRUN_MODELS; else ``models`` here, if there is such a folder; else the user's data folder.

    The ``models`` of a checkout of ggufrun holds sources of its tests and is nobody's models folder.
    """
    named = os.environ.get("GGUFRUN_MODELS")
    if named:
        return Path(named).expanduser()
    here = Path("models")
    if here.is_dir() and not _is_checkouts(here):
        return here
    import platformdirs

    return Path(platformdirs.user_data_dir("ggufrun", appauthor=False)) / "models"


def _is_checkouts(folder: Path) -> bool:
    root = Path(os.path.realpath(folder)).parent
    return (root / "ggufrun" / "hub" / "models.py").is_file() and (root / "pyproject.toml").is_file()


def own_models() -> list[LocalModel]:
    """The models of the models folder; an empty list where that folder does not exist."""
    folder = models_folder()
    return scan(folder) if folder.is_dir() else []


def all_models() -> list[LocalModel]:
    """The models of the models folder, then those of other stores that are not the same files."""
    found = own_models()
    seen = {os.path.realpath(path) for model in found for path in (model.path, *model.files)}
    for _, group in groupby(models_in_stores(), key=lambda model: model.store):
        # within a store two names of one file are two models, as its own program lists them
        new = [model for model in group if os.path.realpath(model.path) not in seen]
        seen |= {os.path.realpath(model.path) for model in new}
        found += new
    return found


def by_store(models: Sequence[LocalModel]) -> Iterator[list[LocalModel]]:
    """The models of each store, which are in one run."""
    return (list(group) for _, group in groupby(models, key=lambda model: model.store))


def completions(incomplete: str) -> list[str]:
    """The names that begin so, for a shell. A shell may split words at colons, so a hyphen takes their place."""
    names = (model.name.replace(":", "-") for model in all_models() if not model.missing)
    return list(dict.fromkeys(name for name in names if name.lower().startswith(incomplete.lower())))


def resolve_model(name: str, gguf_only: bool = False) -> Path:
    """The file or folder that MODEL means: a path that exists, or a model on this machine by its name.

    Names match whatever their case, with or without ``.gguf``, whole or from any ``/`` on; ``org/name`` finds the
    model pulled from there, ``org/name:TYPE`` one of several. The models folder comes first, then the stores of other
    programs, one after the other. Nothing is fetched. Raises NotFoundError for no model of that name, UsageError for
    several.
    """
    path = Path(name)
    try:
        if path.exists():
            return first_shard(path) if gguf_only else path
    except PermissionError as error:
        raise NotFoundError(f"{name}: permission denied", "check the permissions of its folder") from error
    except (OSError, ValueError) as error:
        raise NotFoundError(f"no such file: {name[:100]!r}", "check the path") from error
    found = all_models()
    whole = [model for model in found if not (model.store and model.missing)]
    able = [model for model in whole if model.is_gguf or not gguf_only]
    entry = catalogue.find(name)
    published = f"{entry.repo}:{entry.kind}" if entry and not entry.is_checkpoint else entry.repo if entry else ""
    for asked in filter(None, (name, published)):
        for group in by_store(able):
            model = find_by_name(asked, group)
            if model is not None:
                return model.path
    repo, _, kind = name.partition(":")
    unconverted = next((model for model in found if gguf_only and _is_called(model, name)), None)
    unconverted = unconverted or next(
        (model for model in found if gguf_only and not model.is_gguf and kind and _is_called(model, repo)), None
    )
    if unconverted is not None:
        raise _not_converted(unconverted, kind or "q4_k_m")
    raise NotFoundError(f"no such file, and no model in {models_folder()}: {name}", near(name, able))


class NotConvertedError(NotFoundError):
    """What was asked for is here, but not as a GGUF."""


def _not_converted(model: LocalModel, kind: str) -> NotConvertedError:
    if model.is_adapter:
        return NotConvertedError(
            f"{model.path} is a LoRA adapter, not a GGUF",
            f"merge it into its base: ggufrun convert BASE --lora {model.path}",
        )
    return NotConvertedError(
        f"{model.path} is a checkpoint, not a GGUF", f"convert it: ggufrun convert {model.path} -t {kind.lower()}"
    )


def local_checkpoint(name: str, revision: str | None = None) -> LocalModel | None:
    """The checkpoint or adapter on this machine that ``name`` means, None for none.

    ``org/name`` is looked for in the models folder only: the hub's cache is asked when the hub has been. With
    ``revision`` only one that was pulled at that commit. UsageError for a name of several, NotFoundError for one that
    has not come whole.
    """
    checkpoints = [model for model in (own_models() if "/" in name else all_models()) if not model.is_gguf]
    found = (find_by_name(name, group) for group in by_store(checkpoints))
    model = next((model for model in found if model is not None), None)
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


def find_by_name(name: str, models: Sequence[LocalModel]) -> LocalModel | None:
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
    if entry := catalogue.find(name):
        return f"fetch it: ggufrun pull {entry.name}"
    if family := catalogue.similar(name):
        return f"the catalogue has {', '.join(family[:6])}; fetch one with ggufrun pull"
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
    own = f"/{model.name.lower()}"
    # NAME:TAG is Ollama's way; a shell completes it with a hyphen
    ways = (own, own.replace(":", "-"), own.removesuffix(":latest"))
    return any(way.endswith(f"/{asked}") for way in ways)


def _is_pulled_from(model: LocalModel, name: str) -> bool:
    repo, _, kind = name.lower().partition(":")
    parents = [f"/{parent.as_posix().lower()}" for parent in Path(model.name).parents]
    is_there = any(parent.endswith(f"/{repo}") for parent in parents) and model.is_gguf
    is_it = model.type.lower() == kind.replace("-", "_") or any(path.name.lower() == kind for path in model.files)
    return is_there and (not kind or is_it) and ":" not in model.name
