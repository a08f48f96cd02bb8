"""Granite 3, dense and with experts.

Source of names and order: llama.cpp's ``conversion/granite.py``; of defaults: transformers' ``GraniteConfig``,
``GraniteMoeConfig`` and ``GraniteMoeSharedConfig``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace

import gguf

from ggufrun.checkpoint.tensor import Tensor
from ggufrun.convert.arch import llama
from ggufrun.convert.arch.shared.family import heads_if_null
from ggufrun.convert.arch.shared.layout import ATTENTION, EXPERTS, NORMS, SHARED_EXPERT, Sizes, decoder_sizes
from ggufrun.convert.config import Config
from ggufrun.convert.transforms import renamed, row_numbers, split_rows, take_rows
from ggufrun.convert.vocab.readers import llama_vocabulary

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
        if config.any_of(key) and config.number(key):
            add(config.number(key))


MOE = {**DEFAULTS, "num_local_experts": 8, "num_experts_per_tok": 2}
EXPERTS_TABLE = NORMS + ATTENTION + EXPERTS


def check_moe(config: Config) -> None:
    llama.check(config)
    config.require("attention_bias", (False,))


def moe_sizes(config: Config) -> Sizes:
    found = sizes(config)
    return {
        **found,
        "experts": config.integer("num_local_experts", high=65536),
        "expert": found["inner"],
        "shared": shared_size(config),
    }


def shared_size(config: Config) -> int:
    """The size of the shared expert; 0 without one."""
    return config.integer("shared_intermediate_size", low=0) if config.has("shared_intermediate_size") else 0


def moe_layer(config: Config, number: int) -> str:
    return EXPERTS_TABLE + (SHARED_EXPERT if shared_size(config) else "")


def moe_metadata(config: Config, writer: gguf.GGUFWriter) -> None:
    metadata(config, writer)
    if shared_size(config):
        writer.add_expert_shared_feed_forward_length(shared_size(config))


def moe_transform(config: Config, tensor: Tensor) -> Iterable[Tensor]:
    """Gate and up of an expert are one matrix, as those of the shared expert are."""
    match = TOGETHER.fullmatch(tensor.name)
    if match is None:
        yield from llama.transform(_without_head_size(config), tensor)
        return
    found = moe_sizes(config)
    if match[2] == "shared_mlp":
        parts = (("gate", found["shared"]), ("up", found["shared"]))
        yield from split_rows(tensor, *((f"blk.{match[1]}.ffn_{part}_shexp.weight", size) for part, size in parts))
    else:
        rows = row_numbers(tensor, found["experts"], 2, found["expert"])
        for half, part in enumerate(("gate", "up")):
            shape = (found["experts"], found["expert"], tensor.shape[-1])
            yield renamed(take_rows(tensor, rows[:, half], shape), f"blk.{match[1]}.ffn_{part}_exps.weight")


TOGETHER = re.compile(r"model\.layers\.(\d{1,9})\.(block_sparse_moe|shared_mlp)\.input_linear\.weight")

FAMILIES = (
    replace(
        llama.LLAMA,
        names={
            "GraniteMoeForCausalLM": ("ibm-granite/granite-3.1-3b-a800m-instruct",),
            "GraniteMoeSharedForCausalLM": ("ibm-research/moe-7b-1b-active-shared-experts",),
        },
        title="Granite 3, mixtures",
        arch=gguf.MODEL_ARCH.GRANITE_MOE,
        vocab=llama_vocabulary,
        defaults=MOE,
        check=check_moe,
        metadata=moe_metadata,
        sizes=moe_sizes,
        layer=moe_layer,
        transform=moe_transform,
    ),
    replace(
        llama.LLAMA,
        names={"GraniteForCausalLM": ("ibm-granite/granite-3.3-2b-instruct", "ibm-granite/granite-3.3-8b-instruct")},
        title="Granite 3",
        arch=gguf.MODEL_ARCH.GRANITE,
        vocab=llama_vocabulary,
        defaults=DEFAULTS,
        metadata=metadata,
        sizes=sizes,
    ),
)
