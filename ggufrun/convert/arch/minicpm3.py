"""MiniCPM 3, with latent attention.

Source of names and order: llama.cpp's ``conversion/minicpm.py``; of defaults: transformers' ``MiniCPM3Config``. The
scales of embedding, residuals and output have no place in the GGUF: llama.cpp knows those of the published model.
"""

from __future__ import annotations

import math

import gguf

from ggufrun.checkpoint.tensor import Tensor
from ggufrun.convert.arch.shared.family import Family, heads_if_null, if_null
from ggufrun.convert.arch.shared.hyper import file_type
from ggufrun.convert.arch.shared.latent import COMPRESSED, EXPANDED, LOW_RANK_QUERY, latent_decoder_sizes
from ggufrun.convert.arch.shared.layout import GATED, NORMS, Sizes, n_layers
from ggufrun.convert.arch.shared.rope import ORIGINAL, base_if_unusual, kind, long_factors, rope, standard
from ggufrun.convert.config import Config
from ggufrun.errors import FormatError, UnsupportedError

SCALE_EMBEDDING, SCALE_DEPTH, MODEL_BASE = 12, 1.4, 256
KNOWN_SCALES = {"scale_emb": SCALE_EMBEDDING, "scale_depth": SCALE_DEPTH, "dim_model_base": MODEL_BASE}
"""What llama.cpp multiplies embedding, layers and output by."""

DEFAULTS = {
    "vocab_size": 73448,
    "hidden_size": 2560,
    "intermediate_size": 6400,
    "num_hidden_layers": 62,
    "num_attention_heads": 40,
    "num_key_value_heads": if_null("num_key_value_heads", heads_if_null, 40),
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
    "kv_lora_rank": 256,
    "q_lora_rank": 768,
    "qk_nope_head_dim": 64,
    "qk_rope_head_dim": 32,
    "v_head_dim": lambda config: config.integer("hidden_size") // config.integer("num_attention_heads", high=65536),
    "scale_emb": SCALE_EMBEDDING,
    "scale_depth": if_null("scale_depth", lambda config: math.sqrt(n_layers(config)), SCALE_DEPTH),
    "dim_model_base": if_null("dim_model_base", lambda config: config.integer("hidden_size"), MODEL_BASE),
}


def check(config: Config) -> None:
    config.require("hidden_act", ("silu",))
    config.require("attention_bias", (False,))
    for key, known in KNOWN_SCALES.items():
        config.number(key)
        config.require(key, (known,))
    found = sizes(config)
    if found["value"] * found["heads"] != found["width"] or config.integer("num_key_value_heads") != found["heads"]:
        raise UnsupportedError(
            f"{config.path} has heads of values of another size than width / heads, or fewer of them than of queries",
            "llama.cpp knows no such model",
        )
    if kind(config) == "longrope":
        if not extra(config):
            raise FormatError(f"{config.path} names LongRoPE and no factors", "correct rope_scaling")
        if rope(config).integer(ORIGINAL) != config.integer("max_position_embeddings"):
            raise UnsupportedError(
                f"{config.path} was trained with a shorter context than it says", "llama.cpp's GGUF has no place for it"
            )


def sizes(config: Config) -> Sizes:
    if not config.has("q_lora_rank"):
        raise UnsupportedError(
            f"{config.path} has whole query matrices (q_lora_rank = null), and llama.cpp computes MiniCPM 3 with "
            "low-rank ones only",
            "run this model with another runtime",
        )
    return {**latent_decoder_sizes(config), "q_rank": config.integer("q_lora_rank")}


def metadata(config: Config, writer: gguf.GGUFWriter) -> None:
    found = sizes(config)
    file_type(writer)
    writer.add_context_length(config.integer("max_position_embeddings"))
    writer.add_embedding_length(found["width"])
    writer.add_block_count(n_layers(config))
    writer.add_feed_forward_length(found["inner"])
    writer.add_head_count(found["heads"])
    writer.add_head_count_kv(found["heads"])
    writer.add_layer_norm_rms_eps(config.number("rms_norm_eps"))
    writer.add_vocab_size(found["vocabulary"])
    writer.add_q_lora_rank(found["q_rank"])
    writer.add_kv_lora_rank(found["rank"])
    writer.add_key_length(found["queries"] // found["heads"])
    writer.add_rope_dimension_count(config.integer("qk_rope_head_dim"))
    base_if_unusual(config, writer)


def extra(config: Config) -> list[Tensor]:
    return long_factors(config, config.integer("qk_rope_head_dim"))


FAMILIES = (
    Family(
        names={"MiniCPM3ForCausalLM": ("openbmb/MiniCPM3-4B",)},
        title="MiniCPM 3",
        arch=gguf.MODEL_ARCH.MINICPM3,
        defaults=DEFAULTS,
        rope_parameters=standard(),
        scalings=("default", "dynamic", "longrope"),
        check=check,
        metadata=metadata,
        sizes=sizes,
        layer=NORMS + LOW_RANK_QUERY + COMPRESSED + EXPANDED + GATED,
        extra=extra,
    ),
)
