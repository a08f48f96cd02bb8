"""Llama 1, 2 and 3, and everything that is a Llama in all but weights (Chinese-LLaMA/Alpaca, Atom, Yi).

Source of names and order: llama.cpp's ``conversion/llama.py`` and ``conversion/base.py``; of defaults: transformers'
``LlamaConfig``.
"""

from __future__ import annotations

import gguf

from ggufrun.checkpoint.tensor import Tensor
from ggufrun.convert.arch import Family
from ggufrun.convert.arch.rope import check_rope, rope_frequencies, rope_metadata
from ggufrun.convert.config import Config
from ggufrun.convert.transforms import rotary_permutation
from ggufrun.errors import FormatError

DEFAULTS = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
}

NOT_WEIGHTS = (".rotary_emb.inv_freq", ".attention.bias", ".attention.masked_bias")
"""Tables that old checkpoints carry and llama.cpp computes."""


def _heads(config: Config) -> tuple[int, int, int]:
    """Query heads, key-value heads, values a head."""
    n_head = config.integer("num_attention_heads", high=65536)
    n_head_kv = config.optional_integer("num_key_value_heads") or n_head
    width = config.integer("hidden_size")
    head = config.optional_integer("head_dim") or width // n_head
    if n_head % n_head_kv or (width % n_head and not config.values.get("head_dim")):
        raise FormatError(
            f"{config.path} says {width} wide, {n_head} heads, {n_head_kv} for keys and values",
            "these do not divide; correct the file",
        )
    return n_head, n_head_kv, head


def check(config: Config) -> None:
    config.require("hidden_act", ("silu", "swish"))
    check_rope(config)
    _heads(config)


def metadata(config: Config, writer: gguf.GGUFWriter) -> None:
    n_head, n_head_kv, head = _heads(config)
    writer.add_block_count(config.integer("num_hidden_layers", high=65536))
    writer.add_context_length(config.integer("max_position_embeddings"))
    writer.add_embedding_length(config.integer("hidden_size"))
    writer.add_feed_forward_length(config.integer("intermediate_size"))
    writer.add_head_count(n_head)
    writer.add_head_count_kv(n_head_kv)
    rope_metadata(config, writer)
    writer.add_layer_norm_rms_eps(config.number("rms_norm_eps"))
    writer.add_key_length(head)
    writer.add_value_length(head)


def metadata_after_file_type(config: Config, writer: gguf.GGUFWriter) -> None:
    writer.add_vocab_size(config.integer("vocab_size"))
    writer.add_rope_dimension_count(_heads(config)[2])


def transform(config: Config, tensor: Tensor) -> Tensor | None:
    if tensor.name.endswith(NOT_WEIGHTS):
        return None
    n_head, n_head_kv, _ = _heads(config)
    if tensor.name.endswith(("q_proj.weight", "q_proj.bias")):
        return rotary_permutation(tensor, n_head)
    if tensor.name.endswith(("k_proj.weight", "k_proj.bias")):
        return rotary_permutation(tensor, n_head_kv)
    return tensor


def shapes(config: Config) -> dict[str, tuple[int, ...]]:
    n_head, n_head_kv, head = _heads(config)
    width, inner, vocabulary = (config.integer(key) for key in ("hidden_size", "intermediate_size", "vocab_size"))
    found: dict[str, tuple[int, ...]] = {"token_embd.weight": (vocabulary, width), "output_norm.weight": (width,)}
    if not config.flag("tie_word_embeddings"):
        found["output.weight"] = (vocabulary, width)
    for layer in range(config.integer("num_hidden_layers", high=65536)):
        found |= {
            f"blk.{layer}.attn_norm.weight": (width,),
            f"blk.{layer}.attn_q.weight": (n_head * head, width),
            f"blk.{layer}.attn_k.weight": (n_head_kv * head, width),
            f"blk.{layer}.attn_v.weight": (n_head_kv * head, width),
            f"blk.{layer}.attn_output.weight": (width, n_head * head),
            f"blk.{layer}.ffn_norm.weight": (width,),
            f"blk.{layer}.ffn_gate.weight": (inner, width),
            f"blk.{layer}.ffn_up.weight": (inner, width),
            f"blk.{layer}.ffn_down.weight": (width, inner),
        }
    return found


def extra(config: Config) -> list[Tensor]:
    return rope_frequencies(config, _heads(config)[2])


FAMILIES = (
    Family(
        names=("LlamaForCausalLM", "LLaMAForCausalLM"),
        arch=gguf.MODEL_ARCH.LLAMA,
        check=check,
        metadata=metadata,
        metadata_after_file_type=metadata_after_file_type,
        transform=transform,
        shapes=shapes,
        extra=extra,
        defaults=DEFAULTS,
    ),
)
