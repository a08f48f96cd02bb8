"""GLM-4.5, 4.6 and 4.7 (experts), and GLM-4.7 Flash, which has DeepSeek's latent attention.

Source of names and order: llama.cpp's ``conversion/glm.py``; of defaults: transformers' ``Glm4MoeConfig`` and
``Glm4MoeLiteConfig``. The layers after the last, which predict a second token, are kept as by the converter; where a
checkpoint has lost them, which happens when it is trained further with transformers, the GGUF does without, while the
converter promises layers that are not there.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import gguf

from ggufrun.checkpoint.tensor import Tensor
from ggufrun.convert.arch import deepseek
from ggufrun.convert.arch.shared.family import Family, heads_if_null
from ggufrun.convert.arch.shared.hyper import base_metadata
from ggufrun.convert.arch.shared.latent import split_expansion
from ggufrun.convert.arch.shared.layout import (
    AHEAD,
    ATTENTION,
    EXPERTS,
    GATED,
    PREDICTOR,
    SHARED_EXPERT,
    Sizes,
    check_shared_experts,
    decoder_sizes,
    n_layers,
    shared_experts,
)
from ggufrun.convert.arch.shared.next_tokens import ahead_metadata, layers_ahead, placed
from ggufrun.convert.arch.shared.rope import partial_factor, standard
from ggufrun.convert.config import Config
from ggufrun.convert.transforms import renamed
from ggufrun.convert.vocab.glm import glm4_moe_vocabulary


def dense_first(config: Config) -> int:
    """How many layers have no experts: the first ones, of which transformers 5 writes a list."""
    kinds = config.values.get("mlp_layer_types")
    return kinds.count("dense") if isinstance(kinds, list) else 1


DEFAULTS = {
    "vocab_size": 151552,
    "hidden_size": 4096,
    "intermediate_size": 10944,
    "num_hidden_layers": 46,
    "num_attention_heads": 96,
    "num_key_value_heads": heads_if_null,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "moe_intermediate_size": 1408,
    "num_experts_per_tok": 8,
    "n_shared_experts": 1,
    "n_routed_experts": 128,
    "routed_scaling_factor": 1.0,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "norm_topk_prob": True,
    "use_qk_norm": False,
}
LITE = {
    **deepseek.V3,
    "vocab_size": 154880,
    "hidden_size": 2048,
    "intermediate_size": 10240,
    "num_hidden_layers": 47,
    "num_attention_heads": 20,
    "max_position_embeddings": 202752,
    "rms_norm_eps": 1e-5,
    "q_lora_rank": 768,
    "qk_nope_head_dim": 192,
    "v_head_dim": 256,
    "n_routed_experts": 64,
    "num_experts_per_tok": 4,
    "n_group": 1,
    "topk_group": 1,
    "moe_intermediate_size": 1536,
    "routed_scaling_factor": 1.8,
    "first_k_dense_replace": dense_first,
}
del LITE["scoring_func"], LITE["head_dim"]

NORMS = """
attn_norm            width
post_attention_norm  width
"""
HEAD_NORMS = """
attn_q_norm  head
attn_k_norm  head
"""


def check(config: Config) -> None:
    config.require("hidden_act", ("silu",))
    check_shared_experts(config, "n_shared_experts")


def sizes(config: Config) -> Sizes:
    inner = config.integer("moe_intermediate_size")
    return {
        **decoder_sizes(config),
        "experts": config.integer("n_routed_experts", high=65536),
        "expert": inner,
        "shared": inner * shared_experts(config, "n_shared_experts"),
    }


def layer(config: Config, number: int) -> str:
    norms = NORMS + (HEAD_NORMS if config.flag("use_qk_norm") else "")
    if deepseek.is_dense(config, number):
        return norms + ATTENTION + GATED
    table = norms + ATTENTION + EXPERTS + SHARED_EXPERT + deepseek.SELECTION_BIAS
    return table + (PREDICTOR if number >= n_layers(config) else "")


def metadata(config: Config, writer: gguf.GGUFWriter) -> None:
    found = sizes(config)
    base_metadata(config, writer)
    writer.add_rope_dimension_count(int(found["head"] * partial_factor(config, default=0.5)))
    writer.add_expert_count(found["experts"])
    writer.add_expert_feed_forward_length(found["expert"])
    writer.add_expert_shared_count(config.integer("n_shared_experts"))
    writer.add_leading_dense_block_count(config.integer("first_k_dense_replace", low=0))
    writer.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID)
    writer.add_expert_weights_scale(config.number("routed_scaling_factor"))
    writer.add_expert_weights_norm(config.flag("norm_topk_prob"))
    ahead_metadata(config, writer)


def transform(config: Config, tensor: Tensor) -> Iterable[Tensor]:
    if tensor.name.endswith(".e_score_correction_bias"):
        tensor = renamed(tensor, f"{tensor.name.removesuffix('_bias')}.bias")
    yield tensor


def lite_layer(config: Config, number: int) -> str:
    return deepseek.v3_layer(config, number) + (PREDICTOR if number >= n_layers(config) else "")


def lite_metadata(config: Config, writer: gguf.GGUFWriter) -> None:
    deepseek.v2_metadata(config, writer)
    if config.integer(AHEAD, low=0):
        writer.add_nextn_predict_layers(config.integer(AHEAD, low=0))
    if (n_layers(config), config.integer("vocab_size")) not in GUESSED:
        # the converter never tells, so that any other model of the family would choose its experts wrongly
        writer.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID)


GUESSED = ((47, 154880), (48, 154880))
"""Layers and vocabularies by which llama.cpp knows that experts are chosen by a sigmoid."""


def lite_transform(config: Config, tensor: Tensor) -> Iterable[Tensor]:
    for changed in transform(config, placed(config, tensor)):
        yield from split_expansion(config, changed)


GLM4_MOE = Family(
    names={"Glm4MoeForCausalLM": ("zai-org/GLM-4.5-Air", "zai-org/GLM-4.6")},
    title="GLM-4.5, 4.6, 4.7",
    arch=gguf.MODEL_ARCH.GLM4_MOE,
    vocab=glm4_moe_vocabulary,
    defaults=DEFAULTS,
    rope_parameters=standard(partial=0.5),
    check=check,
    metadata=metadata,
    sizes=sizes,
    layer=layer,
    transform=transform,
    stacks=(deepseek.EXPERT_STACK,),
    ahead=layers_ahead,
)

FAMILIES = (
    GLM4_MOE,
    replace(
        deepseek.V2_FAMILY,
        names={"Glm4MoeLiteForCausalLM": ("zai-org/GLM-4.7-Flash",)},
        title="GLM-4.7-Flash",
        vocab=glm4_moe_vocabulary,
        defaults=LITE,
        check=deepseek.check_v3,
        metadata=lite_metadata,
        layer=lite_layer,
        transform=lite_transform,
        ahead=layers_ahead,
    ),
)
