"""The native library: loaded once, on first use, with its log kept here instead of on the user's screen.

llama.cpp explains a failure only in its log, so the last lines are remembered and turned into the reason of an error.
"""

from __future__ import annotations

import ctypes
import os
import re
from collections import deque
from functools import cache
from typing import Any

from ggufrun.errors import EngineError
from ggufrun.native.abort import install, without_build_path
from ggufrun.native.bindings import bindings

WARN, ERROR, CONTINUED = 3, 4, 5
"""Levels of ``enum ggml_log_level`` as ``ggml.h`` numbers them (2 is info)."""


LOADING = "error loading model: "
"""What llama.cpp puts before the cause when a model cannot be loaded."""


class _Log:
    """The last warnings and errors. A continued line belongs to the one before it, kept or not."""

    def __init__(self) -> None:
        self.lines: deque[tuple[int, str]] = deque(maxlen=400)
        self.level = 0

    def write(self, level: int, text: str) -> None:
        if level == CONTINUED:
            if self.level in (WARN, ERROR) and self.lines:
                kept, before = self.lines.pop()
                self.lines.append((kept, before + text))
            return
        self.level = level
        if level in (WARN, ERROR):
            self.lines.append((level, text))


_log = _Log()

_LogCallback = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)


def _remember(level: int, text: bytes | None, _: Any) -> None:
    _log.write(level, (text or b"").decode("utf-8", "replace"))


# A module global, because llama.cpp keeps the pointer for as long as the process lives: a collected callback crashes.
_callback = _LogCallback(_remember)


def _unloadable(why: str) -> EngineError:
    """Why a library of the engine's cannot be loaded, and what to do."""
    if "libvulkan.so" in why and "cannot open" in why:
        return EngineError(
            "the engine is built with Vulkan, whose loader is not here (no libvulkan.so.1)",
            "`sudo apt-get install libvulkan1` and the card's driver, or `make cpu` for the engine without",
        )
    missing = re.search(r"(lib(?:cudart|cublas\w*)\.so\.(\d+)): cannot open", why)
    if missing:
        suffix = "" if int(missing[2]) >= 13 else f"-cu{missing[2]}"
        return EngineError(
            f"the engine is built with CUDA {missing[2]}, whose libraries are not here (no {missing[1]})",
            f"`pip install nvidia-cublas{suffix} nvidia-cuda-runtime{suffix}`, or build it anew: `make cuda`",
        )
    return EngineError(f"the engine cannot be loaded: {why}", "reinstall llama-cpp-python")


LAST = 3
"""Lines of the log that may belong to the end: what failed, where, in which call."""


def _last_errors() -> list[str]:
    return [text.strip() for level, text in [*_log.lines][-LAST:] if level == ERROR]


@cache
def llama() -> Any:
    """The C API as llama-cpp-python binds it, with the backends initialized.

    Raises EngineError when the package or one of its shared libraries cannot be loaded.
    """
    # read when the library is loaded: a debugger's view of our process helps nobody here
    os.environ.setdefault("GGML_NO_BACKTRACE", "1")
    try:
        api = bindings()
    except ModuleNotFoundError as error:
        raise EngineError(
            f"the engine is not installed (no module {error.name})",
            "run `make setup`, or `pip install llama-cpp-python`",
        ) from error
    except (RuntimeError, OSError) as error:
        raise _unloadable(str(error)) from error
    api.llama_log_set(_callback, None)
    library = ctypes.CDLL(api._lib._name)
    install(library, _last_errors)
    api.llama_backend_init()
    # the backends look for their devices when they are first asked for
    library.ggml_backend_reg_count()
    _starting.extend(text.strip() for _, text in _log.lines)
    forget_log()
    return api


_starting: list[str] = []


def starting() -> tuple[str, ...]:
    """The warnings and errors of the backends when the engine started."""
    llama()
    return tuple(_starting)


@cache
def ggml() -> ctypes.CDLL:
    """The functions of libggml that llama-cpp-python does not bind: tensors, buffers, devices.

    Source of the signatures: ``ggml/include/ggml.h`` and ``ggml-backend.h`` of the llama.cpp inside the pinned release.
    """
    # The wheel holds every library several times, under names with and without a version. Opened by another name, a
    # second copy would be loaded, with devices of its own; looked up through libllama, a function is the one it calls.
    library = ctypes.CDLL(llama()._lib._name)
    pointer, size = ctypes.c_void_p, ctypes.c_size_t
    signatures: dict[str, tuple[type | None, list[type]]] = {
        "ggml_op_name": (ctypes.c_char_p, [ctypes.c_int]),
        "ggml_get_name": (pointer, [pointer]),
        "ggml_get_data": (pointer, [pointer]),
        "ggml_nelements": (ctypes.c_int64, [pointer]),
        "ggml_nbytes": (size, [pointer]),
        "ggml_backend_buffer_is_host": (ctypes.c_bool, [pointer]),
        "ggml_backend_tensor_get": (None, [pointer, pointer, size, size]),
        "ggml_backend_dev_count": (size, []),
        "ggml_backend_dev_get": (pointer, [size]),
        "ggml_backend_dev_name": (ctypes.c_char_p, [pointer]),
        "ggml_backend_dev_description": (ctypes.c_char_p, [pointer]),
        "ggml_backend_dev_type": (ctypes.c_int, [pointer]),
        "ggml_backend_dev_memory": (None, [pointer, ctypes.POINTER(size), ctypes.POINTER(size)]),
        "ggml_backend_dev_buffer_type": (pointer, [pointer]),
        "ggml_backend_reg_count": (size, []),
        "ggml_backend_reg_get": (pointer, [size]),
        "ggml_backend_reg_name": (ctypes.c_char_p, [pointer]),
        "ggml_backend_reg_dev_count": (size, [pointer]),
        "ggml_backend_register": (None, [pointer]),
        "ggml_backend_buft_name": (ctypes.c_char_p, [pointer]),
        "ggml_backend_buft_is_host": (ctypes.c_bool, [pointer]),
        "ggml_backend_buft_get_device": (pointer, [pointer]),
    }
    for name, (result, arguments) in signatures.items():
        try:
            function = getattr(library, name)
        except AttributeError as error:
            what = f"the engine has no {name}"
            raise EngineError(what, "install the release that ggufrun pins: `make setup`") from error
        function.restype, function.argtypes = result, arguments
    return library


def forget_log() -> None:
    """Start a fresh log: what comes after belongs to the next call, and is kept here whoever listened meanwhile."""
    _log.lines.clear()
    if llama.cache_info().currsize:
        llama().llama_log_set(_callback, None)


def reason(default: str) -> str:
    """Why the last call failed, from llama.cpp's own error lines since `forget_log`; ``default`` when it said nothing.

    The first error names the cause; later ones report that the callers failed too.
    """
    errors = [text.strip() for level, text in _log.lines if level == ERROR and text.strip()]
    if not errors:
        return default
    line = next((text for text in errors if LOADING in text), errors[0])
    line = without_build_path(line.partition(LOADING)[2] or line)
    # `function_name: message`
    function, found, message = line.partition(": ")
    return message if found and function.replace("_", "").isalnum() and "_" in function else line


def warnings() -> list[str]:
    """The warnings since `forget_log`."""
    return [text.strip() for level, text in _log.lines if level == WARN]
