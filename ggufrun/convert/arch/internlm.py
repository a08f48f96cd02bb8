"""InternLM 2, 2.5 and 3.

Source of names and order: llama.cpp's ``conversion/internlm.py``; sizes of the second are those of the published
checkpoints, defaults of the third transformers' ``InternLM3Config``. In InternLM 2, a key-value head's queries, its key
and its value lie together in ``wqkv``; InternLM 3 is a Llama.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import gguf

from ggufrun.checkpoint.tensor import Tensor
from ggufrun.convert.arch import llama
from ggufrun.convert.arch.shared.family import Family, no_tensors
from ggufrun.convert.arch.shared.layout import DECODER, decoder_sizes
from ggufrun.convert.arch.shared.rope import SCALED
from ggufrun.convert.config import Config
from ggufrun.convert.transforms import renamed, rotary_order, row_numbers, take_rows
from ggufrun.convert.vocab.internlm import internlm2_vocabulary, internlm3_vocabulary

INTERNLM3 = {
    **llama.DEFAULTS,
    "vocab_size": 128512,
    "intermediate_size": 10240,
    "num_hidden_layers": 48,
    "num_key_value_heads": 2,
    "head_dim": 128,
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-5,
}


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
        names={"InternLM2ForCausalLM": ("internlm/internlm2-chat-7b", "internlm/internlm2_5-7b-chat")},
        title="InternLM 2, 2.5",
        arch=gguf.MODEL_ARCH.INTERNLM2,
        vocab=internlm2_vocabulary,
        check=check,
        layer=DECODER,
        tied=False,
        transform=transform,
    ),
    replace(
        llama.LLAMA,
        names={"InternLM3ForCausalLM": ("internlm/internlm3-8b-instruct",)},
        title="InternLM 3",
        vocab=internlm3_vocabulary,
        defaults=INTERNLM3,
        scalings=SCALED,
        extra=no_tensors,
    ),
)
