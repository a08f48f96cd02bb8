"""llama.cpp's own quantizer, called as a library."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import numpy as np

from ggufrun.convert.imatrix import load_imatrix
from ggufrun.native.bindings import bindings
from ggufrun.quantize.plan import QuantizeOptions, library_params
from ggufrun.quantize.types import FILE_TYPES

# not the package itself, which would take llama.cpp's log from the engine
llama_cpp = bindings()


def run_quantizer(source: Path, target: Path, params: Any) -> bool:
    """False where it refuses."""
    return bool(llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(params)) == 0)


def library_quantize(
    source: Path, target: Path, name: str, options: QuantizeOptions, matrix: Path | None = None
) -> bool:
    """``source`` as the type called ``name``, with ``options`` translated as ours; False where it refuses."""
    params, kept = library_params(FILE_TYPES[name], options)
    params.nthread = 2
    if matrix is not None:
        entries = load_imatrix(matrix).entries
        table = (llama_cpp.llama_model_imatrix_data * (len(entries) + 1))()
        for slot, (weight, entry) in zip(table, entries.items(), strict=False):
            values = np.ascontiguousarray(entry.importance())
            kept.append(values)
            slot.name, slot.size = weight.encode(), values.size
            slot.data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        params.imatrix = ctypes.cast(table, type(params.imatrix))
    done = run_quantizer(source, target, params)
    assert kept is not None
    return done
