"""Youtu-LLM: DeepSeek's latent attention in a model without experts.

Source of names and order: ``DeepseekV2Model`` in llama.cpp's ``conversion/deepseek.py``; of defaults: transformers'
``YoutuConfig``.
"""

from __future__ import annotations

from dataclasses import replace

import gguf

from ggufrun.convert.arch import deepseek
from ggufrun.convert.arch.shared.hyper import base_metadata
from ggufrun.convert.arch.shared.latent import COMPRESSED, LOW_RANK_QUERY, SPLIT, latent_decoder_sizes, latent_metadata
from ggufrun.convert.arch.shared.layout import GATED, NORMS, Sizes, n_layers
from ggufrun.convert.config import Config

DEFAULTS = {
    "vocab_size": 128256,
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "num_hidden_layers": 32,
    "num_attention_heads": 16,
    "kv_lora_rank": 512,
    "q_lora_rank": 1536,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "head_dim": lambda config: config.integer("qk_rope_head_dim"),
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True,
}


def check(config: Config) -> None:
    config.require("hidden_act", ("silu",))
    config.require("attention_bias", (False,))
    config.require("rope_interleave", (True,))
    config.require("n_routed_experts", ())
    deepseek.check_query(config)


def sizes(config: Config) -> Sizes:
    return latent_decoder_sizes(config)


def metadata(config: Config, writer: gguf.GGUFWriter) -> None:
    found = sizes(config)
    base_metadata(Config(config.path, {**config.values, "num_key_value_heads": 1}), writer)
    writer.add_leading_dense_block_count(n_layers(config))
    writer.add_vocab_size(found["vocabulary"])
    latent_metadata(found, writer)
    writer.add_expert_feed_forward_length(found["inner"])
    writer.add_expert_shared_count(0)
    writer.add_rope_dimension_count(config.integer("qk_rope_head_dim"))
    deepseek.stretch_metadata(config, writer)


FAMILIES = (
    replace(
        deepseek.V2_FAMILY,
        names={"YoutuForCausalLM": ("tencent/Youtu-LLM-2B",)},
        title="Youtu-LLM",
        defaults=DEFAULTS,
        check=check,
        metadata=metadata,
        sizes=sizes,
        layer=NORMS + COMPRESSED + SPLIT + LOW_RANK_QUERY + GATED,
        stacks=(),
    ),
)
