"""What is to be converted, and the adapters: a folder, a model by its name, or an id of the hub that becomes one."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from ggufrun import hub
from ggufrun.errors import NotFoundError, UnsupportedError
from ggufrun.hub import HubId
from ggufrun.hub.client import ConnectionLostError
from ggufrun.hub.ids import HOSTS, MODELSCOPE_HOSTS
from ggufrun.hub.models import pulled_commit
from ggufrun.hub.scan import LocalModel
from ggufrun.hub.select import Selector
from ggufrun.workflows.open_model import Note, silent

OnProgress = Callable[[hub.Progress], None]


def source_folder(
    text: str,
    outline: bool = False,
    wanted: Selector = hub.checkpoint_files,
    on_progress: OnProgress | None = None,
    note: Note = silent,
    warn: Note = silent,
) -> tuple[Path, str]:
    """The folder that SOURCE means, fetched if it is a hub id that was not pulled before, and the name of the model.

    With ``outline`` the weights of a hub id are not fetched where their headers can be had alone: the folder serves to
    plan, and goes when the program ends. ``wanted`` picks the files of a repository. ``note`` and ``warn`` hear where
    the model was found and what is odd about it. Raises NotFoundError, UsageError.
    """
    source = _located(text, note)
    if isinstance(source, Path):
        return source, source.resolve().name
    if outline and (planned := _outline(source)):
        return planned, source.name
    return hub.fetch(source, wanted, on_progress, warn), source.name


def _located(text: str, note: Note) -> Path | HubId:
    """The folder that is here, by its path or its name among the models; else an id of the hub."""
    if text.startswith((*HOSTS, *MODELSCOPE_HOSTS)):
        return hub.path_or_id(text)
    try:
        source = hub.path_or_id(text)
    except NotFoundError:
        model = None if text.startswith((".", "/", "~")) else hub.local_checkpoint(text)
        if model is None:
            raise
        return _pulled(model, note)
    if isinstance(source, Path) or source.kind:
        return source
    model = hub.local_checkpoint(source.repo, source.revision)
    return source if model is None else _pulled(model, note)


def _pulled(model: LocalModel, note: Note) -> Path:
    commit = pulled_commit(model.path)
    note(f"taking {model.path}" + (f", pulled at commit {commit[:10]}" if commit else ""))
    return model.path


def _outline(source: HubId) -> Path | None:
    """None where all has to be fetched: other formats than safetensors, or no network and perhaps a copy."""
    folder = Path(tempfile.mkdtemp(prefix="ggufrun-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    try:
        return hub.fetch_outline(source, folder)
    except (UnsupportedError, ConnectionLostError):
        return None
