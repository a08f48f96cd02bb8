"""GGUF files of many architectures that hold just enough for the quantizer: hyper-parameters, and matrices of few rows.

``llama_model_quantize`` decides by names, by the length of rows and by hyper-parameters, and looks at no more of a
model than that. So a matrix needs only a few rows, and a model of nine layers is quantized within milliseconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt

from ggufrun.checkpoint.gguf.file import Header, Kind, Value, encode, layout, serialize
from ggufrun.checkpoint.gguf.header import read_header
from ggufrun.checkpoint.gguf.tensor_types import TensorType

ROWS = 8
"""Rows of every matrix."""

EXPERTS = 8


@dataclass(frozen=True)
class Architecture:
    """``keys`` follow ``general.architecture``; ``layer`` and ``outer`` name tensors, with the length of their rows.

    A row length of 0 is a vector; names that end in ``_exps`` have a matrix for each expert. ``layers`` says how many.
    """

    name: str
    keys: Mapping[str, Any]
    layer: Mapping[str, int]
    outer: Mapping[str, int]
    layers: int = 9


def _keys(width: int, inner: int, heads: int, kv_heads: int, **more: Any) -> dict[str, Any]:
    return {
        "context_length": 128,
        "embedding_length": width,
        "feed_forward_length": inner,
        "attention.head_count": heads,
        "attention.head_count_kv": kv_heads,
        **{key.replace("__", "."): value for key, value in more.items()},
    }


RMS = {"attention__layer_norm_rms_epsilon": 1e-5}
NORM = {"attention__layer_norm_epsilon": 1e-5}


def _attention(width: int) -> dict[str, int]:
    return {f"attn_{name}": width for name in ("q", "k", "v", "output")} | {"attn_norm": 0, "ffn_norm": 0}


def _dense(width: int, inner: int) -> dict[str, int]:
    return {"ffn_gate": width, "ffn_up": width, "ffn_down": inner}


def _experts(width: int, inner: int) -> dict[str, int]:
    return {"ffn_gate_inp": width, "ffn_gate_exps": width, "ffn_up_exps": width, "ffn_down_exps": inner}


def _outer(width: int, tied: bool = False) -> dict[str, int]:
    return {"token_embd": width, "output_norm": 0} | ({} if tied else {"output": width})


ARCHITECTURES: dict[str, Architecture] = {
    "llama": Architecture("llama", _keys(256, 512, 8, 1, **RMS), _attention(256) | _dense(256, 512), _outer(256)),
    "mixture": Architecture(
        "llama",
        _keys(256, 512, 4, 2, expert_count=EXPERTS, expert_used_count=2, **RMS),
        _attention(256) | _experts(256, 512),
        _outer(256),
    ),
    # rows of whole 32s: the library falls back to types of small blocks
    "rows-of-96": Architecture(
        "llama", _keys(96, 160, 3, 3, **RMS), _attention(96) | _dense(96, 160), _outer(96, tied=True)
    ),
    # not even that: F16
    "rows-of-80": Architecture("llama", _keys(80, 176, 2, 1, **RMS), _attention(80) | _dense(80, 176), _outer(80)),
    "qwen2": Architecture(
        "qwen2",
        _keys(256, 256, 4, 2, **RMS),
        _attention(256) | _dense(256, 256) | {"attn_q.bias": 0, "attn_k.bias": 0},
        _outer(256, tied=True),
    ),
    "falcon": Architecture(
        "falcon",
        _keys(256, 512, 4, 1, **NORM),
        {"attn_norm": 0, "attn_norm_2": 0, "attn_qkv": 256, "attn_output": 256, "ffn_up": 256, "ffn_down": 512},
        _outer(256),
    ),
    "gpt2": Architecture(
        "gpt2",
        _keys(256, 512, 4, 4, **NORM),
        {"attn_norm": 0, "attn_qkv": 256, "attn_output": 256, "ffn_norm": 0, "ffn_up": 256, "ffn_down": 512},
        _outer(256, tied=True) | {"position_embd": 256},
    ),
    "gemma2": Architecture(
        "gemma2",
        _keys(256, 512, 4, 2, attention__key_length=64, attention__sliding_window=64, **RMS),
        _attention(256) | _dense(256, 512) | {"post_attention_norm": 0, "post_ffw_norm": 0},
        _outer(256, tied=True),
    ),
    "phi3": Architecture(
        "phi3",
        _keys(256, 512, 4, 4, rope__dimension_count=64, attention__sliding_window=0, **RMS),
        {"attn_norm": 0, "attn_qkv": 256, "attn_output": 256, "ffn_norm": 0, "ffn_up": 256, "ffn_down": 512},
        _outer(256),
    ),
    "deepseek2": Architecture(
        "deepseek2",
        _keys(
            256,
            512,
            4,
            1,
            leading_dense_block_count=1,
            attention__q_lora_rank=256,
            attention__kv_lora_rank=256,
            expert_feed_forward_length=256,
            expert_shared_count=1,
            expert_count=EXPERTS,
            expert_used_count=2,
            expert_weights_scale=1.0,
            rope__dimension_count=64,
            **RMS,
        ),
        {
            "attn_norm": 0,
            "ffn_norm": 0,
            "attn_q_a": 256,
            "attn_q_b": 256,
            "attn_kv_a_mqa": 256,
            "attn_k_b": 128,
            "attn_v_b": 256,
            "attn_output": 256,
            "ffn_gate_shexp": 256,
            "ffn_up_shexp": 256,
            "ffn_down_shexp": 256,
        }
        | _experts(256, 256),
        _outer(256),
    ),
    "mamba": Architecture(
        "mamba",
        _keys(
            256,
            0,
            0,
            0,
            ssm__conv_kernel=4,
            ssm__inner_size=512,
            ssm__state_size=16,
            ssm__time_step_rank=16,
            **RMS,
        ),
        {"attn_norm": 0, "ssm_in": 256, "ssm_conv1d": 4, "ssm_x": 512, "ssm_dt": 16, "ssm_a": 16, "ssm_out": 512},
        _outer(256),
    ),
}


def shapes(made: Architecture) -> dict[str, tuple[int, ...]]:
    """Every tensor's shape, in numpy's order."""
    rows = dict(made.outer)
    for layer in range(made.layers):
        rows |= {f"blk.{layer}.{name}": length for name, length in made.layer.items()}
    width = int(made.keys["embedding_length"])
    found: dict[str, tuple[int, ...]] = {}
    for name, length in rows.items():
        full = name if name.endswith((".bias", "ssm_a")) else name + ".weight"
        shape: tuple[int, ...] = (ROWS, length) if length else (width,)
        found[full] = (EXPERTS, *shape) if name.endswith(("_exps", "attn_k_b", "attn_v_b")) else shape
    return found


def write(path: Path, made: Architecture, kind: TensorType, seed: int = 3) -> Path:
    """A model of random numbers; matrices in ``kind`` (F32, F16 or BF16), vectors and convolutions in F32."""
    random = np.random.default_rng(seed)
    metadata: dict[str, Value] = {"general.architecture": encode(made.name, Kind.STRING)}
    for key, value in ({"block_count": made.layers, "vocab_size": ROWS} | dict(made.keys)).items():
        metadata[f"{made.name}.{key}"] = encode(value, Kind.FLOAT32 if isinstance(value, float) else Kind.UINT32)
    infos, data = [], []
    for name, shape in shapes(made).items():
        values = (random.standard_normal(shape) * 0.05).astype(np.float32)
        stored = TensorType.F32 if len(shape) == 1 or "conv1d" in name or name.endswith("ssm_a") else kind
        infos.append((name, shape, int(stored)))
        data.append(_stored(values, stored))
    return _write(path, metadata, infos, data)


def _stored(values: npt.NDArray[np.float32], kind: TensorType) -> bytes:
    return gguf.quants.quantize(values, gguf.GGMLQuantizationType(int(kind))).tobytes()


def _write(
    path: Path, metadata: dict[str, Value], infos: Sequence[tuple[str, tuple[int, ...], int]], data: Sequence[bytes]
) -> Path:
    header = Header(metadata, tuple(layout(infos, 32)))
    path.write_bytes(serialize(header) + b"".join(part.ljust(-(-len(part) // 32) * 32, b"\0") for part in data))
    return path


def write_imatrix(path: Path, model: Path) -> Path:
    """A random importance matrix for every matrix of ``model`` but the embeddings, as llama-imatrix writes it."""
    random = np.random.default_rng(9)
    metadata = {
        "general.type": encode("imatrix", Kind.STRING),
        "imatrix.datasets": encode(["text.txt"], Kind.ARRAY),
        "imatrix.chunk_count": encode(7, Kind.UINT32),
        "imatrix.chunk_size": encode(512, Kind.UINT32),
    }
    infos: list[tuple[str, tuple[int, ...], int]] = []
    data = []
    for info in read_header(model).tensors:
        if len(info.shape) < 2 or info.name == "token_embd.weight":
            continue
        n_mat = info.shape[0] if len(info.shape) > 2 else 1
        sums = random.gamma(0.5, 40.0, (n_mat, info.shape[-1])).astype(np.float32)
        counts = np.full((n_mat, 1), 200, np.float32)
        # an expert that no token was sent to
        counts[-1] = 0 if n_mat > 1 else 200
        for name, array in ((".in_sum2", sums), (".counts", counts)):
            infos.append((info.name + name, array.shape, int(TensorType.F32)))
            data.append(array.tobytes())
    return _write(path, metadata, infos, data)
