"""HUB: model ids become files on this machine, and files on this machine are found by name.

``fetch`` is the door for a checkpoint by id, ``resolve_model`` the one for a model by name. Nothing here prints, and
nothing here imports ``huggingface_hub`` before a request is to be made.
"""

from ggufrun.hub.ids import HubId, parse, path_or_id
from ggufrun.hub.models import NotConvertedError, local_checkpoint, resolve_model
from ggufrun.hub.outline import fetch_outline
from ggufrun.hub.repository import Fetched, Progress, fetch, obtain
from ggufrun.hub.select import (
    adapter_files,
    checkpoint_files,
    companion_files,
    gguf_files,
    gguf_or_checkpoint,
    upstream_files,
)

__all__ = [
    "Fetched",
    "HubId",
    "NotConvertedError",
    "Progress",
    "adapter_files",
    "checkpoint_files",
    "companion_files",
    "fetch",
    "fetch_outline",
    "gguf_files",
    "gguf_or_checkpoint",
    "local_checkpoint",
    "obtain",
    "parse",
    "path_or_id",
    "resolve_model",
    "upstream_files",
]
