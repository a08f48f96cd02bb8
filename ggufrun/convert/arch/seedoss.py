"""Seed-OSS.

Source of names and order: llama.cpp's ``conversion/olmo.py``; of defaults: transformers' ``SeedOssConfig``.
"""

from __future__ import annotations

import gguf

from ggufrun.convert.arch.shared.family import Family
from ggufrun.convert.arch.shared.hyper import base_metadata
from ggufrun.convert.arch.shared.layout import ATTENTION, GATED
from ggufrun.convert.arch.shared.rope import standard
from ggufrun.convert.config import Config
from ggufrun.convert.vocab.readers import bpe_vocabulary

DEFAULTS = {
    "vocab_size": 155136,
    "hidden_size": 4096,
    "intermediate_size": 27648,
    "num_hidden_layers": 64,
    "num_attention_heads": 80,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 524288,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
}


def check(config: Config) -> None:
    config.require("hidden_act", ("silu",))
    for key in ("attention_out_bias", "mlp_bias"):
        config.require(key, (False,))


FAMILIES = (
    Family(
        names={"SeedOssForCausalLM": ("ByteDance-Seed/Seed-OSS-36B-Instruct",)},
        title="Seed-OSS",
        arch=gguf.MODEL_ARCH.SEED_OSS,
        vocab=bpe_vocabulary,
        defaults=DEFAULTS,
        rope_parameters=standard(),
        check=check,
        metadata=base_metadata,
        layer="attn_norm  width\npost_attention_norm  width\n" + ATTENTION + GATED,
    ),
)
