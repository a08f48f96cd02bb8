"""ggufrun: convert checkpoints to GGUF, quantize them and talk to them.

Importing the package loads nothing else; each name below brings what it needs when it is first used::

    import ggufrun

    with ggufrun.load("model.gguf") as model:
        print(model.chat("Why is the sky blue?"))
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from ggufrun.errors import GgufrunError

if TYPE_CHECKING:
    from ggufrun.api.answers import Answer, Piece, Stream
    from ggufrun.api.conversation import Conversation
    from ggufrun.api.files import convert, imatrix, inspect, perplexity, pull, quantize
    from ggufrun.api.model import Model, load

__version__ = "0.1.0"

_HOMES = {
    "Answer": "answers",
    "Piece": "answers",
    "Stream": "answers",
    "Conversation": "conversation",
    "Model": "model",
    "convert": "files",
    "imatrix": "files",
    "inspect": "files",
    "load": "model",
    "perplexity": "files",
    "pull": "files",
    "quantize": "files",
}
"""Name -> the module of `ggufrun.api` that has it."""

__all__ = [
    "Answer",
    "Conversation",
    "GgufrunError",
    "Model",
    "Piece",
    "Stream",
    "__version__",
    "convert",
    "imatrix",
    "inspect",
    "load",
    "perplexity",
    "pull",
    "quantize",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'ggufrun' has no attribute {name!r}")
    return getattr(import_module(f"ggufrun.api.{home}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)


class _Package(ModuleType):
    """This module, in which importing the rooms ``ggufrun.convert`` and ``ggufrun.quantize`` leaves the functions of
    those names alone.
    """

    def __setattr__(self, name: str, value: object) -> None:
        if name not in _HOMES:
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
