"""ERNIE 4.5, dense and with experts.

Source of names and order: llama.cpp's ``conversion/ernie.py``; of defaults: transformers' ``Ernie4_5Config`` and
``Ernie4_5_MoeConfig``. Baidu's
own files keep queries, keys and values together, and the two halves of the gated layer too.
"""

from __future__ import annotations

from collections.abc import Iterable

import gguf

from ggufrun.checkpoint.tensor import Tensor
from ggufrun.convert.arch.shared.family import Family, Stack, head_if_null, heads_if_null
from ggufrun.convert.arch.shared.hyper import base_metadata
from ggufrun.convert.arch.shared.layout import (
    ATTENTION,
    EXPERTS,
    GATED,
    NORMS,
    SHARED_EXPERT,
    Sizes,
    decoder_sizes,
    n_layers,
    shared_experts,
)
from ggufrun.convert.arch.shared.rope import standard
from ggufrun.convert.config import Config
from ggufrun.convert.transforms import renamed, split_rows
from ggufrun.convert.vocab.readers import llama_vocabulary

DEFAULTS = {
    "vocab_size": 103424,
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 18,
    "num_attention_heads": 16,
    "num_key_value_heads": heads_if_null,
    "head_dim": head_if_null,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
}


DENSE = NORMS + ATTENTION + GATED


def check(config: Config) -> None:
    config.require("hidden_act", ("silu",))
    config.require("use_bias", (False,))


def transform(config: Config, tensor: Tensor) -> Iterable[Tensor]:
    tensor = renamed(tensor, tensor.name.replace("ernie.", "model."))
    sizes = decoder_sizes(config)
    for together, parts in (
        ("qkv_proj.weight", (("q_proj", sizes["queries"]), ("k_proj", sizes["keys"]), ("v_proj", sizes["keys"]))),
        ("up_gate_proj.weight", (("gate_proj", sizes["inner"]), ("up_proj", sizes["inner"]))),
    ):
        stem, found, _ = tensor.name.partition(together)
        if found:
            yield from split_rows(tensor, *((f"{stem}{name}.weight", size) for name, size in parts))
            return
    yield tensor


MOE = {
    **{key: value for key, value in DEFAULTS.items() if key != "head_dim"},
    "hidden_size": 2560,
    "intermediate_size": 12288,
    "num_hidden_layers": 28,
    "num_attention_heads": 20,
    "num_key_value_heads": 4,
    "moe_intermediate_size": 1536,
    "moe_k": 6,
    "moe_num_experts": 64,
    "moe_num_shared_experts": 2,
    "moe_layer_start_index": 1,
    "moe_layer_end_index": lambda config: n_layers(config) - 1,
    "moe_layer_interval": 1,
}

SPARSE = f"""{EXPERTS}
exp_probs_b.bias?  1 experts
"""
AHEAD = ("model.mtp_block.", "model.mtp_emb_norm.", "model.mtp_hidden_norm.", "model.mtp_linear_proj.")
"""Tensors that predict a second token, which have no place in a GGUF of this kind."""


def check_moe(config: Config) -> None:
    check(config)
    config.require("moe_layer_interval", (1,))
    config.require("moe_layer_end_index", (-1, n_layers(config) - 1))
    config.require("moe_gate_act", ("softmax",))


def moe_sizes(config: Config) -> Sizes:
    inner = config.integer("moe_intermediate_size")
    return {
        **decoder_sizes(config),
        "experts": n_experts(config),
        "expert": inner,
        "shared": inner * shared_experts(config, "moe_num_shared_experts"),
    }


def n_experts(config: Config) -> int:
    return config.integer("moe_num_experts", high=65536)


def moe_layer(config: Config, number: int) -> str:
    if number < config.integer("moe_layer_start_index", low=0):
        return DENSE
    shared = SHARED_EXPERT if shared_experts(config, "moe_num_shared_experts") else ""
    return DENSE.removesuffix(GATED) + SPARSE + shared


def moe_metadata(config: Config, writer: gguf.GGUFWriter) -> None:
    """The converter takes the size of the shared experts for that of a dense layer over the heads of keys, which in the
    published models it is."""
    base_metadata(config, writer)
    writer.add_expert_count(n_experts(config))
    writer.add_expert_used_count(config.integer("moe_k"))
    writer.add_interleave_moe_layer_step(config.integer("moe_layer_interval"))
    writer.add_leading_dense_block_count(config.integer("moe_layer_start_index", low=0))
    writer.add_expert_feed_forward_length(config.integer("moe_intermediate_size"))
    writer.add_expert_shared_count(shared_experts(config, "moe_num_shared_experts"))
    if shared := moe_sizes(config)["shared"]:
        writer.add_expert_shared_feed_forward_length(shared)


def moe_name(config: Config, name: str) -> str | None:
    return None if name.startswith(AHEAD) else name


def moe_transform(config: Config, tensor: Tensor) -> Iterable[Tensor]:
    if tensor.name.endswith(".e_score_correction_bias"):
        tensor = renamed(tensor, f"{tensor.name.removesuffix('_bias')}.bias")
    yield from transform(config, tensor)


EXPERT_STACK = Stack(
    r"model\.layers\.(?P<layer>\d+)\.mlp\.experts\.(?P<number>\d+)\.(?P<part>down_proj|gate_proj|up_proj)\.weight",
    ("gate_proj", "up_proj", "down_proj"),
    "model.layers.{layer}.mlp.experts.{part}.weight",
    n_experts,
)

FAMILIES = (
    Family(
        names={"Ernie4_5_MoeForCausalLM": ("baidu/ERNIE-4.5-21B-A3B-PT", "baidu/ERNIE-4.5-300B-A47B-PT")},
        title="ERNIE 4.5, mixtures",
        left_out=("layers that predict further tokens",),
        arch=gguf.MODEL_ARCH.ERNIE4_5_MOE,
        vocab=llama_vocabulary,
        defaults=MOE,
        rope_parameters=standard(theta=500000.0),
        check=check_moe,
        metadata=moe_metadata,
        sizes=moe_sizes,
        layer=moe_layer,
        kept_name=moe_name,
        transform=moe_transform,
        stacks=(EXPERT_STACK,),
    ),
    Family(
        names={
            "Ernie4_5_ForCausalLM": ("baidu/ERNIE-4.5-0.3B-PT",),
            "Ernie4_5ForCausalLM": ("baidu/ERNIE-4.5-0.3B-PT",),
        },
        title="ERNIE 4.5",
        arch=gguf.MODEL_ARCH.ERNIE4_5,
        vocab=llama_vocabulary,
        defaults=DEFAULTS,
        rope_parameters=standard(theta=500000.0),
        check=check,
        layer=DENSE,
        transform=transform,
    ),
)
