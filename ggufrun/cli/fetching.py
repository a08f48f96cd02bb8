"""SOURCE and ADAPTER of ``convert``: a folder, a name in the models folder, or an id of the hub that becomes one."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from ggufrun.cli.terminal import console
from ggufrun.cli.terminal.progress import fetch_bar

if TYPE_CHECKING:
    from ggufrun.hub import HubId
    from ggufrun.hub.models import LocalModel
    from ggufrun.hub.select import Selector


def source_folder(text: str, outline: bool = False, wanted: Selector | None = None) -> tuple[Path, str]:
    """The folder that SOURCE means, fetched if it is a hub id that was not pulled before, and the name of the model.

    With ``outline`` the weights of a hub id are not fetched where their headers can be had alone: the folder serves to
    plan, and goes when the program ends. ``wanted`` picks other files than a conversion by ggufrun needs.
    """
    from ggufrun import hub

    source = _located(text)
    if isinstance(source, Path):
        return source, source.resolve().name
    if outline and (planned := _outline(source)):
        return planned, source.name
    with fetch_bar() as on_progress:
        return hub.fetch(source, wanted or hub.checkpoint_files, on_progress, console.warn), source.name


def adapter_folder(text: str) -> tuple[Path, str]:
    """The folder of the adapter that ``--lora`` names, fetched as SOURCE is, and the adapter's name."""
    from ggufrun import hub

    return source_folder(text, wanted=hub.adapter_files)


def _located(text: str) -> Path | HubId:
    """The folder that is here, by its path or its name among the models; else an id of the hub."""
    from ggufrun import hub
    from ggufrun.errors import NotFoundError
    from ggufrun.hub.ids import HOSTS

    if text.startswith(HOSTS):
        return hub.path_or_id(text)
    try:
        source = hub.path_or_id(text)
    except NotFoundError:
        model = None if text.startswith((".", "/", "~")) else hub.local_checkpoint(text)
        if model is None:
            raise
        return _told(model)
    if isinstance(source, Path) or source.kind:
        return source
    model = hub.local_checkpoint(source.repo, source.revision)
    return source if model is None else _told(model)


def _told(model: LocalModel) -> Path:
    from ggufrun.hub.models import pulled_commit

    commit = pulled_commit(model.path)
    console.note(f"taking {model.path}" + (f", pulled at commit {commit[:10]}" if commit else ""))
    return model.path


def _outline(source: HubId) -> Path | None:
    """None where all has to be fetched: other formats than safetensors, or no network and perhaps a copy."""
    from ggufrun import hub
    from ggufrun.errors import UnsupportedError
    from ggufrun.hub.client import ConnectionLostError

    folder = Path(tempfile.mkdtemp(prefix="ggufrun-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    try:
        return hub.fetch_outline(source, folder)
    except (UnsupportedError, ConnectionLostError):
        return None
