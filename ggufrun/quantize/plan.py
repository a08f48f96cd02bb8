"""Which type each tensor gets: asked of llama.cpp, never copied from it.

``llama_model_quantize`` with ``dry_run`` reads only the header of its input, decides every tensor's type and writes
nothing. It reports its decisions through the log callback, one line a tensor, in the order in which it would write
them. Those lines are parsed here; a test compares the result with what the library really writes.
"""

from __future__ import annotations

import ctypes
import re
from dataclasses import dataclass
from pathlib import Path

from ggufrun.errors import EngineError, UnsupportedError
from ggufrun.quantize.types import FileType

LINE = re.compile(
    r"\[ *\d+/ *\d+\] (?P<name>\S+) +- \[[^\]]*\], type = +(?P<old>\w+), "
    r"size = +[\d.]+ MiB(?: -> +[\d.]+ MiB \((?P<new>\w+)\))?\n"
)
"""A tensor's line in the log of a dry run; ``new`` is missing where the type stays."""

NEEDS_IMATRIX = "will require an imatrix"
FALLBACK = re.compile(r"(\d+) of \d+ tensor\(s\) required fallback")


@dataclass(frozen=True)
class QuantizeOptions:
    """What the user may change of llama.cpp's choice."""

    allow_requantize: bool = False
    pure: bool = False
    leave_output: bool = False


AS_LLAMA_CPP = QuantizeOptions()
"""llama.cpp's own choice."""


@dataclass(frozen=True)
class TypePlan:
    """llama.cpp's decision: (tensor, ggml type name in lower case), in the order of its output file."""

    tensors: tuple[tuple[str, str], ...]
    needs_imatrix: bool
    n_fallback: int


def plan_types(header_file: Path, file_type: FileType, options: QuantizeOptions) -> TypePlan:
    """Ask llama.cpp how it would quantize the GGUF ``header_file``, whose data may be a hole.

    EngineError with llama.cpp's own reason where it would refuse.
    """
    import llama_cpp

    log: list[str] = []

    def append(_level: int, text: bytes, _data: ctypes.c_void_p) -> None:
        log.append(text.decode(errors="replace"))

    keep = llama_cpp.llama_log_callback(append)
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = file_type.ftype
    params.nthread = 1
    params.dry_run = True
    params.allow_requantize = options.allow_requantize
    params.pure = options.pure
    params.quantize_output_tensor = not options.leave_output
    previous, data = llama_cpp.llama_log_callback(), ctypes.c_void_p()
    llama_cpp.llama_log_get(ctypes.byref(previous), ctypes.byref(data))
    llama_cpp.llama_log_set(keep, ctypes.c_void_p(0))
    try:
        path = str(header_file).encode()
        status = llama_cpp.llama_model_quantize(path, b"", ctypes.byref(params))
    finally:
        # the library must not be left with a callback that Python is about to collect
        llama_cpp.llama_log_set(previous, data)
    text = "".join(log)
    if status != 0:
        raise _refusal(text)
    found = tuple((match["name"], (match["new"] or match["old"]).lower()) for match in LINE.finditer(text))
    if not found:
        raise EngineError("llama.cpp's plan could not be read", "report this with the output of `ggufrun doctor`")
    fallback = FALLBACK.search(text)
    return TypePlan(found, NEEDS_IMATRIX in text, int(fallback[1]) if fallback else 0)


def _refusal(log: str) -> EngineError | UnsupportedError:
    reasons = [line.strip() for line in log.splitlines() if "failed" in line or "error" in line.lower()]
    reason = reasons[-1].split(": ", 1)[-1] if reasons else "no reason given"
    if "unknown model architecture" in reason:
        return UnsupportedError(f"llama.cpp does not know this model: {reason}", "update ggufrun")
    return EngineError(f"llama.cpp refuses to quantize this: {reason}", "see `ggufrun inspect` for what the file holds")
