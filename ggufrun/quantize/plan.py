"""Which type each tensor gets: asked of llama.cpp, never copied from it.

``llama_model_quantize`` with ``dry_run`` reads only the header of its input, decides every tensor's type and writes
nothing. It reports its decisions through the log callback, one line a tensor, in the order in which it would write
them. Those lines are parsed here; a test compares the result with what the library really writes.
"""

from __future__ import annotations

import ctypes
import difflib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ggufrun.errors import EngineError, GgufrunError, UnsupportedError, UsageError
from ggufrun.native.library import llama_without_devices
from ggufrun.native.log import captured_log
from ggufrun.native.signals import defer_signals
from ggufrun.quantize.ggml import BF16, F16, F32, BlockType, block_types
from ggufrun.quantize.types import FileType

NEED_IMATRIX = ("iq3_xxs", "iq2_xxs", "iq2_xs", "iq2_s", "iq1_m", "iq1_s")

LINE = re.compile(
    r"\[ *\d+/ *\d+\] (?P<name>\S+) +- \[[^\]]*\], type = +(?P<old>\w+), "
    r"size = +[\d.]+ MiB(?: -> +[\d.]+ MiB \((?P<new>\w+)\))?\n"
)
"""A tensor's line in the log of a dry run; ``new`` is missing where the type stays."""

NEEDS_IMATRIX = "will require an imatrix"
FALLBACK = re.compile(r"(\d+) of \d+ tensor\(s\) required fallback")


@dataclass(frozen=True)
class QuantizeOptions:
    """What the user may change of llama.cpp's choice.

    ``tensor_types`` are (regular expression, ggml type name) pairs, the first that is found in a tensor's name wins;
    ``prune`` are the layers to leave out; ``has_imatrix`` says that an importance matrix will be used, which changes
    the choice of some types.
    """

    allow_requantize: bool = False
    pure: bool = False
    leave_output: bool = False
    tensor_types: tuple[tuple[str, str], ...] = ()
    output_type: str | None = None
    embedding_type: str | None = None
    prune: tuple[int, ...] = ()
    has_imatrix: bool = False


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
    api = llama_without_devices()
    params, kept = library_params(file_type, options)
    params.nthread = 1
    params.dry_run = True
    with captured_log() as log, defer_signals():
        status = api.llama_model_quantize(os.fsencode(header_file), b"", ctypes.byref(params))
    # what the parameters point to
    del kept
    text = "".join(log)
    if status != 0:
        raise _refusal(text)
    found = tuple((match["name"], (match["new"] or match["old"]).lower()) for match in LINE.finditer(text))
    if not found:
        raise EngineError("llama.cpp's plan could not be read", "report this with the output of `ggufrun doctor`")
    fallback = FALLBACK.search(text)
    return TypePlan(found, NEEDS_IMATRIX in text, int(fallback[1]) if fallback else 0)


def library_params(file_type: FileType, options: QuantizeOptions) -> tuple[Any, list[Any]]:
    """``llama_model_quantize_params`` for these options, and what must stay alive as long as they are used."""
    api = llama_without_devices()
    params = api.llama_model_quantize_default_params()
    params.ftype = file_type.ftype
    params.allow_requantize = options.allow_requantize
    params.pure = options.pure
    params.quantize_output_tensor = not options.leave_output
    kept: list[Any] = []
    if options.output_type is not None:
        params.output_tensor_type = parse_tensor_type(options.output_type).id
    if options.embedding_type is not None:
        params.token_embedding_type = parse_tensor_type(options.embedding_type).id
    if options.tensor_types:
        overrides = (api.llama_model_tensor_override * (len(options.tensor_types) + 1))()
        for slot, (pattern, name) in zip(overrides, options.tensor_types, strict=False):
            slot.pattern, slot.type = pattern.encode(), parse_tensor_type(name).id
        kept.append(overrides)
        params.tt_overrides = ctypes.cast(overrides, type(params.tt_overrides))
    if options.prune:
        layers = (ctypes.c_int32 * (len(options.prune) + 1))(*sorted(set(options.prune)), -1)
        kept.append(layers)
        params.prune_layers = ctypes.cast(layers, type(params.prune_layers))
    if options.has_imatrix:
        # only whether there is one decides about types; a dry run looks at no entry
        values = (ctypes.c_float * 1)(1.0)
        entries = (api.llama_model_imatrix_data * 2)()
        entries[0].name, entries[0].size = b"any", 1
        entries[0].data = ctypes.cast(values, type(entries[0].data))
        kept += (values, entries)
        params.imatrix = ctypes.cast(entries, type(params.imatrix))
    return params, kept


def parse_tensor_type(text: str) -> BlockType:
    """The ggml type of this name in any case (``q6_k``); UsageError with the nearest names otherwise."""
    usable = {name: kind for name, kind in block_types().items() if kind.quantized or kind.id in (F32, F16, BF16)}
    name = text.strip().lower().replace("-", "_")
    if name in usable:
        return usable[name]
    near = difflib.get_close_matches(name, usable, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"one of {', '.join(usable)}"
    raise UsageError(f"unknown tensor type {text!r}", hint)


def parse_override(text: str) -> tuple[str, str]:
    """``REGEX=TYPE`` as given on the command line; UsageError for anything else."""
    pattern, separator, name = text.rpartition("=")
    if not separator or not pattern:
        raise UsageError(f"{text!r} is not REGEX=TYPE", "write for example --tensor-type 'ffn_down=q6_k'")
    parse_tensor_type(name)
    # llama-quantize matches in lower case, as GGUF's names are
    return pattern.lower(), name


def requires_imatrix(name: str, kind: str, file_type: FileType) -> bool:
    """Would llama.cpp refuse to quantize this tensor to ``kind`` without an entry in the importance matrix?

    Its ``tensor_requires_imatrix``: the dry run says whether any tensor does, not which.
    """
    if name in ("token_embd.weight", "per_layer_token_embd.weight", "output.weight"):
        return False
    return kind in NEED_IMATRIX or (kind == "q2_k" and file_type.name == "Q2_K_S")


def _refusal(log: str) -> GgufrunError:
    reasons = [line.strip() for line in log.splitlines() if "failed" in line or "error" in line.lower()]
    reason = reasons[-1].split(": ", 1)[-1] if reasons else "no reason given"
    if "unknown model architecture" in reason:
        return UnsupportedError(f"llama.cpp does not know this model: {reason}", "update ggufrun")
    if "regular expression" in reason:
        what = f"--tensor-type: {reason.removeprefix('failed to quantize: ')}"
        return UsageError(what, "write a regular expression of C++, such as ffn_down=q6_k")
    return EngineError(f"llama.cpp refuses to quantize this: {reason}", "see `ggufrun inspect` for what the file holds")
