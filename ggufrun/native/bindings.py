"""llama.cpp's C API as llama-cpp-python binds it, without the rest of that package.

Importing ``llama_cpp`` also loads its high-level classes, their chat templates and Jinja, which takes as long as
everything that a command here needs; and it sends llama.cpp's log to the screen.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from functools import cache
from types import ModuleType
from typing import Any

from ggufrun.native.log import listen

PACKAGE, API = "llama_cpp", "llama_cpp.llama_cpp"


@cache
def bindings() -> Any:
    """The module of the C functions, with the log kept by `ggufrun.native.log`.

    For its structures: functions are declared in `ggufrun.native.signatures`.

    Raises what the import raises: ModuleNotFoundError, OSError or RuntimeError.
    """
    if API not in sys.modules:
        _load()
    api: Any = sys.modules[API]
    listen(api)
    return api


def _load() -> None:
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.submodule_search_locations is None:
        raise ModuleNotFoundError(f"No module named {PACKAGE!r}", name=PACKAGE)
    stand_in = ModuleType(PACKAGE)
    stand_in.__path__ = list(spec.submodule_search_locations)
    sys.modules[PACKAGE] = stand_in
    try:
        importlib.import_module(API)
    finally:
        # so that an import of the package itself still runs its own code
        del sys.modules[PACKAGE]
