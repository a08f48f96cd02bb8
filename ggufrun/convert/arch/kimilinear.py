"""Kimi Linear: in most layers a recurrence with gates (KDA), in the others latent attention without positions.

Source of names and order: llama.cpp's ``conversion/kimi_linear.py``; of defaults: transformers' ``KimiLinearConfig``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace

import gguf

from ggufrun.checkpoint.tensor import Tensor
from ggufrun.convert.arch.shared.family import Family, Stack
from ggufrun.convert.arch.shared.hyper import base_metadata
from ggufrun.convert.arch.shared.latent import COMPRESSED, LOW_RANK_QUERY, QUERY, SPLIT, latent_sizes, split_expansion
from ggufrun.convert.arch.shared.layer_types import FULL, layer_types
from ggufrun.convert.arch.shared.layout import (
    EXPERTS,
    GATED,
    NORMS,
    SHARED_EXPERT,
    Sizes,
    check_shared_experts,
    decoder_sizes,
    n_layers,
    shared_experts,
)
from ggufrun.convert.arch.shared.rope import PLAIN, as_written
from ggufrun.convert.config import Config
from ggufrun.convert.transforms import minus_exp, renamed
from ggufrun.convert.vocab.kimi import kimi_linear_vocabulary
from ggufrun.errors import FormatError, UnsupportedError

DEFAULTS = {
    "vocab_size": 163840,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "moe_intermediate_size": 1024,
    "num_hidden_layers": 27,
    "num_attention_heads": 32,
    "model_max_length": lambda config: 1048576,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "num_experts": 256,
    "num_experts_per_token": 8,
    "num_expert_group": 1,
    "topk_group": 1,
    "num_shared_experts": 1,
    "moe_renormalize": True,
    "routed_scaling_factor": 2.446,
    "first_k_dense_replace": 1,
    "moe_router_activation_func": "sigmoid",
}

RECURRENT = """
attn_q            recurrent width
attn_k            recurrent width
attn_v            recurrent width
attn_output       width recurrent
ssm_conv1d_q      1 recurrent 1 kernel
ssm_conv1d_k      1 recurrent 1 kernel
ssm_conv1d_v      1 recurrent 1 kernel
ssm_f_a           head width
ssm_f_b           recurrent head
ssm_beta          heads width
ssm_a.            1 1 heads 1
ssm_dt.bias       recurrent
ssm_g_a           head width
ssm_g_b           recurrent head
ssm_norm          head
"""
SELECTION_BIAS = "exp_probs_b.bias  experts\n"
LINEAR, CONV = "linear_attention", "linear_conv_kernel_dim"
DENSE, SPARSE = "dense", "sparse"
CONVOLUTIONS = (".q_conv1d.weight", ".k_conv1d.weight", ".v_conv1d.weight")

EXPERT_STACK = Stack(
    r"model\.layers\.(?P<layer>\d+)\.block_sparse_moe\.experts\.(?P<number>\d+)\.(?P<part>w[123])\.weight",
    ("w1", "w2", "w3"),
    "layers.{layer}.feed_forward.experts.{part}.weight",
    lambda config: config.integer("num_experts", high=65536),
)


def linear(config: Config) -> Config:
    """What config.json says of the recurrence: in an object of its own or, as transformers 5 writes it, without one."""
    found = config.section("linear_attn_config")
    if found is not None:
        return found
    keys = {"head_dim": "linear_head_dim", "num_heads": "linear_num_heads", "short_conv_kernel_size": CONV}
    missing = [key for key in keys.values() if not config.has(key)]
    if missing:
        raise FormatError(
            f"{config.path} has no linear_attn_config and no {missing[0]}", "complete the file or download it again"
        )
    return Config(config.path, {key: config.values[today] for key, today in keys.items()})


def full_layers(config: Config) -> set[int]:
    """The numbers, from 0, of the layers that attend; FormatError where not every layer is described."""
    if not config.has("linear_attn_config"):
        if config.values.get("layer_types") is None:
            return set(range(4, n_layers(config), 4))
        return {number for number, kind in enumerate(layer_types(config, (LINEAR, FULL))) if kind == FULL}
    lists = [linear(config).values.get(key) for key in ("full_attn_layers", "kda_layers")]
    numbers = [number for found in lists for number in (found if isinstance(found, list) else ())]
    if any(type(number) is not int for number in numbers) or sorted(numbers) != list(range(1, n_layers(config) + 1)):
        raise FormatError(f"{config.path} has a linear_attn_config that does not describe its layers", "correct it")
    return {int(number) - 1 for number in lists[0] or ()}


def first_sparse(config: Config) -> int:
    """How many layers have no experts: the first ones."""
    kinds = config.values.get("mlp_layer_types")
    return kinds.count(DENSE) if isinstance(kinds, list) else config.integer("first_k_dense_replace", low=0)


def check(config: Config) -> None:
    config.require("hidden_act", ("silu",))
    config.require("moe_layer_freq", (1,))
    check_shared_experts(config, "num_shared_experts")
    config.require("moe_renormalize", (True,))
    config.require("num_expert_group", (1,))
    config.require("mla_use_nope", (True,))
    config.require("moe_router_activation_func", ("sigmoid",))
    full_layers(config)
    first = first_sparse(config)
    if config.values.get("mlp_layer_types") not in (None, [DENSE] * first + [SPARSE] * (n_layers(config) - first)):
        raise UnsupportedError(f"{config.path} has dense layers after sparse ones", "llama.cpp knows no such model")
    if linear(config).integer("num_heads", high=65536) != config.integer("num_attention_heads", high=65536):
        raise UnsupportedError(f"{config.path} has other heads in its recurrence than elsewhere", "llama.cpp knows one")


def sizes(config: Config) -> Sizes:
    latent, head = latent_sizes(config), linear(config).integer("head_dim", high=65536)
    inner = config.integer("moe_intermediate_size")
    return {
        **decoder_sizes(Config(config.path, {**config.values, "head_dim": head})),
        **latent,
        "head": head,
        "recurrent": latent["heads"] * head,
        "kernel": linear(config).integer("short_conv_kernel_size", high=65536),
        "experts": config.integer("num_experts", high=65536),
        "expert": inner,
        "shared": inner * shared_experts(config, "num_shared_experts"),
    }


def layer(config: Config, number: int) -> str:
    query = LOW_RANK_QUERY if config.has("q_lora_rank") else QUERY
    attention = COMPRESSED + SPLIT + query if number in full_layers(config) else RECURRENT
    dense = number < first_sparse(config)
    return NORMS + attention + (GATED if dense else EXPERTS + SHARED_EXPERT + SELECTION_BIAS)


def metadata(config: Config, writer: gguf.GGUFWriter) -> None:
    found, full = sizes(config), full_layers(config)
    # published files have a head_dim that nothing is of the size of; llama.cpp's converter writes it
    head = config.first("head_dim") or "qk_rope_head_dim"
    names = {"num_key_value_heads": 1, "head_dim": config.integer(head)}
    base_metadata(Config(config.path, {**config.values, **names}), writer)
    writer.add_vocab_size(found["vocabulary"])
    writer.add_head_count_kv([int(number in full) for number in range(n_layers(config))])
    writer.add_ssm_conv_kernel(found["kernel"])
    writer.add_kda_head_dim(found["head"])
    if found["q_rank"]:
        writer.add_q_lora_rank(found["q_rank"])
    writer.add_kv_lora_rank(found["rank"])
    writer.add_rope_dimension_count(config.integer("qk_rope_head_dim"))
    writer.add_key_length(found["latent"])
    writer.add_key_length_mla(found["queries"] // found["heads"])
    writer.add_value_length_mla(found["value"])
    writer.add_expert_feed_forward_length(found["expert"])
    writer.add_expert_shared_count(config.integer("num_shared_experts"))
    writer.add_leading_dense_block_count(first_sparse(config))
    writer.add_expert_weights_scale(config.number("routed_scaling_factor"))


DENSE_LAYER = re.compile(r"(model\.layers\.\d{1,9})\.block_sparse_moe\.((?:gate|up|down)_proj\.weight)")


def kept_name(config: Config, name: str) -> str | None:
    """transformers 5 saves the matrices of dense layers under the name of the experts' part."""
    return DENSE_LAYER.sub(r"\1.mlp.\2", name)


def transform(config: Config, tensor: Tensor) -> Iterable[Tensor]:
    name = tensor.name
    if name.endswith(CONVOLUTIONS):
        yield replace(tensor, shape=(1, tensor.shape[0], 1, tensor.shape[-1]))
    elif name.endswith(".A_log"):
        yield minus_exp(tensor)
    elif name.endswith(".dt_bias"):
        yield renamed(tensor, f"{name.removesuffix('dt_bias')}dt_proj.bias")
    elif name.endswith(".e_score_correction_bias"):
        yield renamed(tensor, f"{name.removesuffix('_bias')}.bias")
    else:
        yield from split_expansion(config, tensor)


FAMILIES = (
    Family(
        names={
            "KimiLinearForCausalLM": ("moonshotai/Kimi-Linear-48B-A3B-Instruct",),
            "KimiLinearModel": ("moonshotai/Kimi-Linear-48B-A3B-Instruct",),
        },
        title="Kimi-Linear",
        arch=gguf.MODEL_ARCH.KIMI_LINEAR,
        vocab=kimi_linear_vocabulary,
        defaults=DEFAULTS,
        rope_parameters=as_written,
        scalings=PLAIN,
        check=check,
        metadata=metadata,
        sizes=sizes,
        layer=layer,
        tied=False,
        kept_name=kept_name,
        transform=transform,
        stacks=(EXPERT_STACK,),
    ),
)
