"""How an embedding model makes one vector of a text: what sentence-transformers' files next to the weights say.

Source: ``_try_set_pooling_type`` in llama.cpp's ``conversion/base.py``; of the files: sentence-transformers.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import gguf

from ggufrun.checkpoint.jsonfile import read_json, read_object
from ggufrun.convert.config import Config
from ggufrun.errors import FormatError, UnsupportedError
from ggufrun.jsontext import shown

MODULES = "modules.json"

SWITCHES = (
    ("pooling_mode_mean_tokens", gguf.PoolingType.MEAN),
    ("pooling_mode_cls_token", gguf.PoolingType.CLS),
    ("pooling_mode_lasttoken", gguf.PoolingType.LAST),
)
NAMES = {"mean": gguf.PoolingType.MEAN, "cls": gguf.PoolingType.CLS, "lasttoken": gguf.PoolingType.LAST}
"""What newer files write under ``pooling_mode``."""


def pooling_type(folder: Path) -> gguf.PoolingType | None:
    """What the folder says; None for a model that is not one of sentence-transformers, or does not pool.

    FormatError for files that say nothing clear, UnsupportedError for ways that llama.cpp does not know.
    """
    if not (folder / MODULES).is_file():
        return None
    modules = read_json(folder / MODULES)
    if not isinstance(modules, list) or not all(isinstance(module, dict) for module in modules):
        raise FormatError(f"{folder / MODULES} is not a list of modules", "download it again")
    place = next((module.get("path") for module in modules if str(module.get("type")).endswith("Pooling")), None)
    if place is None:
        return None
    path = PurePosixPath(place) if isinstance(place, str) else PurePosixPath("/")
    if path.is_absolute() or ".." in path.parts or "\\" in str(path) or "\0" in str(path):
        raise FormatError(f"{folder / MODULES} has its pooling in {shown(place)}", "download it again")
    said = read_object(folder / path / "config.json")
    for key, kind in SWITCHES:
        if said.get(key) is True:
            return kind
    if (name := said.get("pooling_mode")) in NAMES:
        return NAMES[str(name)]
    others = [key for key, value in said.items() if key.startswith("pooling_mode_") and value is True]
    raise UnsupportedError(
        f"{folder / path / 'config.json'} pools by {shown(others[0] if others else name)}, and llama.cpp by mean, cls "
        "or lasttoken only",
        "use this model with sentence-transformers",
    )


def pooling_metadata(config: Config, writer: gguf.GGUFWriter) -> None:
    """The key that makes llama.cpp pool, for a model whose folder says so."""
    kind = pooling_type(config.path.parent)
    if kind is not None:
        writer.add_pooling_type(kind)
