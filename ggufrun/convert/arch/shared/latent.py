"""Latent attention, as DeepSeek V2 has it: keys and values of all heads are expanded from one short vector a token.

Source: ``DeepseekV2Model`` in llama.cpp's ``conversion/deepseek.py``. The matrix that expands the vector is split
there, and the keys' part turned, so that llama.cpp can compute with the vectors themselves.
"""

from __future__ import annotations

from collections.abc import Iterable

import gguf

from ggufrun.checkpoint.tensor import Tensor
from ggufrun.convert.arch.shared.layout import Sizes, decoder_sizes
from ggufrun.convert.config import Config
from ggufrun.convert.transforms import renamed, row_numbers, take_rows, transposed

COMPRESSED = """
attn_kv_a_mqa     latent width
attn_kv_a_norm    rank
attn_output       width values
"""
EXPANDED = "attn_kv_b  expanded rank\n"
SPLIT = """
attn_k_b          heads rank nope
attn_v_b          heads value rank
"""
QUERY = "attn_q  queries width\n"
LOW_RANK_QUERY = """
attn_q_a       q_rank width
attn_q_a_norm  q_rank
attn_q_b       queries q_rank
"""


def latent_sizes(config: Config) -> Sizes:
    """``nope`` and ``value`` are the values a head of keys that are not rotated, and of values; ``queries``, ``values``
    and ``expanded`` those of all heads; ``rank`` that of the vector, ``latent`` with the rotated part of the keys.
    """
    heads, rank = config.integer("num_attention_heads", high=65536), config.integer("kv_lora_rank")
    nope, rotated, value = (config.integer(key) for key in ("qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"))
    return {
        "heads": heads,
        "rank": rank,
        "q_rank": config.optional_integer("q_lora_rank") or 0,
        "nope": nope,
        "value": value,
        "latent": rank + rotated,
        "queries": heads * (nope + rotated),
        "values": heads * value,
        "expanded": heads * (nope + value),
    }


def latent_decoder_sizes(config: Config) -> Sizes:
    """Those of any decoder and of latent attention, where the width need not be a multiple of the heads."""
    own = Config(config.path, {**config.values, "head_dim": config.integer("qk_rope_head_dim")})
    return {**decoder_sizes(own), **latent_sizes(config)}


def latent_metadata(sizes: Sizes, writer: gguf.GGUFWriter) -> None:
    """To llama.cpp, latent attention is attention with one key head as wide as the latent vector."""
    if sizes["q_rank"]:
        writer.add_q_lora_rank(sizes["q_rank"])
    writer.add_kv_lora_rank(sizes["rank"])
    writer.add_key_length(sizes["latent"])
    writer.add_value_length(sizes["rank"])
    writer.add_key_length_mla(sizes["queries"] // sizes["heads"])
    writer.add_value_length_mla(sizes["value"])


def split_expansion(config: Config, tensor: Tensor) -> Iterable[Tensor]:
    """The expanding matrix as one for the keys and one for the values; any other tensor as it is."""
    stem, found, _ = tensor.name.partition("kv_b_proj.weight")
    if not found:
        yield tensor
        return
    sizes = latent_sizes(config)
    heads, nope, value, rank = (sizes[key] for key in ("heads", "nope", "value", "rank"))
    rows = row_numbers(tensor, heads, nope + value)
    keys = take_rows(tensor, rows[:, :nope], (heads, nope, rank))
    yield renamed(transposed(keys), f"{stem}k_b_proj.weight")
    yield renamed(take_rows(tensor, rows[:, nope:], (heads, value, rank)), f"{stem}v_b_proj.weight")
