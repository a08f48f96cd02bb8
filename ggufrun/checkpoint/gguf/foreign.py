"""Files that are given for a GGUF and are something else, and tensor types of other programs: what to do with them.

Sources: the magic numbers and file versions of llama.cpp before August 2023; ``enum ggml_type`` of llama.cpp's history,
of microsoft/BitNet and of ikawrakow/ik_llama.cpp.
"""

from __future__ import annotations

import re

from ggufrun.errors import FormatError, GgufrunError, UnsupportedError

AHEAD = 64
"""Bytes that tell what a file is."""

PIECES = (
    re.compile(r"(?P<whole>.+)\.part(?P<number>\d+)of(?P<count>\d+)", re.IGNORECASE),
    re.compile(r"(?P<whole>.+)-split-(?P<letter>[a-z])", re.IGNORECASE),
)
"""Names of the pieces of one file that was cut by bytes, as uploaders name them."""

_ORIGINAL = "convert the original checkpoint with `ggufrun convert`, or fetch a GGUF of it"

OLD_MAGICS = {b"lmgg": "GGML", b"fmgg": "GGMF", b"tjgg": "GGJT", b"algg": "GGLA"}
"""The formats of 2023, whose magic numbers are written as little-endian integers."""

REMOVED_TYPES = {
    4: ("Q4_2", "llama.cpp dropped it in May 2023", _ORIGINAL),
    5: ("Q4_3", "llama.cpp dropped it in May 2023", _ORIGINAL),
    31: ("Q4_0_4_4", "llama.cpp dropped it for Q4_0, which it rearranges itself", "fetch the Q4_0 file"),
    32: ("Q4_0_4_8", "llama.cpp dropped it for Q4_0, which it rearranges itself", "fetch the Q4_0 file"),
    33: ("Q4_0_8_8", "llama.cpp dropped it for Q4_0, which it rearranges itself", "fetch the Q4_0 file"),
    36: ("I2_S", "only bitnet.cpp computes with it", _ORIGINAL),
    37: ("I8_S", "only bitnet.cpp computes with it", _ORIGINAL),
    38: ("TL1", "only bitnet.cpp computes with it", _ORIGINAL),
}
"""Numbers of types that llama.cpp no longer has, or never had: the name, why, and what to do."""

IK_TYPES = {
    133: "Q6_0", 134: "IQ1_BN", 135: "IQ2_BN", 136: "Q8_K64", 137: "IQ2_K", 138: "IQ3_K", 139: "IQ4_K", 140: "IQ5_K",
    141: "IQ6_K", 144: "IQ4_KS", 145: "IQ2_KS", 146: "IQ4_KSS", 152: "IQ5_KS", 153: "IQ2_KT", 154: "IQ3_KT",
    155: "IQ4_KT", 156: "IQ3_KS", 157: "IQ2_KL", 158: "IQ1_KT",
}  # fmt: skip
"""Types of ik_llama.cpp."""

IK_REARRANGED = {200 + kind for kind in (2, 6, 8, *range(10, 15), *range(16, 24), 29, 30, *IK_TYPES)} | {398, 399}
"""Its types with rows interleaved (``_R4``, ``_R8``): 200 more than those that they are made of."""


def piece(name: str) -> tuple[str, int, int | None] | None:
    """The whole file that a piece's name belongs to, its number from 1, and how many there are if the name says so."""
    for pattern in PIECES:
        if found := pattern.fullmatch(name):
            groups = found.groupdict()
            if "letter" in groups:
                return groups["whole"], ord(groups["letter"].lower()) - ord("a") + 1, None
            return groups["whole"], int(groups["number"]), int(groups["count"])
    return None


def not_a_gguf(name: str, start: bytes, size: int) -> GgufrunError:
    """Why a file that does not begin like a GGUF is none; ``start`` are its first bytes."""
    if found := piece(name):
        whole, number, count = found
        part = f"part {number} of {count}" if count else f"part {number}"
        return FormatError(f"{name} is {part} of a file that was cut", f"join the parts in order into {whole}")
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype html", b"<html", b"<head")):
        return FormatError(
            f"{name} is a web page, not a model: the download got an error or a login page",
            "fetch the model with `ggufrun pull org/name`, or use the download link of the file itself",
        )
    if text.startswith(b"version https://git-lfs"):
        return FormatError(
            f"{name} is a Git LFS pointer of {size} bytes, not the model",
            "run `git lfs pull` in its folder, or fetch it with `ggufrun pull org/name`",
        )
    if old := OLD_MAGICS.get(start[:4]):
        return UnsupportedError(f"{name} is in the {old} format of 2023, from before GGUF", _ORIGINAL)
    if start[:2] == b"PK" or start[:1] == b"\x80":
        return FormatError(f"{name} is a PyTorch file, not a GGUF", "convert the folder that it is from")
    if text.startswith(b'{"error"'):
        return FormatError(f"{name} is an error message of a server, not a model", "fetch it again")
    if size and not start.strip(b"\0"):
        return FormatError(f"{name} begins with zeros: its download was cut or never began", "fetch it again")
    return FormatError(f"{name} is not a GGUF file", "convert a checkpoint with `ggufrun convert`")


def unknown_type(name: str, number: int) -> UnsupportedError:
    """The error for a tensor type that llama.cpp does not have; ``name`` is the file's."""
    if number in REMOVED_TYPES:
        kind, why, todo = REMOVED_TYPES[number]
        return UnsupportedError(f"{name} has tensors of type {number} ({kind}): {why}", todo)
    if number in IK_TYPES or number in IK_REARRANGED:
        kind = IK_TYPES.get(number, "with rows interleaved")
        return UnsupportedError(
            f"{name} has tensors of type {number} ({kind}) of ik_llama.cpp, which llama.cpp does not read",
            "fetch a file made for llama.cpp, such as Q4_K_M, or run this one with ik_llama.cpp",
        )
    return UnsupportedError(f"{name} has a tensor of the unknown type {number}", "update ggufrun")
