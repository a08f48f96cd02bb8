"""The file types that can be asked for: their names, and their ``llama_ftype`` numbers.

Source: ``enum llama_ftype`` in ``include/llama.h`` and the options of ``llama-quantize`` in the pinned release. Which
*tensor* gets which block type is not written down here: llama.cpp is asked (see ``plan.py``).
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from ggufrun.errors import UsageError


@dataclass(frozen=True)
class FileType:
    """A kind of GGUF file: ``ftype`` goes into its metadata, ``plain`` marks the ones without blocks."""

    name: str
    ftype: int
    about: str
    plain: bool = False


FILE_TYPES: dict[str, FileType] = {
    kind.name: kind
    for kind in (
        FileType("F32", 0, "32 bits, exact", plain=True),
        FileType("F16", 1, "16 bits", plain=True),
        FileType("BF16", 32, "16 bits, the range of F32", plain=True),
        FileType("Q8_0", 7, "8.5 bits, no loss to speak of"),
        FileType("Q6_K", 18, "6.6 bits"),
        FileType("Q5_K_M", 17, "5.7 bits"),
        FileType("Q5_K_S", 16, "5.5 bits"),
        FileType("Q5_1", 9, "6.0 bits, legacy"),
        FileType("Q5_0", 8, "5.5 bits, legacy"),
        FileType("Q4_K_M", 15, "4.8 bits, the usual choice"),
        FileType("Q4_K_S", 14, "4.6 bits"),
        FileType("Q4_1", 3, "5.0 bits, legacy"),
        FileType("Q4_0", 2, "4.5 bits, legacy; quick on some CPUs"),
        FileType("IQ4_NL", 25, "4.5 bits, non-linear"),
        FileType("IQ4_XS", 30, "4.25 bits, non-linear"),
        FileType("Q3_K_L", 13, "4.2 bits"),
        FileType("Q3_K_M", 12, "3.9 bits"),
        FileType("Q3_K_S", 11, "3.5 bits"),
        FileType("IQ3_M", 27, "3.7 bits"),
        FileType("IQ3_S", 26, "3.4 bits"),
        FileType("IQ3_XS", 22, "3.3 bits, wants an importance matrix"),
        FileType("IQ3_XXS", 23, "3.1 bits, wants an importance matrix"),
        FileType("Q2_K", 10, "3.0 bits"),
        FileType("Q2_K_S", 21, "2.8 bits, wants an importance matrix"),
        FileType("IQ2_M", 29, "2.7 bits, wants an importance matrix"),
        FileType("IQ2_S", 28, "2.5 bits, wants an importance matrix"),
        FileType("IQ2_XS", 20, "2.3 bits, wants an importance matrix"),
        FileType("IQ2_XXS", 19, "2.1 bits, wants an importance matrix"),
        FileType("IQ1_M", 31, "1.8 bits, wants an importance matrix"),
        FileType("IQ1_S", 24, "1.6 bits, wants an importance matrix"),
        FileType("TQ2_0", 37, "2.1 bits, for ternary models"),
        FileType("TQ1_0", 36, "1.7 bits, for ternary models"),
        FileType("Q2_0", 41, "2.25 bits, for ternary models"),
        FileType("Q1_0", 40, "1.1 bits, for models of one bit"),
        FileType("MXFP4_MOE", 38, "4.25 bits, experts in MXFP4"),
    )
}

BEST_FIRST = tuple(
    FILE_TYPES[name]
    for name in (
        "Q8_0", "Q6_K", "Q5_K_M", "Q5_K_S", "Q4_K_M", "Q4_K_S", "IQ4_XS", "Q3_K_L", "Q3_K_M", "IQ3_M", "IQ3_S",
        "Q3_K_S", "IQ3_XS", "IQ3_XXS", "IQ2_M", "Q2_K", "IQ2_S", "IQ2_XS", "IQ2_XXS", "IQ1_M", "IQ1_S",
    )
)  # fmt: skip
"""The types worth having, by how little they lose. Without the legacy types, which others beat in both size and loss,
and without those for models that were trained for them (ternary, one bit, MXFP4)."""

ALIASES = {"Q3_K": "Q3_K_M", "Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M", "FP16": "F16", "FP32": "F32", "MXFP4": "MXFP4_MOE"}

SHORT = {"Q2": "Q2_K", "Q3": "Q3_K_M", "Q4": "Q4_K_M", "Q5": "Q5_K_M", "Q6": "Q6_K", "Q8": "Q8_0", "INT4": "Q4_K_M"}
"""What people call a size, and the usual type of it."""


def find_file_type(text: str) -> FileType | None:
    """The file type of this name in any case (``q4_k_m``), if it is one."""
    name = text.strip().upper().replace("-", "_")
    return FILE_TYPES.get(ALIASES.get(name, name))


def parse_file_type(text: str) -> FileType:
    """The file type of this name in any case (``q4_k_m``); UsageError with the nearest names otherwise."""
    found = find_file_type(text)
    if found is not None:
        return found
    name = text.strip().upper().replace("-", "_")
    if name in SHORT:
        raise UsageError(f"unknown type {text!r}", f"did you mean {SHORT[name]}?")
    near = difflib.get_close_matches(name, FILE_TYPES, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"one of {', '.join(FILE_TYPES)}"
    raise UsageError(f"unknown type {text!r}", hint)


def name_of(ftype: int) -> str:
    """The name of a ``llama_ftype`` number."""
    return next((kind.name for kind in FILE_TYPES.values() if kind.ftype == ftype), f"file type {ftype}")
