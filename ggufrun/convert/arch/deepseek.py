"""DeepSeek-MoE (V1), DeepSeek V2 with its latent attention, and V3 (also V3.1, R1, Moonlight and Kimi K2); the text
parts of Kimi-VL and Kimi K2.5.

Source of names and order: llama.cpp's ``conversion/deepseek.py``; of defaults: transformers' ``DeepseekV2Config`` and
``DeepseekV3Config``; V1 is remote code, its sizes are those of the published checkpoints.
Where experts are chosen in groups, llama.cpp ranks a group by its best two experts: so does V3, while V2 ranks it by
its best one. V3's layers after the last, which predict a second token, are left out as by the converter.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace

import gguf

from ggufrun.checkpoint.tensor import Tensor
from ggufrun.convert.arch import llama
from ggufrun.convert.arch.shared.family import Family, Stack, heads_if_null, without_tied_output
from ggufrun.convert.arch.shared.hyper import base_metadata
from ggufrun.convert.arch.shared.latent import (
    COMPRESSED,
    LOW_RANK_QUERY,
    QUERY,
    SPLIT,
    latent_decoder_sizes,
    latent_metadata,
    split_expansion,
)
from ggufrun.convert.arch.shared.layout import (
    ATTENTION,
    EXPERTS,
    GATED,
    NORMS,
    SHARED_EXPERT,
    Sizes,
    check_shared_experts,
    decoder_sizes,
    shared_experts,
)
from ggufrun.convert.arch.shared.rope import PLAIN, as_written, rope, standard
from ggufrun.convert.arch.shared.text import text_name
from ggufrun.convert.config import Config
from ggufrun.convert.transforms import renamed
from ggufrun.convert.vocab.kimi import deepseek_vocabulary
from ggufrun.errors import UnsupportedError

V2 = {
    "vocab_size": 102400,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": heads_if_null,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "first_k_dense_replace": 0,
    "kv_lora_rank": 512,
    "q_lora_rank": 1536,
    "n_routed_experts": 64,
    "n_shared_experts": 2,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "head_dim": lambda config: config.integer("qk_rope_head_dim"),
    "routed_scaling_factor": 1.0,
    "norm_topk_prob": False,
    "moe_intermediate_size": 1407,
}

V3 = {
    **V2,
    "vocab_size": 129280,
    "hidden_size": 7168,
    "intermediate_size": 18432,
    "num_hidden_layers": 61,
    "num_attention_heads": 128,
    "max_position_embeddings": 4096,
    "first_k_dense_replace": 3,
    "n_routed_experts": 256,
    "n_shared_experts": 1,
    "num_experts_per_tok": 8,
    "n_group": 8,
    "topk_group": 4,
    "moe_intermediate_size": 2048,
    "routed_scaling_factor": 2.5,
    "norm_topk_prob": True,
    # transformers' class has no key for it: it knows no other way
    "scoring_func": "sigmoid",
}

SELECTION_BIAS = "exp_probs_b.bias  experts\n"
"""What is added to the experts' scores when they are chosen, and not when they are weighed."""

LITE_LAYERS = (26, 27)
"""llama.cpp expects a whole query matrix in models of so many layers, and a low-rank one in all others."""

EXPERT_STACK = Stack(
    r"model\.layers\.(?P<layer>\d+)\.mlp\.experts\.(?P<number>\d+)\.(?P<part>down_proj|gate_proj|up_proj)\.weight",
    ("down_proj", "gate_proj", "up_proj"),
    "model.layers.{layer}.mlp.experts.{part}.weight",
    lambda config: config.integer("n_routed_experts", high=65536),
)


def moe_sizes(config: Config) -> Sizes:
    return {**decoder_sizes(config), **expert_sizes(config)}


def expert_sizes(config: Config) -> Sizes:
    inner = config.integer("moe_intermediate_size")
    return {
        "experts": config.integer("n_routed_experts", high=65536),
        "expert": inner,
        "shared": inner * shared_experts(config, "n_shared_experts"),
    }


def v2_sizes(config: Config) -> Sizes:
    return {**latent_decoder_sizes(config), **expert_sizes(config)}


def is_dense(config: Config, layer: int) -> bool:
    return layer < config.integer("first_k_dense_replace", low=0)


def v1_layer(config: Config, layer: int) -> str:
    return NORMS + ATTENTION + (GATED if is_dense(config, layer) else EXPERTS + SHARED_EXPERT)


def v2_layer(config: Config, layer: int) -> str:
    query = LOW_RANK_QUERY if config.has("q_lora_rank") else QUERY
    return NORMS + COMPRESSED + SPLIT + query + (GATED if is_dense(config, layer) else EXPERTS + SHARED_EXPERT)


def v3_layer(config: Config, layer: int) -> str:
    return v2_layer(config, layer) + ("" if is_dense(config, layer) else SELECTION_BIAS)


def check(config: Config) -> None:
    config.require("hidden_act", ("silu",))
    config.require("moe_layer_freq", (1,))
    config.require("attention_bias", (False,))
    check_shared_experts(config, "n_shared_experts")


def check_v1(config: Config) -> None:
    check(config)
    config.require("norm_topk_prob", (False,))


def check_v2(config: Config) -> None:
    check_latent(config)
    if config.has("n_group") and config.integer("n_group") > 1:
        # llama.cpp groups the experts wherever it reads of more than one group
        config.require("topk_method", ("group_limited_greedy",))
        if not config.has("topk_method"):
            raise UnsupportedError(f"{config.path} has groups of experts and no topk_method", "complete the file")


def check_v3(config: Config) -> None:
    check_latent(config)
    config.require("topk_method", ("noaux_tc",))
    config.require("rope_interleave", (True,))


def check_latent(config: Config) -> None:
    check(config)
    check_query(config)


def check_query(config: Config) -> None:
    layers = config.integer("num_hidden_layers", high=65536)
    if config.has("q_lora_rank") == (layers in LITE_LAYERS):
        kind = "a low-rank" if config.has("q_lora_rank") else "a whole"
        raise UnsupportedError(
            f"{config.path} has {layers} layers and {kind} query matrix", "llama.cpp expects the other kind there"
        )


def v1_metadata(config: Config, writer: gguf.GGUFWriter) -> None:
    base_metadata(config, writer)
    writer.add_rope_dimension_count(decoder_sizes(config)["head"])
    writer.add_rope_scaling_type(gguf.RopeScalingType.NONE)
    writer.add_leading_dense_block_count(config.integer("first_k_dense_replace", low=0))
    writer.add_vocab_size(config.integer("vocab_size"))
    writer.add_expert_feed_forward_length(config.integer("moe_intermediate_size"))
    writer.add_expert_weights_scale(1.0)
    writer.add_expert_count(config.integer("n_routed_experts"))
    writer.add_expert_shared_count(config.integer("n_shared_experts"))


def v2_metadata(config: Config, writer: gguf.GGUFWriter) -> None:
    sizes = v2_sizes(config)
    base_metadata(Config(config.path, {**config.values, "num_key_value_heads": 1}), writer)
    writer.add_leading_dense_block_count(config.integer("first_k_dense_replace", low=0))
    writer.add_vocab_size(config.integer("vocab_size"))
    latent_metadata(sizes, writer)
    writer.add_expert_feed_forward_length(sizes["expert"])
    writer.add_expert_count(sizes["experts"])
    writer.add_expert_shared_count(config.integer("n_shared_experts"))
    if config.any_of("routed_scaling_factor"):
        writer.add_expert_weights_scale(config.number("routed_scaling_factor"))
    if config.has("norm_topk_prob") and config.flag("norm_topk_prob"):
        writer.add_expert_weights_norm(True)
    writer.add_rope_dimension_count(config.integer("qk_rope_head_dim"))
    stretch_metadata(config, writer)


def stretch_metadata(config: Config, writer: gguf.GGUFWriter) -> None:
    """What YaRN does to the scale of attention."""
    if rope(config).has("mscale_all_dim"):
        # a tenth of it, for reasons of history that llama.cpp knows of
        writer.add_rope_scaling_yarn_log_mul(0.1 * rope(config).number("mscale_all_dim"))


def v3_name(config: Config, name: str) -> str | None:
    match = LAYER.match(name)
    ahead = match and int(match[1]) >= config.integer("num_hidden_layers")
    return None if ahead else without_tied_output(config, name)


def v3_transform(config: Config, tensor: Tensor) -> Iterable[Tensor]:
    if tensor.name.endswith(".e_score_correction_bias"):
        tensor = renamed(tensor, f"{tensor.name.removesuffix('_bias')}.bias")
    return split_expansion(config, tensor)


def kimi_name(config: Config, name: str) -> str | None:
    text = text_name(config, name)
    # transformers 5 saves the layers of Kimi K2.5 under the name that those of its vision tower have
    return text and v3_name(config, text.replace("model.blocks.", "model.layers."))


LAYER = re.compile(r"model\.layers\.(\d{1,9})\.")

V2_FAMILY = Family(
    names={
        "DeepseekV2ForCausalLM": (
            "deepseek-ai/DeepSeek-V2.5",
            "deepseek-ai/DeepSeek-Coder-V2-Lite-Instruct",
            "deepseek-ai/DeepSeek-V2-Lite-Chat",
        ),
    },
    title="DeepSeek-V2, V2.5, Coder-V2",
    arch=gguf.MODEL_ARCH.DEEPSEEK2,
    vocab=deepseek_vocabulary,
    defaults=V2,
    rope_parameters=standard(),
    check=check_v2,
    metadata=v2_metadata,
    sizes=v2_sizes,
    layer=v2_layer,
    kept_name=without_tied_output,
    transform=split_expansion,
    stacks=(EXPERT_STACK,),
)

V3_FAMILY = replace(
    V2_FAMILY,
    names={
        "DeepseekV3ForCausalLM": (
            "deepseek-ai/DeepSeek-V3",
            "moonshotai/Moonlight-16B-A3B-Instruct",
            "moonshotai/Kimi-K2-Instruct",
        ),
    },
    title="DeepSeek-V3, R1, Kimi-K2, Moonlight",
    left_out=("layers that predict further tokens",),
    defaults=V3,
    check=check_v3,
    layer=v3_layer,
    kept_name=v3_name,
    transform=v3_transform,
)

FAMILIES = (
    Family(
        names={"DeepseekForCausalLM": ("deepseek-ai/deepseek-moe-16b-chat",)},
        title="DeepSeek-MoE",
        arch=gguf.MODEL_ARCH.DEEPSEEK,
        scalings=PLAIN,
        check=check_v1,
        metadata=v1_metadata,
        sizes=moe_sizes,
        layer=v1_layer,
        transform=llama.transform,
        stacks=(EXPERT_STACK,),
    ),
    V2_FAMILY,
    V3_FAMILY,
    replace(
        V3_FAMILY,
        names={
            "KimiK25ForConditionalGeneration": ("moonshotai/Kimi-K2.5",),
            # as transformers 5 saves it
            "Kimi_K25ForConditionalGeneration": ("moonshotai/Kimi-K2.5",),
        },
        title="Kimi-K2.5",
        left_out=("images",),
        kept_name=kimi_name,
    ),
    replace(
        V3_FAMILY,
        names={"KimiVLForConditionalGeneration": ("moonshotai/Kimi-VL-A3B-Instruct",)},
        title="Kimi-VL",
        left_out=("images",),
        # transformers does not know it, so that nothing completes its file
        defaults={key: value for key, value in V3.items() if key != "head_dim"},
        rope_parameters=as_written,
        kept_name=kimi_name,
    ),
)
