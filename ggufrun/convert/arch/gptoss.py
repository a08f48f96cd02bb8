"""gpt-oss, with experts in MXFP4 as published, or in floats as fine-tunes have them.

Source of names and order: llama.cpp's ``conversion/gpt_oss.py``; of defaults: transformers' ``GptOssConfig``. Gate and
up of an expert lie in alternate rows (of the floats' transposed matrices: columns); MXFP4 stays as it is in every GGUF.
"""

from __future__ import annotations

from collections.abc import Iterable

import gguf

from ggufrun.checkpoint.tensor import Tensor
from ggufrun.convert.arch.shared.family import Family
from ggufrun.convert.arch.shared.hyper import base_metadata
from ggufrun.convert.arch.shared.layer_types import interleaved
from ggufrun.convert.arch.shared.layout import Sizes, decoder_sizes
from ggufrun.convert.arch.shared.rope import standard_or
from ggufrun.convert.config import Config
from ggufrun.convert.transforms import every_other_value, renamed, row_numbers, take_rows, transposed
from ggufrun.convert.vocab.readers import bpe_vocabulary
from ggufrun.errors import UnsupportedError

DEFAULTS = {
    "vocab_size": 201088,
    "hidden_size": 2880,
    "intermediate_size": 2880,
    "num_hidden_layers": 36,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "num_local_experts": 128,
    "num_experts_per_tok": 4,
    "sliding_window": 128,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
}

YARN = {
    "rope_type": "yarn",
    "rope_theta": 150000.0,
    "factor": 32.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "truncate": False,
    "original_max_position_embeddings": 4096,
}
"""The positions of a file that says nothing of them."""

LAYER = """
attn_norm            width
post_attention_norm  width
attn_q               queries width
attn_q.bias          queries
attn_k               keys width
attn_k.bias          keys
attn_v               keys width
attn_v.bias          keys
attn_output          width queries
attn_output.bias     width
attn_sinks           heads
ffn_gate_inp         experts width
ffn_gate_inp.bias    experts
ffn_gate_exps        experts inner width
ffn_gate_exps.bias   experts inner
ffn_up_exps          experts inner width
ffn_up_exps.bias     experts inner
ffn_down_exps        experts width inner
ffn_down_exps.bias   experts width
"""


def check(config: Config) -> None:
    config.require("hidden_act", ("silu",))
    config.require("attention_bias", (True,))
    config.require("swiglu_alpha", (1.702,))
    config.require("swiglu_limit", (7.0,))
    if config.values.get("layer_types") not in (None, interleaved(config, 2)):
        raise UnsupportedError(
            f"{config.path} has its sliding window in other layers than every second",
            "llama.cpp knows no such model",
        )


def sizes(config: Config) -> Sizes:
    return {**decoder_sizes(config), "experts": config.integer("num_local_experts", high=65536)}


def metadata(config: Config, writer: gguf.GGUFWriter) -> None:
    base_metadata(config, writer)
    writer.add_sliding_window(config.integer("sliding_window"))
    writer.add_expert_feed_forward_length(config.integer("intermediate_size"))


def transform(config: Config, tensor: Tensor) -> Iterable[Tensor]:
    stem, found, ending = tensor.name.partition(".mlp.experts.")
    if tensor.name.endswith(".sinks"):
        yield renamed(tensor, f"{tensor.name}.weight")
    elif not found:
        yield tensor
    elif ending.endswith("_bias"):
        name = f"{stem}{found}{ending.removesuffix('_bias')}.bias"
        yield from _halves(config, renamed(tensor, name)) if "gate_up" in ending else (renamed(tensor, name),)
    else:
        weight = renamed(tensor if tensor.dtype == "MXFP4" else transposed(tensor), f"{tensor.name}.weight")
        yield from _halves(config, weight) if "gate_up" in ending else (weight,)


def _halves(config: Config, tensor: Tensor) -> Iterable[Tensor]:
    """Gate and up of all experts."""
    found = sizes(config)
    for half, part in enumerate(("gate_proj", "up_proj")):
        name = tensor.name.replace("gate_up_proj", part)
        if name.endswith(".bias"):
            yield renamed(every_other_value(tensor, half), name)
        else:
            rows = row_numbers(tensor, found["experts"], found["inner"], 2)[..., half]
            yield renamed(take_rows(tensor, rows, (found["experts"], found["inner"], tensor.shape[-1])), name)


FAMILIES = (
    Family(
        names={"GptOssForCausalLM": ("openai/gpt-oss-20b",)},
        title="gpt-oss",
        arch=gguf.MODEL_ARCH.GPT_OSS,
        vocab=bpe_vocabulary,
        defaults=DEFAULTS,
        rope_parameters=standard_or(YARN, theta=150000.0),
        check=check,
        metadata=metadata,
        sizes=sizes,
        layer=LAYER,
        tied=False,
        transform=transform,
    ),
)
