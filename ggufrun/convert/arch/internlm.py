"""InternLM 2 and 2.5.

Source of names and order: llama.cpp's ``conversion/internlm.py``; sizes are those of the published checkpoints. A
key-value head's queries, its key and its value lie together in ``wqkv``.
"""

from __future__ import annotations

from collections.abc import Iterable

import gguf

from ggufrun.checkpoint.tensor import Tensor
from ggufrun.convert.arch.family import Family
from ggufrun.convert.arch.layout import DECODER, decoder_sizes
from ggufrun.convert.config import Config
from ggufrun.convert.transforms import renamed, rotary_order, row_numbers, take_rows
from ggufrun.convert.vocab import internlm2_vocabulary


def check(config: Config) -> None:
    config.require("hidden_act", ("silu",))
    config.require("bias", (False,))


def transform(config: Config, tensor: Tensor) -> Iterable[Tensor]:
    stem, found, _ = tensor.name.partition("attention.wqkv.weight")
    if not found:
        yield tensor
        return
    sizes = decoder_sizes(config)
    heads, groups = sizes["heads"], sizes["kv_heads"]
    rows = row_numbers(tensor, groups, heads // groups + 2, sizes["head"])
    for part, chosen in (
        ("wq", rotary_order(tensor, rows[:, :-2], heads)),
        ("wk", rotary_order(tensor, rows[:, -2], groups)),
        ("wv", rows[:, -1]),
    ):
        yield renamed(take_rows(tensor, chosen), f"{stem}attention.{part}.weight")


FAMILIES = (
    Family(
        names=("InternLM2ForCausalLM",),
        arch=gguf.MODEL_ARCH.INTERNLM2,
        vocab=internlm2_vocabulary,
        check=check,
        layer=DECODER,
        tied=False,
        transform=transform,
    ),
)
