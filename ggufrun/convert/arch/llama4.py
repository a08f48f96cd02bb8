"""The text part of Llama 4.

Source of names and order: ``Llama4Model`` in llama.cpp's ``conversion/llama.py``; of defaults: transformers'
``Llama4TextConfig``. llama.cpp takes for granted what the published models have: chunks of 8192 tokens in three layers
of four, no rotation in the fourth, weaker queries beyond, and norms of queries and keys unless there are 128 experts.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import gguf

from ggufrun.checkpoint.tensor import Tensor
from ggufrun.convert.arch import llama
from ggufrun.convert.arch.shared.experts import turned_experts
from ggufrun.convert.arch.shared.layout import (
    ATTENTION,
    EXPERTS,
    GATED,
    NORMS,
    SHARED_EXPERT,
    Sizes,
    decoder_sizes,
    n_layers,
)
from ggufrun.convert.arch.shared.rope import standard
from ggufrun.convert.arch.shared.text import text_name
from ggufrun.convert.config import Config
from ggufrun.convert.vocab.readers import bpe_vocabulary
from ggufrun.errors import UnsupportedError

DEFAULTS = {
    "vocab_size": 202048,
    "hidden_size": 5120,
    "intermediate_size": 8192,
    "intermediate_size_mlp": 16384,
    "num_hidden_layers": 48,
    "num_attention_heads": 40,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "num_experts_per_tok": 1,
    "num_local_experts": 16,
    "interleave_moe_layer_step": 1,
    "use_qk_norm": True,
}

NO_NORM = 128
"""The number of experts by which llama.cpp knows the model without norms of queries and keys."""


def check(config: Config) -> None:
    llama.check(config)
    for key, allowed in (
        ("attention_bias", (False,)),
        ("attention_chunk_size", (8192,)),
        ("floor_scale", (8192,)),
        ("attn_scale", (0.1,)),
        # older files give the number of layers after which it applies
        ("attn_temperature_tuning", (True, 4)),
        ("no_rope_layer_interval", (4,)),
        ("use_qk_norm", (sizes(config)["experts"] != NO_NORM,)),
    ):
        config.require(key, allowed)
    layers = range(n_layers(config))
    rotated = [int((layer + 1) % 4 != 0) for layer in layers]
    kinds = [("full_attention", "chunked_attention")[rotates] for rotates in rotated]
    sparse = [layer for layer in layers if is_sparse(config, layer)]
    for key, wanted in (("no_rope_layers", rotated), ("layer_types", kinds), ("moe_layers", sparse)):
        if config.values.get(key) not in (None, [], wanted):
            raise UnsupportedError(f"{config.path} has other {key} than every fourth", "llama.cpp knows no such model")


def is_sparse(config: Config, layer: int) -> bool:
    return (layer + 1) % config.integer("interleave_moe_layer_step") == 0


def dense_config(config: Config) -> Config:
    """With the size of the layers without experts where other models have it."""
    return Config(config.path, {**config.values, "intermediate_size": config.integer("intermediate_size_mlp")})


def sizes(config: Config) -> Sizes:
    expert = config.integer("intermediate_size")
    experts = config.integer("num_local_experts", low=0, high=65536)
    if not experts:
        raise UnsupportedError(
            f"{config.path.name} says num_local_experts = 0, and llama.cpp loads a Llama 4 with experts only",
            "run this model with another runtime",
        )
    return {**decoder_sizes(dense_config(config)), "experts": experts, "expert": expert, "shared": expert}


def layer(config: Config, number: int) -> str:
    return NORMS + ATTENTION + (EXPERTS + SHARED_EXPERT if is_sparse(config, number) else GATED)


def metadata(config: Config, writer: gguf.GGUFWriter) -> None:
    llama.metadata(dense_config(config), writer)
    writer.add_interleave_moe_layer_step(config.integer("interleave_moe_layer_step"))
    writer.add_expert_feed_forward_length(config.integer("intermediate_size"))


def transform(config: Config, tensor: Tensor) -> Iterable[Tensor]:
    counts = sizes(config)
    return turned_experts(tensor, counts["experts"], counts["expert"])


FAMILIES = (
    replace(
        llama.LLAMA,
        names={
            "Llama4ForConditionalGeneration": (
                "meta-llama/Llama-4-Scout-17B-16E-Instruct",
                "meta-llama/Llama-4-Maverick-17B-128E-Instruct",
            ),
            "Llama4ForCausalLM": ("meta-llama/Llama-4-Scout-17B-16E-Instruct",),
        },
        title="Llama 4",
        left_out=("images",),
        arch=gguf.MODEL_ARCH.LLAMA4,
        vocab=bpe_vocabulary,
        defaults=DEFAULTS,
        rope_parameters=standard(theta=500000.0),
        scalings=("default", "llama3"),
        check=check,
        metadata=metadata,
        sizes=sizes,
        layer=layer,
        kept_name=text_name,
        transform=transform,
    ),
)
