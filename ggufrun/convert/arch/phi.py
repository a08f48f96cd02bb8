"""Phi-1, 1.5 and 2; Phi-3, 3.5 and 4 without experts and images.

Source of names and order: llama.cpp's ``conversion/phi.py``; of defaults: transformers' ``PhiConfig`` and
``Phi3Config``. llama.cpp reads Phi-3's window and goes without.
"""

from __future__ import annotations

import math
from typing import Any

import gguf

from ggufrun.checkpoint.tensor import Tensor
from ggufrun.convert.arch.shared.family import Family, heads_if_null
from ggufrun.convert.arch.shared.hyper import file_type
from ggufrun.convert.arch.shared.layout import NORMS, WHOLE, Sizes, decoder_sizes, n_layers
from ggufrun.convert.arch.shared.rope import (
    ORIGINAL,
    PLAIN,
    base_if_unusual,
    kind,
    long_factors,
    partial_factor,
    rope,
    standard,
)
from ggufrun.convert.config import Config
from ggufrun.convert.vocab.readers import bpe_vocabulary, phi3_vocabulary
from ggufrun.errors import FormatError, UnsupportedError

PHI = {
    "vocab_size": 51200,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 24,
    "num_attention_heads": 32,
    "num_key_value_heads": heads_if_null,
    "max_position_embeddings": 2048,
    "layer_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "qk_layernorm": False,
}
PHI3 = {
    "vocab_size": 32064,
    "hidden_size": 3072,
    "intermediate_size": 8192,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": heads_if_null,
    "max_position_embeddings": 4096,
    "original_max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
}

PHI2_WHOLE = WHOLE + "output_norm.bias  width\noutput.bias  vocabulary\n"
PHI2_LAYER = """
attn_norm         width
attn_norm.bias    width
attn_q            width width
attn_q.bias       width
attn_k            keys width
attn_k.bias       keys
attn_v            keys width
attn_v.bias       keys
attn_output       width width
attn_output.bias  width
ffn_up            inner width
ffn_up.bias       inner
ffn_down          width inner
ffn_down.bias     width
"""

PHI3_LAYER = (
    NORMS
    + """
attn_qkv     qkv width
attn_output  width width
ffn_up       both width
ffn_down     width inner
"""
)


def check_phi2(config: Config) -> None:
    config.require("hidden_act", ("gelu_new",))
    config.require("qk_layernorm", (False,))


def phi2_metadata(config: Config, writer: gguf.GGUFWriter) -> None:
    sizes = decoder_sizes(config)
    writer.add_context_length(config.integer("max_position_embeddings"))
    writer.add_embedding_length(sizes["width"])
    writer.add_feed_forward_length(sizes["inner"])
    writer.add_block_count(n_layers(config))
    writer.add_head_count(sizes["heads"])
    writer.add_head_count_kv(sizes["kv_heads"])
    writer.add_layer_norm_eps(config.number("layer_norm_eps"))
    writer.add_rope_dimension_count(rotated(config))
    file_type(writer)
    writer.add_add_bos_token(False)
    base_if_unusual(config, writer)


def rotated(config: Config) -> int:
    """How many values of a head rotate."""
    sizes = decoder_sizes(config)
    return int(partial_factor(config) * sizes["width"]) // sizes["heads"]


def phi3_rope(config: Config) -> dict[str, Any]:
    """All of Phi-3's names for its scaling mean LongRoPE; the trained length stands outside of its section."""
    found = standard(partial=1.0)(config)
    if found["rope_type"] in ("su", "yarn"):
        found["rope_type"] = "longrope"
    if found["rope_type"] == "longrope":
        found[ORIGINAL] = config.values.get(ORIGINAL)
    found.setdefault(ORIGINAL, config.values.get(ORIGINAL))
    return found


def phi3_sizes(config: Config) -> Sizes:
    sizes = decoder_sizes(config)
    return {**sizes, "qkv": sizes["queries"] + 2 * sizes["keys"], "both": 2 * sizes["inner"]}


def check_phi3(config: Config) -> None:
    config.require("hidden_act", ("silu",))
    sizes = phi3_sizes(config)
    if sizes["queries"] != sizes["width"]:
        raise UnsupportedError(f"{config.path} has heads of another size than width / heads", "llama.cpp knows none")
    if kind(config) == "longrope" and not phi3_extra(config):
        raise FormatError(f"{config.path} names LongRoPE and no factors", "correct rope_scaling")
    if rope(config).integer(ORIGINAL) < 2:
        raise FormatError(f"{config.path} was trained on {rope(config).integer(ORIGINAL)} positions", "correct it")


def phi3_extra(config: Config) -> list[Tensor]:
    return long_factors(config, rotated(config))


def phi3_first_metadata(config: Config, writer: gguf.GGUFWriter) -> None:
    """LongRoPE's factor of attention, which the converter writes while it makes the tables."""
    if not rope(config).values.get("long_factor"):
        return
    original = rope(config).integer(ORIGINAL)
    scale = config.integer("max_position_embeddings") / original
    writer.add_rope_scaling_attn_factors(math.sqrt(1 + math.log(scale) / math.log(original)) if scale > 1 else 1.0)


def phi3_metadata(config: Config, writer: gguf.GGUFWriter) -> None:
    sizes = phi3_sizes(config)
    writer.add_context_length(config.integer("max_position_embeddings"))
    writer.add_rope_scaling_orig_ctx_len(rope(config).integer(ORIGINAL))
    writer.add_embedding_length(sizes["width"])
    writer.add_feed_forward_length(sizes["inner"])
    writer.add_block_count(n_layers(config))
    writer.add_head_count(sizes["heads"])
    writer.add_head_count_kv(sizes["kv_heads"])
    writer.add_layer_norm_rms_eps(config.number("rms_norm_eps"))
    writer.add_rope_dimension_count(rotated(config))
    writer.add_rope_freq_base(rope(config).number("rope_theta"))
    file_type(writer)
    # zero tells Phi-4 from the others
    writer.add_sliding_window(config.optional_integer("sliding_window") or 0)


FAMILIES = (
    Family(
        names={"PhiForCausalLM": ("microsoft/phi-2", "microsoft/phi-1_5")},
        title="Phi 1, 1.5, 2",
        arch=gguf.MODEL_ARCH.PHI2,
        vocab=bpe_vocabulary,
        defaults=PHI,
        rope_parameters=standard(partial=0.5),
        scalings=PLAIN,
        check=check_phi2,
        metadata=phi2_metadata,
        whole=PHI2_WHOLE,
        layer=PHI2_LAYER,
        tied=False,
    ),
    Family(
        names={
            "Phi3ForCausalLM": (
                "microsoft/Phi-3-mini-4k-instruct",
                "microsoft/Phi-3-medium-4k-instruct",
                "microsoft/phi-4",
                "microsoft/Phi-3.5-mini-instruct",
            ),
        },
        title="Phi 3, 3.5, 4",
        arch=gguf.MODEL_ARCH.PHI3,
        vocab=phi3_vocabulary,
        defaults=PHI3,
        rope_parameters=phi3_rope,
        scalings=(*PLAIN, "longrope"),
        check=check_phi3,
        first_metadata=phi3_first_metadata,
        metadata=phi3_metadata,
        sizes=phi3_sizes,
        layer=PHI3_LAYER,
        extra=phi3_extra,
    ),
)
