"""The native libraries: loaded once, on first use, each as a typed table of its functions.

`llama` and `ggml` are the engine with its devices; `llama_without_devices` is enough for vocabularies and plans;
`ggml_base` is enough for rows of weights.
"""

from __future__ import annotations

import ctypes
import importlib.util
import re
import sys
from functools import cache
from pathlib import Path
from typing import TypeVar

from ggufrun.errors import EngineError
from ggufrun.native import environment
from ggufrun.native.abort import install
from ggufrun.native.binding import MissingFunctionError, bind, bind_if_exported, function_if_exported
from ggufrun.native.bindings import bindings
from ggufrun.native.log import forget_log, lines
from ggufrun.native.signatures import (
    Ggml,
    GgmlBase,
    GgmlCpu,
    Kernels,
    Llama,
    MemoryReport,
    Rpc,
    Sampling,
    StockQuantizer,
)

T = TypeVar("T")

PINNED = "install the release that ggufrun pins: `make setup`"


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
            f"`pip install nvidia-cublas{suffix} nvidia-cuda-runtime{suffix}`, or build it again: `make cuda`",
        )
    return EngineError(f"the engine cannot be loaded: {why}", "reinstall llama-cpp-python")


def _bound(protocol: type[T], library: ctypes.CDLL) -> T:
    try:
        return bind(protocol, library, vars(bindings()))
    except MissingFunctionError as error:
        raise EngineError(f"the engine has no {error.name}", PINNED) from error


@cache
def _libllama() -> ctypes.CDLL:
    environment.prepare()
    try:
        api = bindings()
    except ModuleNotFoundError as error:
        raise EngineError(
            f"the engine is not installed (no module {error.name})",
            "run `make setup`, or `pip install llama-cpp-python`",
        ) from error
    except (RuntimeError, OSError) as error:
        raise _unloadable(str(error)) from error
    # The wheel holds every library several times, under names with and without a version. Opened by another name, a
    # second copy would be loaded, with devices of its own; looked up through libllama, a function is the one it calls.
    return ctypes.CDLL(api._lib._name)


def library_path() -> Path:
    """The file of libllama, next to which its companions are."""
    return Path(_libllama()._name)


@cache
def llama_without_devices() -> Llama:
    """libllama before any device is looked for. Raises EngineError when it cannot be loaded."""
    return _bound(Llama, _libllama())


@cache
def llama() -> Llama:
    """libllama with the backends initialized.

    Raises EngineError when the package or one of its shared libraries cannot be loaded.
    """
    api = llama_without_devices()
    library = _bound(Ggml, _libllama())
    forget_log()
    install(library)
    api.llama_backend_init()
    # the backends look for their devices when they are first asked for
    library.ggml_backend_reg_count()
    _starting.extend(lines())
    forget_log()
    return api


_starting: list[str] = []


def starting() -> tuple[str, ...]:
    """The warnings and errors of the backends when the engine started."""
    llama()
    return tuple(_starting)


@cache
def ggml() -> Ggml:
    """libggml, as libllama uses it."""
    llama()
    return _bound(Ggml, _libllama())


@cache
def rpc() -> Rpc:
    """The functions of devices on other machines. Raises EngineError for an engine that is built without them."""
    if not llama().llama_supports_rpc():
        raise EngineError("this engine is built without RPC", "install the one of `make setup`")
    return _bound(Rpc, _libllama())


@cache
def memory_report() -> MemoryReport:
    """The functions that tell what a model takes. Raises EngineError for a build that does not export them."""
    llama()
    found = bind_if_exported(MemoryReport, _libllama())
    if found is None:
        raise EngineError(
            "this build of the engine does not tell how much memory a model takes", "rebuild it: `make engine`"
        )
    return found


# --- functions of our own ---------------------------------------------------------------------------------------------


@cache
def sampling() -> Sampling | None:
    """Our sampling function; None in an engine that was not built by our make targets."""
    llama()
    return bind_if_exported(Sampling, _libllama())


@cache
def our_kernels() -> Kernels | None:
    """Our choice of matrix kernels; None in an engine without them."""
    llama_without_devices()
    return bind_if_exported(Kernels, _libllama())


# --- libggml alone ----------------------------------------------------------------------------------------------------


@cache
def _libggml_base() -> ctypes.CDLL:
    environment.prepare()
    spec = importlib.util.find_spec("llama_cpp")
    if spec is None or not spec.submodule_search_locations:
        raise EngineError("llama-cpp-python is not installed", "run `make setup`, or `pip install llama-cpp-python`")
    folder = Path(next(iter(spec.submodule_search_locations))) / "lib"
    path = _file_of(folder, "ggml-base")
    if path is None:
        raise EngineError(f"no ggml library in {folder}", "reinstall llama-cpp-python")
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise EngineError(f"cannot load {path.name}: {error}", "reinstall llama-cpp-python") from error


@cache
def ggml_base() -> GgmlBase:
    """libggml-base as llama-cpp-python installed it. Raises EngineError when it cannot be loaded."""
    try:
        return bind(GgmlBase, _libggml_base())
    except MissingFunctionError as error:
        name = Path(_libggml_base()._name).name
        raise EngineError(f"{name} has no {error.name}", "reinstall the pinned llama-cpp-python") from error


@cache
def ggml_cpu() -> GgmlCpu | None:
    """libggml-cpu; None where the library or one of its functions is not there."""
    path = _file_of(Path(_libggml_base()._name).parent, "ggml-cpu")
    try:
        return None if path is None else bind_if_exported(GgmlCpu, ctypes.CDLL(str(path)))
    except OSError:
        return None


def stock_quantizer(name: str) -> StockQuantizer | None:
    """llama.cpp's own function for type ``name`` (``q4_K``), in a library that has another in its place; else None."""
    return function_if_exported(StockQuantizer, _libggml_base(), f"ggufrun_stock_quantize_{name}")


def _file_of(folder: Path, stem: str) -> Path | None:
    suffixes = {"darwin": ("dylib", "so"), "win32": ("dll",)}.get(sys.platform, ("so",))
    names = [f"{prefix}{stem}.{suffix}" for suffix in suffixes for prefix in ("lib", "")]
    return next((folder / name for name in names if (folder / name).is_file()), None)
