"""Models that llama.cpp opens and that do not continue text: encoders, and what makes vectors of a text. No converter
of ours writes them, so they are made here: two layers, named and shaped as llama.cpp's loader wants them.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ggufrun.checkpoint.gguf.file import Kind
from ggufrun.checkpoint.gguf.tensor_types import TensorType
from tests.families.family import VOCABULARY

WIDTH, INNER, HEADS, PLACES, LAYERS, BUCKETS = 48, 96, 6, 64, 2, 32

Shapes = dict[str, tuple[int, ...]]


def square(*names: str) -> Shapes:
    return {f"{name}.weight": (WIDTH, WIDTH) for name in names}


def norms(*names: str, bias: bool = True) -> Shapes:
    found: Shapes = {f"{name}.weight": (WIDTH,) for name in names}
    return found | ({f"{name}.bias": (WIDTH,) for name in names} if bias else {})


def inner(gate: bool, prefix: str = "") -> Shapes:
    found: Shapes = {f"{prefix}ffn_up.weight": (INNER, WIDTH), f"{prefix}ffn_down.weight": (WIDTH, INNER)}
    return found | ({f"{prefix}ffn_gate.weight": (INNER, WIDTH)} if gate else {})


def layers(shapes: Shapes, prefix: str = "") -> Shapes:
    return {f"{prefix}blk.{layer}.{name}": shape for layer in range(LAYERS) for name, shape in shapes.items()}


SEPARATE = square("attn_q", "attn_k", "attn_v", "attn_output")
AFTER = norms("attn_output_norm", "layer_output_norm")
TYPES: Shapes = {"token_types.weight": (2, WIDTH)} | norms("token_embd_norm")
FUSED: Shapes = {"attn_qkv.weight": (3 * WIDTH, WIDTH)} | square("attn_output")
WIDE: Shapes = {"ffn_up.weight": (2 * INNER, WIDTH), "ffn_down.weight": (WIDTH, INNER)}
EMBEDS = SEPARATE | inner(gate=True) | norms("attn_norm", "ffn_norm", bias=False)
GEMMA = EMBEDS | norms("post_attention_norm", "post_ffw_norm", bias=False)
GEMMA = GEMMA | {f"attn_{name}_norm.weight": (WIDTH // HEADS,) for name in "qk"}


def t5(part: str, crosses: bool = False) -> Shapes:
    found = square("attn_q", "attn_k", "attn_v", "attn_o") | norms("attn_norm", "ffn_norm", bias=False)
    if crosses:
        found |= square(*(f"cross_attn_{name}" for name in "qkvo")) | norms("cross_attn_norm", bias=False)
    found |= inner(gate=True) | {"attn_rel_b.weight": (BUCKETS, HEADS)}
    return layers(found, f"{part}.") | norms(f"{part}.output_norm", bias=False)


ENCODERS: dict[str, Callable[[], Shapes]] = {
    "bert": lambda: {"position_embd.weight": (PLACES, WIDTH)} | TYPES | layers(SEPARATE | AFTER | inner(gate=False)),
    "nomic-bert": lambda: TYPES | layers(SEPARATE | AFTER | inner(gate=True)),
    "jina-bert-v2": lambda: (
        TYPES
        | layers(SEPARATE | AFTER | inner(gate=True) | dict.fromkeys(("attn_output.bias", "ffn_down.bias"), (48,)))
    ),
    "modern-bert": lambda: (
        norms("token_embd_norm", "output_norm", bias=False)
        | layers(FUSED | WIDE | norms("attn_norm", "ffn_norm", bias=False))
    ),
    "neo-bert": lambda: (
        norms("enc.output_norm", bias=False) | layers(FUSED | WIDE | norms("attn_norm", "ffn_norm", bias=False))
    ),
    "eurobert": lambda: norms("output_norm", bias=False) | layers(EMBEDS),
    "gemma-embedding": lambda: norms("output_norm", bias=False) | layers(GEMMA),
    "t5encoder": lambda: t5("enc"),
    "t5": lambda: t5("enc") | t5("dec", crosses=True),
}
"""Architecture -> its tensors but the embedding, in numpy's order."""

NUMBERS: dict[str, tuple[object, Kind]] = {
    "block_count": (LAYERS, Kind.UINT32),
    "context_length": (PLACES, Kind.UINT32),
    "embedding_length": (WIDTH, Kind.UINT32),
    "feed_forward_length": (INNER, Kind.UINT32),
    "attention.head_count": (HEADS, Kind.UINT32),
    "attention.head_count_kv": (HEADS, Kind.UINT32),
    "attention.layer_norm_epsilon": (1e-5, Kind.FLOAT32),
    "attention.layer_norm_rms_epsilon": (1e-5, Kind.FLOAT32),
    "attention.sliding_window": (32, Kind.UINT32),
    "attention.relative_buckets_count": (BUCKETS, Kind.UINT32),
    "rope.freq_base": (10000.0, Kind.FLOAT32),
    "pooling_type": (1, Kind.UINT32),
    "attention.causal": (False, Kind.BOOL),
}
"""What any of them reads; what only others do is not looked at."""


def tensors(architecture: str, kind: TensorType) -> list[tuple[str, tuple[int, ...], TensorType, bytes]]:
    """Name, shape, type and data of each; matrices have the type ``kind``, F16 or F32."""
    shapes = {"token_embd.weight": (VOCABULARY, WIDTH)} | ENCODERS[architecture]()
    found = []
    dice = np.random.default_rng(len(shapes))
    for name, shape in shapes.items():
        matrix = kind is TensorType.F16 and len(shape) > 1
        values = dice.normal(0, 0.05, shape).astype(np.float16 if matrix else np.float32)
        found.append((name, shape, TensorType.F16 if matrix else TensorType.F32, values.tobytes()))
    return found
