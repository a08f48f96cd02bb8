"""GGUF files of any size that take no disk: a whole header, and a hole where the weights would be."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np

from tests.support.measured import add_vocabulary, vocabulary_size

Kind = gguf.GGMLQuantizationType


@dataclass(frozen=True)
class Shape:
    """A Llama, or with ``experts`` a mixture in its manner (every expert ``inner`` wide)."""

    layers: int = 32
    width: int = 4096
    inner: int = 11008
    heads: int = 32
    kv_heads: int = 32
    trained: int = 4096
    experts: int = 0
    used: int = 2
    kind: Kind = Kind.F16

    @property
    def keys(self) -> int:
        return self.width // self.heads * self.kv_heads

    def cache_bytes(self, tokens: int, bits: float = 16) -> int:
        """Keys and values of ``tokens`` positions."""
        return int(2 * self.layers * self.keys * tokens * bits / 8)

    def tensors(self) -> dict[str, tuple[tuple[int, ...], Kind]]:
        """Name -> shape as numpy has it, and type."""
        vocabulary, wide = vocabulary_size(), self.kind
        found: dict[str, tuple[tuple[int, ...], Kind]] = {"token_embd.weight": ((vocabulary, self.width), wide)}
        for layer in range(self.layers):
            block: dict[str, tuple[tuple[int, ...], Kind]] = {
                "attn_norm": ((self.width,), Kind.F32),
                "attn_q": ((self.width, self.width), wide),
                "attn_k": ((self.keys, self.width), wide),
                "attn_v": ((self.keys, self.width), wide),
                "attn_output": ((self.width, self.width), wide),
                "ffn_norm": ((self.width,), Kind.F32),
            }
            if self.experts:
                block["ffn_gate_inp"] = ((self.experts, self.width), Kind.F32)
                block["ffn_gate_exps"] = ((self.experts, self.inner, self.width), wide)
                block["ffn_up_exps"] = ((self.experts, self.inner, self.width), wide)
                block["ffn_down_exps"] = ((self.experts, self.width, self.inner), wide)
            else:
                block["ffn_gate"] = ((self.inner, self.width), wide)
                block["ffn_up"] = ((self.inner, self.width), wide)
                block["ffn_down"] = ((self.width, self.inner), wide)
            found |= {f"blk.{layer}.{name}.weight": what for name, what in block.items()}
        found["output_norm.weight"] = ((self.width,), Kind.F32)
        found["output.weight"] = ((vocabulary, self.width), wide)
        return found

    def weight_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(_bytes(shape, kind) for shape, kind in self.tensors().values())


def _bytes(shape: tuple[int, ...], kind: Kind) -> int:
    block, size = gguf.GGML_QUANT_SIZES[kind]
    return int(np.prod(shape, dtype=np.int64)) // block * size


def write_shape(path: Path, shape: Shape) -> Path:
    """Write the header, and make the file as long as it would be."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(path.stem)
    writer.add_context_length(shape.trained)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.inner)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(shape.width // shape.heads)
    writer.add_file_type(1)
    if shape.experts:
        writer.add_expert_count(shape.experts)
        writer.add_expert_used_count(shape.used)
    add_vocabulary(writer, 0, False)
    padded = 0
    for name, (size, kind) in shape.tensors().items():
        count = _bytes(size, kind)
        stored = size if kind in (Kind.F16, Kind.F32) else gguf.quant_shape_to_byte_shape(size, kind)
        dtype = {Kind.F16: np.float16, Kind.F32: np.float32}.get(kind, np.uint8)
        writer.add_tensor_info(name, stored, np.dtype(dtype), count, raw_dtype=kind)
        padded += -(-count // 32) * 32
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    start = -(-path.stat().st_size // 32) * 32
    os.truncate(path, start + padded)
    return path
