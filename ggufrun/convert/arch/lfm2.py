"""LFM2, dense and with experts: short convolutions, and attention in some layers.

Source of names and order: llama.cpp's ``conversion/lfm2.py``; of defaults: transformers' ``Lfm2Config`` and
``Lfm2MoeConfig``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import gguf

from ggufrun.checkpoint.tensor import Tensor
from ggufrun.convert.arch.qwen import HEAD_NORMS
from ggufrun.convert.arch.shared.family import OUTPUT, Family, Stack
from ggufrun.convert.arch.shared.hyper import base_metadata
from ggufrun.convert.arch.shared.layer_types import FULL, layer_types
from ggufrun.convert.arch.shared.layout import ATTENTION, EXPERTS, GATED, NORMS, Sizes, decoder_sizes, n_layers
from ggufrun.convert.arch.shared.rope import standard
from ggufrun.convert.config import Config
from ggufrun.convert.transforms import renamed, squeezed
from ggufrun.convert.vocab.readers import bpe_vocabulary
from ggufrun.errors import UnsupportedError

CONV = "conv"
"""What layers are that do not attend."""


def usual_layers(config: Config) -> list[str]:
    """Those that ``full_attn_idxs`` counts attend to the text, or all."""
    chosen = config.values.get("full_attn_idxs")
    layers = range(n_layers(config))
    return [FULL if not isinstance(chosen, list) or layer in chosen else CONV for layer in layers]


DEFAULTS = {
    "vocab_size": 65536,
    "hidden_size": 2560,
    "intermediate_size": 12288,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 128000,
    "norm_eps": 1e-5,
    # older files call it otherwise
    "tie_word_embeddings": lambda config: config.values.get("tie_embedding", True),
    "conv_bias": False,
    "conv_L_cache": 3,
    "layer_types": usual_layers,
}
DENSE = {
    **DEFAULTS,
    "block_multiple_of": 256,
    "block_ffn_dim_multiplier": 1.0,
    "block_auto_adjust_ff_dim": True,
}
MOE = {
    **DEFAULTS,
    "hidden_size": 2048,
    "intermediate_size": 7168,
    "moe_intermediate_size": 1792,
    "num_dense_layers": 2,
    "num_experts_per_tok": 4,
    "num_experts": 32,
    "use_expert_bias": True,
    "routed_scaling_factor": 1.0,
    "norm_topk_prob": True,
}

WHOLE = """
token_embd       vocabulary width
token_embd_norm  width
output           vocabulary width
"""
CONVOLUTION = """
shortconv.conv      width cache
shortconv.in_proj   three_widths width
shortconv.out_proj  width width
"""
SELECTION_BIAS = "exp_probs_b.bias  experts\n"


def check(config: Config) -> None:
    config.require("conv_bias", (False,))
    config.require("sliding_window", ())
    found = sizes(config)
    if found["queries"] != found["width"]:
        raise UnsupportedError(f"{config.path} has heads of another size than width / heads", "llama.cpp knows none")
    layer_types(config, (CONV, FULL))


def check_moe(config: Config) -> None:
    check(config)
    config.require("use_expert_bias", (True,))
    config.require("norm_topk_prob", (True,))
    config.require("routed_scaling_factor", (1.0,))


def inner(config: Config) -> int:
    """The size of a gated layer: what the file says, or two thirds of it, rounded up."""
    said = config.integer(config.first("block_ff_dim", "intermediate_size") or "intermediate_size")
    if not config.has("block_auto_adjust_ff_dim") or not config.flag("block_auto_adjust_ff_dim"):
        return said
    size = int(2 * said / 3)
    if config.has("block_ffn_dim_multiplier"):
        size = int(max(min(config.number("block_ffn_dim_multiplier") * size, 1 << 40), 0))
    multiple = config.integer("block_multiple_of")
    return Config(config.path, {"intermediate_size": multiple * -(-size // multiple)}).integer("intermediate_size")


def sizes(config: Config) -> Sizes:
    found = decoder_sizes(config)
    return {
        **found,
        "inner": inner(config),
        "three_widths": 3 * found["width"],
        "cache": config.integer("conv_L_cache", high=65536),
    }


def moe_sizes(config: Config) -> Sizes:
    experts = config.integer(config.first("num_local_experts", "num_experts") or "num_experts", high=65536)
    return {**sizes(config), "experts": experts, "expert": config.integer("moe_intermediate_size")}


def _attends(config: Config, number: int) -> bool:
    return bool(config.values["layer_types"][number] == FULL)


def layer(config: Config, number: int) -> str:
    return NORMS + (ATTENTION + HEAD_NORMS if _attends(config, number) else CONVOLUTION) + GATED


def moe_layer(config: Config, number: int) -> str:
    if number < config.integer("num_dense_layers", low=0):
        return layer(config, number)
    return layer(config, number).removesuffix(GATED) + EXPERTS + SELECTION_BIAS


def _common(config: Config, writer: gguf.GGUFWriter) -> None:
    base_metadata(config, writer)
    heads = config.integer("num_key_value_heads")
    writer.add_head_count_kv([heads if _attends(config, number) else 0 for number in range(n_layers(config))])


def metadata(config: Config, writer: gguf.GGUFWriter) -> None:
    _common(config, writer)
    writer.add_vocab_size(config.integer("vocab_size"))
    writer.add_shortconv_l_cache(config.integer("conv_L_cache"))
    writer.add_layer_norm_rms_eps(config.number("norm_eps"))
    writer.add_feed_forward_length(inner(config))


def moe_metadata(config: Config, writer: gguf.GGUFWriter) -> None:
    _common(config, writer)
    writer.add_expert_feed_forward_length(config.integer("moe_intermediate_size"))
    writer.add_leading_dense_block_count(config.integer("num_dense_layers", low=0))
    writer.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID)
    writer.add_vocab_size(config.integer("vocab_size"))
    writer.add_shortconv_l_cache(config.integer("conv_L_cache"))


def transform(config: Config, tensor: Tensor) -> Iterable[Tensor]:
    if tensor.name.endswith(".expert_bias"):
        yield renamed(tensor, f"{tensor.name}.bias")
    elif tensor.name == OUTPUT:
        # the package's table does not have it for the mixtures, and llama.cpp does
        yield renamed(tensor, "output.weight")
    else:
        yield squeezed(tensor) if tensor.name.endswith(".conv.conv.weight") else tensor


LFM2 = Family(
    names={"Lfm2ForCausalLM": ("LiquidAI/LFM2-1.2B", "LiquidAI/LFM2-350M"), "LFM2ForCausalLM": ("LiquidAI/LFM2-700M",)},
    title="LFM2",
    arch=gguf.MODEL_ARCH.LFM2,
    vocab=bpe_vocabulary,
    defaults=DENSE,
    rope_parameters=standard(theta=1e6),
    check=check,
    metadata=metadata,
    sizes=sizes,
    whole=WHOLE,
    layer=layer,
    transform=transform,
)

FAMILIES = (
    LFM2,
    replace(
        LFM2,
        names={"Lfm2MoeForCausalLM": ("LiquidAI/LFM2-8B-A1B",)},
        title="LFM2, mixtures",
        arch=gguf.MODEL_ARCH.LFM2MOE,
        defaults=MOE,
        check=check_moe,
        metadata=moe_metadata,
        sizes=moe_sizes,
        layer=moe_layer,
        stacks=(
            Stack(
                r"model\.layers\.(?P<layer>\d+)\.feed_forward\.experts\.(?P<number>\d+)\.(?P<part>w[123])\.weight",
                ("w1", "w2", "w3"),
                "layers.{layer}.feed_forward.experts.{part}.weight",
                lambda config: moe_sizes(config)["experts"],
            ),
        ),
    ),
)
