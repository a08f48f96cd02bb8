"""Which model is talked to: a file, one of the local folder by its name or picked there, or one from the hub."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ggufrun.cli.flags import settings
from ggufrun.cli.flags.chat import ChatFlags
from ggufrun.cli.terminal.ask import at_terminal, confirm
from ggufrun.cli.terminal.console import err, note, shown
from ggufrun.cli.terminal.progress import fetch_bar
from ggufrun.errors import GgufrunError, NotFoundError, UsageError
from ggufrun.units import size_text

if TYPE_CHECKING:
    from ggufrun.hub import HubId
    from ggufrun.hub.scan import LocalModel

MODEL_HINT = "ggufrun pull org/name:Q4_K_M"


def find(flags: ChatFlags) -> tuple[Path, str | None]:
    """The model's path and the first message. At a terminal a model may be picked, or fetched after asking."""
    if flags.source.model is None and flags.source.first is None:
        if not at_terminal():
            raise UsageError("no model is given", "write `ggufrun chat MODEL`; `ggufrun list` shows what is here")
        return pick(plain=flags.screen.plain), None
    name, instruction = flags.source.name(flags.second)
    return find_model(name), instruction


def find_model(name: str) -> Path:
    """The file that ``name`` means: a path, a model of the local folder, or an id on the hub, fetched after asking."""
    from ggufrun.hub import NotConvertedError

    try:
        return settings.local_model(name)
    except NotConvertedError:
        raise
    except NotFoundError as error:
        found = _catalogued(name) or _hub_id(name)
        if found is None:
            raise
        plain = found.repo + (f":{found.kind}" if found.kind else "")
        if plain != name and found.revision is None:
            # a link to what has been fetched before
            try:
                return settings.local_model(plain)
            except NotConvertedError:
                raise
            except NotFoundError:
                pass
        if not at_terminal():
            known = name if _catalogued(name) else None
            hint = f"fetch it: ggufrun pull {known}" if known else f"if it is on the hub, fetch it: ggufrun pull {name}"
            raise NotFoundError(error.what, hint) from error
        return fetch(found)


def _catalogued(name: str) -> HubId | None:
    """Where a model of the catalogue is published. NotFoundError for one that must be converted first."""
    from ggufrun.hub import catalogue

    entry = catalogue.find(name)
    if entry is not None and entry.is_checkpoint:
        raise NotFoundError(
            f"{entry.name} is published as a checkpoint only", f"convert it: ggufrun convert {entry.repo} -t q4_k_m"
        )
    return entry.spec if entry else None


def _hub_id(name: str) -> HubId | None:
    from ggufrun import hub

    try:
        found = hub.path_or_id(name)
    except (NotFoundError, UsageError):
        return None
    return None if isinstance(found, Path) else found


def fetch(spec: HubId) -> Path:
    """The GGUF that an id on the hub means, fetched into the models folder after asking."""
    from ggufrun import hub
    from ggufrun.hub.models import models_folder
    from ggufrun.hub.repository import files_of

    with err().status(f"asking {'ModelScope' if spec.source == 'modelscope' else 'the hub'} for {spec.repo}"):
        found = files_of(spec)
    if not any(name.lower().endswith(".gguf") for name in found.names):
        raise NotFoundError(
            f"{spec.repo} holds no GGUF file",
            f"convert its checkpoint: ggufrun convert {spec} -t {(spec.kind or 'q4_k_m').lower()}",
        )
    wanted = hub.gguf_files(spec.kind)
    try:
        names = wanted(found.names)
    except (NotFoundError, UsageError) as error:
        raise type(error)(f"{spec.repo}: {error.what}", error.todo) from error
    size = sum(found.file(name).size for name in names)
    folder = models_folder() / spec.repo
    kind = f":{spec.kind}" if spec.kind else ""
    if not confirm(f"{spec.repo} is not here. Fetch {Path(names[0]).name}, {size_text(size)}, into {folder}?"):
        raise NotFoundError(f"{spec.repo} is not here", f"fetch it later: ggufrun pull {spec.repo}{kind}")
    with fetch_bar() as on_progress:
        got = hub.obtain(spec, wanted, on_progress=on_progress, folder=folder)
    return got.folder / got.files[0]


def _can_talk(model: LocalModel) -> bool:
    """Is it a whole GGUF of a model, by its first lines?"""
    from ggufrun.checkpoint.gguf.checks import check_is_model
    from ggufrun.checkpoint.gguf.header import read_beginning

    if not model.is_gguf or model.missing:
        return False
    try:
        check_is_model(model.path, read_beginning(model.path))
    except (GgufrunError, OSError):
        return False
    return True


def _place(model: LocalModel) -> str:
    from ggufrun.hub.stores import label

    return f"  ({label(model.store)})" if model.store else ""


def pick(*, plain: bool) -> Path:
    """A model on this machine, the only one or the one that is chosen.

    Raises NotFoundError when there is none, KeyboardInterrupt when none is chosen.
    """
    from ggufrun.cli.talk.picker import by_arrows, by_number
    from ggufrun.hub.models import all_models, models_folder
    from ggufrun.hub.stores import label

    folder = models_folder()
    models = [model for model in all_models() if _can_talk(model)]
    if not models:
        raise NotFoundError(
            f"there is no GGUF model in {folder}, nor in another program's store",
            f"fetch one ({MODEL_HINT}), make one (ggufrun convert FOLDER -t q4_k_m), or write ggufrun chat FILE.gguf",
        )
    if len(models) == 1:
        note(f"{models[0].name}, the only model in {label(models[0].store) if models[0].store else folder}")
        return models[0].path
    rows = [(shown(model.name + _place(model)), model.type, size_text(model.size)) for model in models]
    if plain or os.environ.get("TERM", "dumb") == "dumb" or not sys.stdout.isatty():
        chosen = by_number(rows)
    else:
        chosen = by_arrows(rows, str(folder))
    if chosen is None:
        raise KeyboardInterrupt
    return models[chosen].path
