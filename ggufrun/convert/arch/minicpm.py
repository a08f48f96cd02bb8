"""MiniCPM 1B and 2B.

Source of names and order: llama.cpp's ``conversion/minicpm.py``; sizes are those of the published checkpoints.
"""

from __future__ import annotations

import gguf

from ggufrun.checkpoint.tensor import Tensor
from ggufrun.convert.arch import llama
from ggufrun.convert.arch.shared.family import Family
from ggufrun.convert.arch.shared.hyper import base_metadata
from ggufrun.convert.arch.shared.layout import DECODER, decoder_sizes
from ggufrun.convert.arch.shared.rope import SCALED, kind, long_factors
from ggufrun.convert.config import Config
from ggufrun.errors import FormatError


def check(config: Config) -> None:
    config.require("hidden_act", ("silu",))
    config.require("num_experts", (0,))
    if config.number("dim_model_base") <= 0:
        raise FormatError(f"{config.path} says dim_model_base = {config.values['dim_model_base']}", "correct the file")
    if kind(config) == "longrope" and not extra(config):
        raise FormatError(f"{config.path} names LongRoPE and no factors", "correct rope_scaling")


def metadata(config: Config, writer: gguf.GGUFWriter) -> None:
    base_metadata(config, writer)
    writer.add_embedding_scale(config.number("scale_emb"))
    writer.add_residual_scale(config.number("scale_depth") / config.integer("num_hidden_layers") ** 0.5)
    writer.add_logit_scale(config.integer("hidden_size") / config.number("dim_model_base"))


def extra(config: Config) -> list[Tensor]:
    return long_factors(config, decoder_sizes(config)["head"])


FAMILIES = (
    Family(
        names={
            "MiniCPMForCausalLM": ("openbmb/MiniCPM-2B-sft-bf16", "openbmb/MiniCPM-1B-sft-bf16", "openbmb/MiniCPM4-8B"),
        },
        title="MiniCPM 1, 2, 4",
        arch=gguf.MODEL_ARCH.MINICPM,
        defaults={"tie_word_embeddings": True},
        scalings=(*SCALED, "longrope"),
        check=check,
        metadata=metadata,
        layer=DECODER,
        transform=llama.transform,
        extra=extra,
    ),
)
