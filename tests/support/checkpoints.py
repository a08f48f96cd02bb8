"""Small checkpoints, written to disk the way the original tools write them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "models" / "tang-poet"
TOKENIZER = Path(__file__).parent.parent / "data" / "tokenizer.model"
"""A SentencePiece model of 2,048 pieces: an early one of tang-poet's, kept so that recorded answers stay valid."""


def bf16(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """Round to bfloat16, ties to even."""
    bits = values.astype(np.float32).view(np.uint32)
    rounded: npt.NDArray[np.uint16] = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return rounded


def safetensors_bytes(tensors: Mapping[str, tuple[str, npt.NDArray[Any]]]) -> bytes:
    """A safetensors file: name -> (type, array), laid out in the order given."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    position = 0
    for name, (dtype, array) in tensors.items():
        header[name] = {
            "dtype": dtype,
            "shape": list(array.shape),
            "data_offsets": [position, position + array.nbytes],
        }
        position += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + b"".join(array.tobytes() for _, array in tensors.values())


def llama_config(**changes: Any) -> dict[str, Any]:
    """A small Llama with an odd number of query heads a key head, as config.json has it."""
    config: dict[str, Any] = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "bos_token_id": 1,
        "eos_token_id": 2,
        "hidden_act": "silu",
        "hidden_size": 256,
        "intermediate_size": 512,
        "max_position_embeddings": 512,
        "num_attention_heads": 8,
        "num_hidden_layers": 3,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "vocab_size": 3000,
    }
    return config | changes


def llama_tensors(config: Mapping[str, Any], seed: int = 0) -> dict[str, npt.NDArray[np.float32]]:
    """Random weights for a config, under their Hugging Face names."""
    random = np.random.default_rng(seed)
    width, inner, vocabulary = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    head = config.get("head_dim") or width // config["num_attention_heads"]
    keys = head * config["num_key_value_heads"]
    queries = head * config["num_attention_heads"]
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocabulary, width)}
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        shapes |= {
            prefix + "input_layernorm.weight": (width,),
            prefix + "mlp.down_proj.weight": (width, inner),
            prefix + "mlp.gate_proj.weight": (inner, width),
            prefix + "mlp.up_proj.weight": (inner, width),
            prefix + "post_attention_layernorm.weight": (width,),
            prefix + "self_attn.k_proj.weight": (keys, width),
            prefix + "self_attn.o_proj.weight": (width, queries),
            prefix + "self_attn.q_proj.weight": (queries, width),
            prefix + "self_attn.v_proj.weight": (keys, width),
        }
    shapes["model.norm.weight"] = (width,)
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (vocabulary, width)
    return {name: (random.standard_normal(shape) * 0.02).astype(np.float32) for name, shape in shapes.items()}


def encode(dtype: str, values: npt.NDArray[np.float32]) -> npt.NDArray[Any]:
    """float32 values as a stored type."""
    if dtype == "BF16":
        return bf16(values)
    return values.astype({"F16": np.float16, "F32": np.float32, "F64": np.float64}[dtype])


def write_llama(
    folder: Path, dtype: str = "BF16", shards: int = 1, tokenizer: bool = True, **changes: Any
) -> dict[str, npt.NDArray[np.float32]]:
    """A random Llama checkpoint in ``folder``; returns its weights."""
    folder.mkdir(parents=True, exist_ok=True)
    config = llama_config(**changes)
    (folder / "config.json").write_text(json.dumps(config))
    if tokenizer:
        shutil.copy(TOKENIZER, folder)
    weights = llama_tensors(config)
    stored = {name: (dtype, encode(dtype, values)) for name, values in weights.items()}
    if shards == 1:
        (folder / "model.safetensors").write_bytes(safetensors_bytes(stored))
        return weights
    names = list(stored)
    weight_map: dict[str, str] = {}
    for number in range(shards):
        file = f"model-{number + 1:05}-of-{shards:05}.safetensors"
        part = {name: stored[name] for name in names[number::shards]}
        weight_map |= dict.fromkeys(part, file)
        (folder / file).write_bytes(safetensors_bytes(part))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return weights
