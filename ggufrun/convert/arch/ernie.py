"""ERNIE 4.5, dense.

Source of names and order: llama.cpp's ``conversion/ernie.py``; of defaults: transformers' ``Ernie4_5Config``. Baidu's
own files keep queries, keys and values together, and the two halves of the gated layer too.
"""

from __future__ import annotations

from collections.abc import Iterable

import gguf

from ggufrun.checkpoint.tensor import Tensor
from ggufrun.convert.arch.family import Family, head_if_null, heads_if_null
from ggufrun.convert.arch.layout import DECODER, decoder_sizes
from ggufrun.convert.arch.rope import standard
from ggufrun.convert.config import Config
from ggufrun.convert.transforms import renamed, split_rows
from ggufrun.convert.vocab import llama_vocabulary

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


FAMILIES = (
    Family(
        names=("Ernie4_5_ForCausalLM", "Ernie4_5ForCausalLM"),
        arch=gguf.MODEL_ARCH.ERNIE4_5,
        vocab=llama_vocabulary,
        defaults=DEFAULTS,
        rope_parameters=standard(theta=500000.0),
        check=check,
        layer=DECODER,
        transform=transform,
    ),
)
