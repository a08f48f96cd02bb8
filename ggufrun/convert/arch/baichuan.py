"""Baichuan and Baichuan 2, 7B and 13B.

Source of names and order: llama.cpp's ``conversion/baichuan.py``; sizes are those of the published checkpoints.
llama.cpp tells the 7B (rotated positions) from the 13B (ALiBi) by the number of layers alone. Baichuan 2 divides each
row of its output matrix by its length when it runs. llama.cpp does not, and its converter leaves that to the user; here
the GGUF has the matrix that the model computes with.
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
from ggufrun.convert.transforms import rotary_permutation, split_rows, unit_rows

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


SECOND = 125696
"""The size of Baichuan 2's vocabulary; that of the first is 64000."""


def is_second(config: Config) -> bool:
    """Is it Baichuan 2? Its config.json has a key that the first's has not, and its vocabulary is twice as large."""
    return config.has("z_loss_weight") or config.integer("vocab_size") >= SECOND


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
        yield unit_rows(tensor) if tensor.name == "lm_head.weight" and is_second(config) else tensor
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
            "BaichuanForCausalLM": ("baichuan-inc/Baichuan2-7B-Chat", "baichuan-inc/Baichuan2-13B-Chat"),
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
