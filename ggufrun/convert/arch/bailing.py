"""Ling and Ring, that is Bailing with experts, of the first and second version.

Source of names and order: llama.cpp's ``conversion/bailingmoe.py``. Both are remote code; their sizes are those of the
published checkpoints.
"""

from __future__ import annotations

from collections.abc import Iterable

import gguf

from ggufrun.checkpoint.tensor import Tensor
from ggufrun.convert.arch import qwen
from ggufrun.convert.arch.shared.family import Family
from ggufrun.convert.arch.shared.hyper import base_metadata
from ggufrun.convert.arch.shared.layout import (
    ATTENTION,
    EXPERTS,
    GATED,
    NORMS,
    PREDICTOR,
    SHARED_EXPERT,
    Sizes,
    check_shared_experts,
    decoder_sizes,
    n_layers,
    shared_experts,
)
from ggufrun.convert.arch.shared.next_tokens import ahead_metadata, layers_ahead, placed
from ggufrun.convert.arch.shared.rope import partial_factor
from ggufrun.convert.config import Config
from ggufrun.convert.transforms import renamed, rotary_permutation, split_rows, unit_columns
from ggufrun.convert.vocab.readers import bpe_vocabulary
from ggufrun.errors import UnsupportedError

FUSED = """
attn_qkv     qkv width
attn_output  width queries
attn_q_norm  head
attn_k_norm  head
"""
SELECTION_BIAS = "exp_probs_b.bias?  experts\n"


def check(config: Config) -> None:
    config.require("hidden_act", ("silu",))
    for key in ("use_bias", "use_qkv_bias", "multi_gate"):
        config.require(key, (False,))
    config.integer("num_experts_per_tok")


def check_v1(config: Config) -> None:
    check(config)
    config.require("first_k_dense_replace", (0,))
    config.require("use_qk_norm", (False,))
    check_shared_experts(config, "num_shared_experts")


def check_v2(config: Config) -> None:
    check(config)
    config.require("use_qk_norm", (True,))
    config.require("norm_head", (False,))
    config.require("num_shared_experts", (1,))
    found = sizes(config)
    if found["queries"] != found["width"]:
        raise UnsupportedError(f"{config.path} has heads of another size than width / heads", "llama.cpp knows none")


def sizes(config: Config) -> Sizes:
    found = decoder_sizes(config)
    inner = config.integer("moe_intermediate_size")
    return {
        **found,
        "qkv": found["queries"] + 2 * found["keys"],
        "experts": config.integer("num_experts", high=65536),
        "expert": inner,
        "shared": inner * shared_experts(config, "num_shared_experts"),
    }


def v2_sizes(config: Config) -> Sizes:
    shared = config.first("moe_shared_expert_intermediate_size")
    found = sizes(config)
    return {**found, "shared": config.integer(shared) if shared else found["shared"]}


def v2_layer(config: Config, number: int) -> str:
    if number < config.integer("first_k_dense_replace", low=0):
        return NORMS + FUSED + GATED
    table = NORMS + FUSED + EXPERTS + SHARED_EXPERT + SELECTION_BIAS
    return table + (f"{PREDICTOR}layer_output_norm  width\n" if number >= n_layers(config) else "")


def v1_metadata(config: Config, writer: gguf.GGUFWriter) -> None:
    base_metadata(config, writer)
    writer.add_rope_dimension_count(sizes(config)["head"])
    writer.add_leading_dense_block_count(config.integer("first_k_dense_replace", low=0))
    writer.add_vocab_size(config.integer("vocab_size"))
    writer.add_expert_feed_forward_length(config.integer("moe_intermediate_size"))
    writer.add_expert_weights_scale(1.0)
    writer.add_expert_shared_count(config.integer("num_shared_experts"))
    writer.add_expert_weights_norm(config.flag("norm_topk_prob"))


def v2_metadata(config: Config, writer: gguf.GGUFWriter) -> None:
    found = v2_sizes(config)
    base_metadata(config, writer)
    writer.add_rope_dimension_count(int(found["head"] * partial_factor(config, default=0.5)))
    writer.add_leading_dense_block_count(config.integer("first_k_dense_replace", low=0))
    writer.add_vocab_size(config.integer("vocab_size"))
    writer.add_expert_feed_forward_length(found["expert"])
    writer.add_expert_shared_feed_forward_length(found["shared"])
    writer.add_expert_weights_scale(config.number("routed_scaling_factor"))
    writer.add_expert_shared_count(config.integer("num_shared_experts"))
    writer.add_expert_weights_norm(config.flag("norm_topk_prob"))
    ahead_metadata(config, writer)


def v1_transform(config: Config, tensor: Tensor) -> Iterable[Tensor]:
    stem, found, _ = tensor.name.partition("attention.query_key_value.weight")
    if found:
        counts = sizes(config)
        parts = (("q_proj", counts["queries"]), ("k_proj", counts["keys"]), ("v_proj", counts["keys"]))
        q, k, v = split_rows(tensor, *((f"{stem}self_attn.{name}.weight", rows) for name, rows in parts))
        yield rotary_permutation(q, counts["heads"])
        yield rotary_permutation(k, counts["kv_heads"])
        yield v
    elif tensor.name == "lm_head.weight" and config.has("norm_head") and config.flag("norm_head"):
        # the model divides its columns by their length when it runs, llama.cpp does not
        yield unit_columns(tensor)
    else:
        yield renamed(tensor, tensor.name.replace(".attention.dense.", ".self_attn.o_proj."))


def v2_transform(config: Config, tensor: Tensor) -> Iterable[Tensor]:
    if tensor.name.endswith(".expert_bias"):
        tensor = renamed(tensor, f"{tensor.name}.bias")
    yield placed(config, tensor)


FAMILIES = (
    Family(
        names={"BailingMoeForCausalLM": ("inclusionAI/Ling-lite",)},
        title="Ling 1",
        arch=gguf.MODEL_ARCH.BAILINGMOE,
        vocab=bpe_vocabulary,
        defaults={"first_k_dense_replace": 0},
        check=check_v1,
        metadata=v1_metadata,
        sizes=sizes,
        layer=NORMS + ATTENTION + EXPERTS + SHARED_EXPERT,
        tied=False,
        transform=v1_transform,
        stacks=(qwen.EXPERT_STACK,),
    ),
    Family(
        names={"BailingMoeV2ForCausalLM": ("inclusionAI/Ling-mini-2.0",)},
        title="Ling 2",
        arch=gguf.MODEL_ARCH.BAILINGMOE2,
        vocab=bpe_vocabulary,
        defaults={"routed_scaling_factor": 1.0, "score_function": "sigmoid"},
        check=check_v2,
        metadata=v2_metadata,
        sizes=v2_sizes,
        layer=v2_layer,
        tied=False,
        transform=v2_transform,
        stacks=(qwen.EXPERT_STACK,),
        ahead=layers_ahead,
    ),
)
