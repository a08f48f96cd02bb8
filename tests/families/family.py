"""What the tiny checkpoints of all families are made of: config.json, names, shapes, seeded weights, a vocabulary."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from ggufrun.convert import arch
from ggufrun.convert.config import Config
from tests.support.checkpoints import encode, safetensors_bytes

Shapes = dict[str, tuple[int, ...]]

VOCABULARY = 320

SCALES = (".layer_scalar", ".router.scale", ".per_expert_scale", "_conv1d.weight")
"""Tensors beside norms whose values are around one, or large enough not to be taken for nothing."""


@dataclass(frozen=True)
class Case:
    """One checkpoint. ``dtype`` is that of its file, ``outtype`` that of the GGUF that is compared."""

    config: dict[str, Any]
    shapes: Shapes
    dtype: str = "BF16"
    outtype: str = "f16"


def write(folder: Path, case: Case) -> Path:
    """The checkpoint in ``folder``: weights in a seeded random order of values, norms around one."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(case.config))
    random = np.random.default_rng(zlib.crc32(folder.name.encode()))
    stored = {}
    for name, shape in case.shapes.items():
        if name.endswith(("_blocks", "_scales")):
            low, high = (0, 256) if name.endswith("_blocks") else (115, 122)
            stored[name] = ("U8", random.integers(low, high, shape, np.uint8))
            continue
        around_one = "norm" in name or name.endswith(SCALES)
        values = (random.standard_normal(shape) * 0.02 + around_one).astype(np.float32)
        stored[name] = (case.dtype, encode(case.dtype, values))
    (folder / "model.safetensors").write_bytes(safetensors_bytes(stored))
    return folder


def replace_vocabulary(monkeypatch: pytest.MonkeyPatch, write_to: Callable[[gguf.GGUFWriter], None]) -> None:
    """Convert with a stand-in for the tokenizer."""
    find = arch.find

    def vocab(folder: Path, found: Config, writer: gguf.GGUFWriter, pretokenizer: str | None = None) -> Any:
        write_to(writer)

    monkeypatch.setattr(arch, "find", lambda found: replace(find(found), vocab=vocab))


def no_vocabulary(writer: gguf.GGUFWriter) -> None:
    """Nothing of a tokenizer."""


def some_vocabulary(writer: gguf.GGUFWriter) -> None:
    """Three special tokens, the bytes, and pieces up to the size that every case has."""
    tokens = [b"<unk>", b"<s>", b"</s>", *(b"<0x%02X>" % byte for byte in range(256))]
    pieces = [b"t%d" % number for number in range(VOCABULARY - len(tokens))]
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([*tokens, *pieces])
    writer.add_token_scores([0.0] * VOCABULARY)
    writer.add_token_types([2, 3, 3, *[6] * 256, *[1] * len(pieces)])


def config(architecture: str, model_type: str, **values: Any) -> dict[str, Any]:
    """A config.json under the keys that most families share; None leaves one out."""
    common = {
        "architectures": [architecture],
        "model_type": model_type,
        "hidden_size": 48,
        "intermediate_size": 80,
        "num_hidden_layers": 2,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "vocab_size": VOCABULARY,
        "tie_word_embeddings": False,
        **values,
    }
    return {key: value for key, value in common.items() if value is not None}


def dense(found: Mapping[str, Any], *, tied: bool = False, bias: str = "") -> Shapes:
    """Llama's names. ``bias`` lists the projections that have one: of q, k, v, o, gate, up, down."""
    width, inner, heads = found["hidden_size"], found["intermediate_size"], found["num_attention_heads"]
    head = found.get("head_dim") or width // heads
    keys, queries = head * found.get("num_key_value_heads", heads), head * heads
    shapes: Shapes = {"model.embed_tokens.weight": (found["vocab_size"], width)}
    projections = {
        "self_attn.q_proj": (queries, width),
        "self_attn.k_proj": (keys, width),
        "self_attn.v_proj": (keys, width),
        "self_attn.o_proj": (width, queries),
        "mlp.gate_proj": (inner, width),
        "mlp.up_proj": (inner, width),
        "mlp.down_proj": (width, inner),
    }
    for layer in range(found["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        for name, shape in projections.items():
            shapes[f"{prefix}{name}.weight"] = shape
            if name.partition(".")[2].removesuffix("_proj") in bias.split():
                shapes[f"{prefix}{name}.bias"] = shape[:1]
        shapes[f"{prefix}input_layernorm.weight"] = (width,)
        shapes[f"{prefix}post_attention_layernorm.weight"] = (width,)
    shapes["model.norm.weight"] = (width,)
    if not tied:
        shapes["lm_head.weight"] = (found["vocab_size"], width)
    return shapes


def without(shapes: Shapes, *parts: str) -> Shapes:
    """The tensors whose names hold none of ``parts``."""
    return {name: shape for name, shape in shapes.items() if not any(part in name for part in parts)}


def per_layer(layers: int, prefix: str, table: Mapping[str, tuple[int, ...]]) -> Shapes:
    """The same tensors in every layer."""
    return {f"{prefix}{layer}.{name}": shape for layer in range(layers) for name, shape in table.items()}


def with_bias(table: Mapping[str, tuple[int, ...]]) -> Shapes:
    """Every weight with a bias."""
    return {**table, **{name.replace(".weight", ".bias"): shape[:1] for name, shape in table.items()}}


def experts(layers: range, prefix: str, count: int, names: tuple[str, str, str], inner: int, width: int) -> Shapes:
    """Gate, down and up of every expert, in an order in which checkpoints have them."""
    gate, down, up = names
    shapes: Shapes = {}
    for layer in layers:
        # 10 before 2, as sorted names have it
        for number in sorted(range(count), key=str):
            stem = f"model.layers.{layer}.{prefix}.{number}."
            shapes |= {
                f"{stem}{down}.weight": (width, inner),
                f"{stem}{gate}.weight": (inner, width),
                f"{stem}{up}.weight": (inner, width),
            }
    return shapes


LINEAR = {"type": "linear", "factor": 4.0}
YARN = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128, "beta_fast": 24.0}
YARN5 = {"rope_type": "yarn", "factor": 4.0, "attention_factor": 0.75, "rope_theta": 50000.0}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
