"""Baichuan and Baichuan 2, 7B and 13B.

Source of names and order: llama.cpp's ``conversion/baichuan.py``; sizes are those of the published checkpoints.
llama.cpp tells the 7B (rotated positions) from the 13B (ALiBi) by the number of layers alone. Baichuan 2 normalizes
its output matrix when it runs, which only a checkpoint that was saved with it normalized survives.
"""

from __future__ import annotations

from collections.abc import Iterable

import gguf

from ggufrun.checkpoint.tensor import Tensor
from ggufrun.convert.arch.shared.family import Family
from ggufrun.convert.arch.shared.hyper import base_metadata
from ggufrun.convert.arch.shared.layout import decoder_sizes
from ggufrun.convert.arch.shared.rope import PLAIN
from ggufrun.convert.config import Config
from ggufrun.convert.transforms import rotary_permutation, split_rows

LAYER = """
attn_norm    width
attn_q       width width
attn_k       width width
attn_v       width width
attn_output  width width
ffn_norm     width
ffn_gate     inner width
ffn_up       inner width
ffn_down     width inner
"""


def check(config: Config) -> None:
    config.require("hidden_act", ("silu",))
    config.require("num_hidden_layers", (32, 40))
    config.require("num_key_value_heads", (config.integer("num_attention_heads"),))


def metadata(config: Config, writer: gguf.GGUFWriter) -> None:
    base_metadata(config, writer)
    writer.add_tensor_data_layout("Meta AI original pth")
    writer.add_rope_dimension_count(decoder_sizes(config)["head"])


def transform(config: Config, tensor: Tensor) -> Iterable[Tensor]:
    if not tensor.name.endswith("self_attn.W_pack.weight"):
        yield tensor
        return
    sizes = decoder_sizes(config)
    stem = tensor.name.removesuffix("W_pack.weight")
    query, key, value = split_rows(tensor, *((f"{stem}{part}_proj.weight", sizes["width"]) for part in "qkv"))
    yield rotary_permutation(query, sizes["heads"])
    yield rotary_permutation(key, sizes["heads"])
    yield value


FAMILIES = (
    Family(
        names={
            "BaichuanForCausalLM": ("baichuan-inc/Baichuan2-7B-Chat",),
            "BaiChuanForCausalLM": ("baichuan-inc/Baichuan-7B",),
        },
        title="Baichuan 1 and 2",
        arch=gguf.MODEL_ARCH.BAICHUAN,
        scalings=PLAIN,
        check=check,
        metadata=metadata,
        layer=LAYER,
        tied=False,
        transform=transform,
    ),
)
