"""Qwen3-Next and Qwen 3.5, dense and with experts: three layers of linear attention to one of the usual kind.

Source of names and order: llama.cpp's ``conversion/qwen.py``; of defaults: transformers' ``Qwen3NextConfig``,
``Qwen3_5TextConfig`` and ``Qwen3_5MoeTextConfig``. Of a Qwen 3.5 that also sees, the text part is converted. The layers
that predict a further token are kept where the checkpoint has them, whatever config.json promises.

llama.cpp repeats the key heads of linear attention for the value heads as a whole, the checkpoints each on its own: in
a Qwen 3.5 the value heads are put in another order, which for ``out_proj`` is one of columns. The decay of the states
is stored as minus the exponential of ``A_log``, computed in double precision and rounded once; torch, which the
converter uses, is a unit in the last place off in one case of a hundred.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import replace

import gguf
import numpy as np

from ggufrun.checkpoint.tensor import Tensor
from ggufrun.convert.arch import qwen, qwenvl
from ggufrun.convert.arch.shared.family import Family
from ggufrun.convert.arch.shared.hyper import base_metadata
from ggufrun.convert.arch.shared.layer_types import FULL, interleaved, layer_types
from ggufrun.convert.arch.shared.layout import (
    AHEAD,
    ATTENTION,
    EXPERTS,
    GATED,
    PREDICTOR,
    SHARED_EXPERT,
    Sizes,
    decoder_sizes,
    n_layers,
)
from ggufrun.convert.arch.shared.rope import partial_factor, rope, standard
from ggufrun.convert.arch.shared.text import text_name
from ggufrun.convert.config import Config
from ggufrun.convert.transforms import Order, minus_exp, plus_one, renamed, row_numbers, squeezed, take_rows
from ggufrun.convert.vocab.readers import bpe_vocabulary
from ggufrun.errors import FormatError, UnsupportedError


def usual_layers(config: Config) -> list[str]:
    """Every fourth layer, or what ``full_attention_interval`` says, is one of full attention."""
    interval = config.integer("full_attention_interval") if config.has("full_attention_interval") else 4
    return interleaved(config, interval, LINEAR_ATTENTION)


LINEAR_ATTENTION = "linear_attention"

HYBRID = {
    "num_key_value_heads": 2,
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "head_dim": 256,
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "linear_num_key_heads": 16,
    "linear_num_value_heads": 32,
    "layer_types": usual_layers,
}
NEXT = {
    "vocab_size": 151936,
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_hidden_layers": 48,
    "num_attention_heads": 16,
    "moe_intermediate_size": 512,
    "shared_expert_intermediate_size": 512,
    "num_experts_per_tok": 10,
    "num_experts": 512,
    **HYBRID,
}
QWEN35 = {
    "vocab_size": 248320,
    "hidden_size": 4096,
    "intermediate_size": 12288,
    "num_hidden_layers": 32,
    "num_attention_heads": 16,
    **HYBRID,
    "num_key_value_heads": 4,
}
QWEN35_MOE = {
    **{key: value for key, value in NEXT.items() if key != "intermediate_size"},
    "vocab_size": 248320,
    "num_hidden_layers": 40,
    "num_experts_per_tok": 8,
    "num_experts": 256,
}

NORMS = """
attn_norm            width
post_attention_norm  width
"""
GATED_ATTENTION = ATTENTION.replace("attn_q        queries", "attn_q        gated_queries") + qwen.HEAD_NORMS
LINEAR = """
attn_qkv      mixed width
attn_gate     values width
ssm_conv1d    mixed kernel
ssm_dt.bias   value_heads
ssm_a.        value_heads
ssm_norm      value
ssm_out       width values
"""
NEXT_RATES = "ssm_ba  two_rates width\n"
RATES = """
ssm_alpha  value_heads width
ssm_beta   value_heads width
"""
SPARSE = EXPERTS + SHARED_EXPERT + "ffn_gate_inp_shexp  1 width\n"

SECTIONS = [11, 11, 10, 0]
"""What transformers rotates by in Qwen 3.5 where the file does not say."""

OUTSIDE = {
    "fc": "eh_proj",
    "pre_fc_norm_embedding": "enorm",
    "pre_fc_norm_hidden": "hnorm",
    "norm": "shared_head_norm",
}
"""Tensors of the part that predicts tokens beside its layers, and what a GGUF calls them."""

MTP = re.compile(r"(?:model\.)?mtp\.layers\.(\d{1,4})\.(.+)")
MTP_OUTSIDE = re.compile(r"(?:model\.)?mtp\.(\w+)\.weight")


def check(config: Config) -> None:
    config.require("hidden_act", ("silu",))
    config.require("attention_bias", (False,))
    config.require("attn_output_gate", (True,))
    config.require("mlp_only_layers", ([],))
    config.require("decoder_sparse_step", (1,))
    config.require("norm_topk_prob", (True,))
    found = sizes(config)
    if found["value"] != found["key"] or found["value_heads"] % found["key_heads"]:
        raise UnsupportedError(
            f"{config.path} has {found['key_heads']} linear keys of {found['key']} and {found['value_heads']} values "
            f"of {found['value']}",
            "llama.cpp wants one size, and as many values as keys or a multiple",
        )
    layer_types(config, (LINEAR_ATTENTION, FULL))


def check_sections(config: Config) -> None:
    check(config)
    values = rope(config)
    values.require("mrope_interleaved", (True,))
    if values.has("mrope_section"):
        parts = values.numbers("mrope_section")
        if not 1 <= len(parts) <= 4 or any(part != int(part) or not 0 <= part < 1 << 16 for part in parts):
            raise FormatError(f"{config.path} rotates in the sections {parts}", "correct mrope_section")
    qwenvl.check_sum(config, values.numbers("mrope_section") if values.has("mrope_section") else SECTIONS)


def sizes(config: Config) -> Sizes:
    found = decoder_sizes(config)
    key_heads, value_heads = (config.integer(f"linear_num_{part}_heads", high=65536) for part in ("key", "value"))
    key, value = (config.integer(f"linear_{part}_head_dim", high=65536) for part in ("key", "value"))
    return {
        **found,
        "gated_queries": 2 * found["queries"],
        "key_heads": key_heads,
        "value_heads": value_heads,
        "two_rates": 2 * value_heads,
        "key": key,
        "value": value,
        "linear_keys": key_heads * key,
        "values": value_heads * value,
        "mixed": 2 * key_heads * key + value_heads * value,
        "kernel": config.integer("linear_conv_kernel_dim", high=65536),
    }


def moe_sizes(config: Config) -> Sizes:
    return {
        **sizes(config),
        "experts": qwen.n_experts(config),
        "expert": config.integer("moe_intermediate_size"),
        "shared": config.integer("shared_expert_intermediate_size"),
    }


def _attention(config: Config, number: int, rates: str) -> str:
    if number >= n_layers(config):
        return NORMS + GATED_ATTENTION + PREDICTOR
    return NORMS + (GATED_ATTENTION if is_full(config, number) else LINEAR + rates)


def is_full(config: Config, number: int) -> bool:
    kinds = config.values.get("layer_types")
    return isinstance(kinds, list) and kinds[number : number + 1] == [FULL]


def next_layer(config: Config, number: int) -> str:
    return _attention(config, number, NEXT_RATES) + SPARSE


def dense_layer(config: Config, number: int) -> str:
    return _attention(config, number, RATES) + GATED


def moe_layer(config: Config, number: int) -> str:
    return _attention(config, number, RATES) + SPARSE


def layers_ahead(config: Config, names: Collection[str] | None) -> int:
    """The layers that predict further tokens: Qwen3-Next's config.json does not count them."""
    if names is None:
        key = "mtp_num_hidden_layers"
        return config.integer(key, low=0, high=16) if config.has(key) else 0
    return max((int(match[1]) + 1 for match in map(MTP.fullmatch, names) if match), default=0)


def metadata(config: Config, writer: gguf.GGUFWriter) -> None:
    found, ahead = sizes(config), config.integer(AHEAD, low=0)
    base_metadata(config, writer)
    if config.has("moe_intermediate_size"):
        writer.add_expert_feed_forward_length(config.integer("moe_intermediate_size"))
    if config.has("shared_expert_intermediate_size"):
        writer.add_expert_shared_feed_forward_length(config.integer("shared_expert_intermediate_size"))
    if ahead:
        writer.add_nextn_predict_layers(ahead)
    writer.add_ssm_conv_kernel(found["kernel"])
    writer.add_ssm_state_size(found["key"])
    writer.add_ssm_group_count(found["key_heads"])
    writer.add_ssm_time_step_rank(found["value_heads"])
    writer.add_ssm_inner_size(found["values"])
    recurrent = [not is_full(config, layer) for layer in range(n_layers(config))] + ahead * [False]
    writer.add_array(f"{writer.arch}.attention.recurrent_layers", recurrent)
    interval = config.integer("full_attention_interval") if config.has("full_attention_interval") else 4
    writer.add_full_attention_interval(interval)
    writer.add_rope_dimension_count(int(found["head"] * partial_factor(config, default=0.25)))


def metadata35(config: Config, writer: gguf.GGUFWriter) -> None:
    metadata(config, writer)
    if not rope(config).has("mrope_section"):
        writer.add_rope_dimension_sections(SECTIONS)


def transform(config: Config, tensor: Tensor) -> Iterable[Tensor]:
    """What Qwen3-Next and Qwen 3.5 share."""
    name = tensor.name
    if match := MTP.fullmatch(name):
        name = f"model.layers.{n_layers(config) + int(match[1])}.{match[2]}"
    elif (match := MTP_OUTSIDE.fullmatch(name)) and match[1] in OUTSIDE:
        name = f"blk.{n_layers(config)}.nextn.{OUTSIDE[match[1]]}.weight"
    tensor = renamed(tensor, name)
    if name.endswith(".A_log"):
        yield minus_exp(tensor)
    elif name.endswith(".dt_bias"):
        yield renamed(tensor, f"{name.removesuffix('.dt_bias')}.dt_proj.bias")
    elif name.endswith(".conv1d.weight"):
        yield squeezed(tensor)
    elif name.endswith("norm.weight") and not name.endswith("linear_attn.norm.weight"):
        yield plus_one(tensor)
    elif name.endswith(".in_proj_qkvz.weight"):
        yield from _apart(config, tensor)
    else:
        yield from qwen.split_experts(config, tensor) if ".mlp.experts." in name else (tensor,)


def _apart(config: Config, tensor: Tensor) -> Iterable[Tensor]:
    """Queries, keys and values of every key head, which lie together with their gate."""
    found = sizes(config)
    per_key = found["values"] // found["key_heads"]
    rows = row_numbers(tensor, found["key_heads"], 2 * found["key"] + 2 * per_key)
    parts = np.split(rows, np.cumsum([found["key"], found["key"], per_key]), axis=1)
    block = tensor.name.split(".layers.")[-1].split(".")[0]
    yield renamed(take_rows(tensor, _joined(parts[:3])), f"blk.{block}.attn_qkv.weight")
    yield renamed(take_rows(tensor, parts[3]), f"blk.{block}.attn_gate.weight")


def transform35(config: Config, tensor: Tensor) -> Iterable[Tensor]:
    order = _row_order(config, tensor)
    return transform(config, tensor if order is None else take_rows(tensor, order, tensor.shape))


def value_order(config: Config, head: int) -> Order:
    """Where llama.cpp's rows of ``head`` values for every value head come from."""
    found = sizes(config)
    grouped = np.arange(found["value_heads"] * head).reshape(found["key_heads"], -1, head)
    order: Order = np.ascontiguousarray(grouped.swapaxes(0, 1).reshape(-1))
    return order


def _row_order(config: Config, tensor: Tensor) -> Order | None:
    found = sizes(config)
    _, linear, part = tensor.name.rpartition(".linear_attn.")
    if not linear or found["key_heads"] == found["value_heads"]:
        return None
    before, head = {
        "in_proj_qkv.weight": (2 * found["linear_keys"], found["value"]),
        "conv1d.weight": (2 * found["linear_keys"], found["value"]),
        "in_proj_z.weight": (0, found["value"]),
        "in_proj_a.weight": (0, 1),
        "in_proj_b.weight": (0, 1),
        "A_log": (0, 1),
        "dt_bias": (0, 1),
    }.get(part, (0, 0))
    if not head:
        return None
    rows = row_numbers(tensor, before + found["value_heads"] * head)
    return _joined([rows[:before], rows[before:][value_order(config, head)]])


def _joined(parts: list[Order]) -> Order:
    order: Order = np.concatenate([part.reshape(-1) for part in parts])
    return order


def columns35(config: Config, name: str) -> Order | None:
    """The order of the columns of a matrix, where it is another."""
    found = sizes(config)
    if not name.endswith(".linear_attn.out_proj.weight") or found["key_heads"] == found["value_heads"]:
        return None
    return value_order(config, found["value"])


QWEN35_FAMILY = Family(
    names={"Qwen3_5ForConditionalGeneration": ("Qwen/Qwen3.5-27B",), "Qwen3_5ForCausalLM": ("Qwen/Qwen3.5-27B",)},
    title="Qwen 3.5",
    left_out=("images",),
    arch=gguf.MODEL_ARCH.QWEN35,
    vocab=bpe_vocabulary,
    defaults=QWEN35,
    rope_parameters=standard(partial=0.25),
    sections=True,
    check=check_sections,
    metadata=metadata35,
    sizes=sizes,
    layer=dense_layer,
    kept_name=text_name,
    transform=transform35,
    columns=columns35,
    ahead=layers_ahead,
)

FAMILIES = (
    Family(
        names={"Qwen3NextForCausalLM": ("Qwen/Qwen3-Next-80B-A3B-Instruct",)},
        title="Qwen3-Next",
        arch=gguf.MODEL_ARCH.QWEN3NEXT,
        vocab=bpe_vocabulary,
        defaults=NEXT,
        rope_parameters=standard(partial=0.25),
        check=check,
        metadata=metadata,
        sizes=moe_sizes,
        layer=next_layer,
        transform=transform,
        stacks=(qwen.EXPERT_STACK,),
        ahead=layers_ahead,
    ),
    QWEN35_FAMILY,
    replace(
        QWEN35_FAMILY,
        names={
            "Qwen3_5MoeForConditionalGeneration": ("Qwen/Qwen3.5-35B-A3B", "Qwen/Qwen3.5-397B-A17B"),
            "Qwen3_5MoeForCausalLM": ("Qwen/Qwen3.5-35B-A3B",),
        },
        title="Qwen 3.5, mixtures",
        left_out=("images",),
        arch=gguf.MODEL_ARCH.QWEN35MOE,
        defaults=QWEN35_MOE,
        sizes=moe_sizes,
        layer=moe_layer,
        stacks=(qwen.EXPERT_STACK,),
    ),
)
