"""MiniMax-M2.

Source of names and order: llama.cpp's ``conversion/minimax.py``; of defaults: transformers' ``MiniMaxM2Config``.
"""

from __future__ import annotations

from collections.abc import Iterable

import gguf

from ggufrun.checkpoint.tensor import Tensor
from ggufrun.convert.arch.shared.family import Family, Stack
from ggufrun.convert.arch.shared.hyper import base_metadata
from ggufrun.convert.arch.shared.layout import ATTENTION, EXPERTS, NORMS, Sizes, decoder_sizes
from ggufrun.convert.arch.shared.rope import partial_factor, standard
from ggufrun.convert.config import Config
from ggufrun.convert.transforms import renamed
from ggufrun.convert.vocab.readers import bpe_vocabulary
from ggufrun.errors import FormatError

DEFAULTS = {
    "vocab_size": 200064,
    "hidden_size": 3072,
    "intermediate_size": 1536,
    "num_hidden_layers": 62,
    "num_attention_heads": 48,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 196608,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "num_experts_per_tok": 8,
    "num_local_experts": 256,
    # transformers' class has no key for it: it knows no other way
    "scoring_func": "sigmoid",
}

HEADS = """
attn_q_norm       queries
attn_k_norm       keys
exp_probs_b.bias  experts
"""


def check(config: Config) -> None:
    config.require("hidden_act", ("silu",))
    config.require("scoring_func", ("sigmoid",))
    config.require("use_qk_norm", (True,))
    config.require("qk_norm_type", ("per_layer",))
    config.require("shared_intermediate_size", (0,))
    if rotated(config) > sizes(config)["head"]:
        raise FormatError(f"{config.path} rotates {rotated(config)} values of a head", "correct rotary_dim")


def rotated(config: Config) -> int:
    """How many values of a head are rotated."""
    if config.has("rotary_dim"):
        return config.integer("rotary_dim")
    return int(sizes(config)["head"] * partial_factor(config, default=1.0))


def sizes(config: Config) -> Sizes:
    found = decoder_sizes(config)
    return {**found, "experts": config.integer("num_local_experts", high=65536), "expert": found["inner"]}


def metadata(config: Config, writer: gguf.GGUFWriter) -> None:
    base_metadata(config, writer)
    writer.add_expert_feed_forward_length(config.integer("intermediate_size"))
    writer.add_rope_dimension_count(rotated(config))


def transform(config: Config, tensor: Tensor) -> Iterable[Tensor]:
    if tensor.name.endswith(".e_score_correction_bias"):
        tensor = renamed(tensor, f"{tensor.name.removesuffix('_bias')}.bias")
    yield tensor


FAMILIES = (
    Family(
        names={"MiniMaxM2ForCausalLM": ("MiniMaxAI/MiniMax-M2.7",)},
        title="MiniMax-M2",
        arch=gguf.MODEL_ARCH.MINIMAXM2,
        vocab=bpe_vocabulary,
        defaults=DEFAULTS,
        rope_parameters=standard(theta=5e6),
        check=check,
        metadata=metadata,
        sizes=sizes,
        layer=NORMS + ATTENTION + EXPERTS + HEADS,
        tied=False,
        transform=transform,
        stacks=(
            Stack(
                r"model\.layers\.(?P<layer>\d+)\.block_sparse_moe\.experts\.(?P<number>\d+)\.(?P<part>w[123])\.weight",
                ("w1", "w2", "w3"),
                "layers.{layer}.feed_forward.experts.{part}.weight",
                lambda config: config.integer("num_local_experts"),
            ),
        ),
    ),
)
