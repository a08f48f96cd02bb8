"""Granite 3, dense.

Source of names and order: llama.cpp's ``conversion/granite.py``; of defaults: transformers' ``GraniteConfig``.
"""

from __future__ import annotations

from dataclasses import replace

import gguf

from ggufrun.convert.arch import llama
from ggufrun.convert.arch.family import heads_if_null
from ggufrun.convert.arch.layout import Sizes, decoder_sizes
from ggufrun.convert.config import Config
from ggufrun.convert.vocab import llama_vocabulary

DEFAULTS = {
    **{key: value for key, value in llama.DEFAULTS.items() if key != "head_dim"},
    "num_key_value_heads": heads_if_null,
    "embedding_multiplier": 1.0,
    "logits_scaling": 1.0,
    "residual_multiplier": 1.0,
    "attention_multiplier": 1.0,
}


def _without_head_size(config: Config) -> Config:
    """A Granite's heads share its width, whatever config.json says of them."""
    return Config(config.path, {**config.values, "head_dim": None})


def sizes(config: Config) -> Sizes:
    return decoder_sizes(_without_head_size(config))


def metadata(config: Config, writer: gguf.GGUFWriter) -> None:
    llama.metadata(_without_head_size(config), writer)
    for key, add in (
        ("attention_multiplier", writer.add_attention_scale),
        ("embedding_multiplier", writer.add_embedding_scale),
        ("residual_multiplier", writer.add_residual_scale),
        ("logits_scaling", writer.add_logit_scale),
    ):
        if config.has(key) and config.number(key):
            add(config.number(key))


FAMILIES = (
    replace(
        llama.LLAMA,
        names=("GraniteForCausalLM",),
        arch=gguf.MODEL_ARCH.GRANITE,
        vocab=llama_vocabulary,
        defaults=DEFAULTS,
        metadata=metadata,
        sizes=sizes,
    ),
)
