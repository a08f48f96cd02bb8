"""Tensors that stay in the blocks of 4 bits that the checkpoint has them in, whatever the rest of a file becomes.

What they were turned into would not be better, only larger or worse. A tensor in NVFP4 has a scale of its own besides
those in its blocks: a tensor of the same name that ends in ``.scale``. llama.cpp loads it for every architecture, but
multiplies by it only in the graphs of some, and nowhere before the bias of a feed-forward layer; elsewhere NVFP4
becomes the floats that it stands for.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

import gguf
import numpy as np

from ggufrun.checkpoint.quantized.blocks import BLOCKS, NVFP4, widened
from ggufrun.checkpoint.quantized.floats import Floats
from ggufrun.checkpoint.tensor import BlockScale, Tensor
from ggufrun.convert.transforms import constant
from ggufrun.quantize.types import FILE_TYPES, FileType

NVFP4_FILE = FileType("NVFP4", 39, "4.5 bits, as the checkpoint has it")

SCALED = (gguf.MODEL_ARCH.LLAMA, gguf.MODEL_ARCH.QWEN3, gguf.MODEL_ARCH.QWEN3MOE)
"""Architectures whose graph in llama.cpp multiplies by the scales of these tensors:"""
SCALED_TENSORS = re.compile(
    r"blk\.\d+\.(attn_(q|k|v|output)|ffn_(gate|up|down)(_exps)?)\.weight|output\.weight",
)


def kept_tensors(tensors: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """The names of those that stay as they are in every file, by the type that they are in."""
    found = {kind: [name for name, tensor in tensors.items() if tensor.dtype == kind] for kind in BLOCKS}
    return {kind: names for kind, names in found.items() if names}


def file_type(tensors: Mapping[str, Tensor], wanted: FileType) -> FileType:
    """What a file calls itself whose tensors would become ``wanted``, which has no blocks, but for those that stay: as
    llama.cpp's converter calls it."""
    kept = kept_tensors(tensors)
    if not kept or not wanted.plain:
        return wanted
    return NVFP4_FILE if NVFP4 in kept else FILE_TYPES["MXFP4_MOE"]


def with_scales(arch: gguf.MODEL_ARCH, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``tensors``, by GGUF names, with those in NVFP4 followed by their scales where the engine reads these."""
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if tensor.dtype != NVFP4:
            found[name] = tensor
            continue
        bias = name.replace(".weight", ".bias") in tensors and ".ffn_" in name
        if arch not in SCALED or bias or not SCALED_TENSORS.fullmatch(name):
            found[name] = widened(tensor)
            continue
        found[name] = replace(tensor, scale=None)
        values = _factors(tensor.scale, tensor.shape[0] if len(tensor.shape) > 2 else 1)
        if np.any(values != 1):
            scale = name.replace(".weight", ".scale")
            found[scale] = constant(scale, values)
    return found


def _factors(scale: BlockScale | None, count: int) -> Floats:
    values = np.array([1.0] if scale is None else scale.values, np.float32)
    if scale is not None and scale.divides:
        with np.errstate(divide="ignore"):
            values = np.float32(1) / values
    return np.resize(values, count) if len(values) == 1 else values
