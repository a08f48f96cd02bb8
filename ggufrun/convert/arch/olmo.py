"""OLMo 2.

Source of names and order: llama.cpp's ``conversion/olmo.py``; of defaults: transformers' ``Olmo2Config``.
"""

from __future__ import annotations

import gguf

from ggufrun.convert.arch.family import Family, heads_if_null
from ggufrun.convert.arch.layout import ATTENTION, GATED
from ggufrun.convert.arch.rope import standard
from ggufrun.convert.config import Config
from ggufrun.convert.vocab import bpe_vocabulary

DEFAULTS = {
    "vocab_size": 50304,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": heads_if_null,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
}

NORMS = """
attn_q_norm          queries
attn_k_norm          keys
post_attention_norm  width
post_ffw_norm        width
"""


def check(config: Config) -> None:
    config.require("hidden_act", ("silu",))
    config.require("attention_bias", (False,))
    # a checkpoint with a window is an OLMo 3
    config.require("sliding_window", ())


FAMILIES = (
    Family(
        names=("Olmo2ForCausalLM",),
        arch=gguf.MODEL_ARCH.OLMO2,
        vocab=bpe_vocabulary,
        defaults=DEFAULTS,
        rope_parameters=standard(),
        check=check,
        layer=ATTENTION + NORMS + GATED,
        tied=False,
    ),
)
