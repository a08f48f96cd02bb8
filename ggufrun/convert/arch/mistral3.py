"""Mistral Small 3.1 and later (Magistral, Devstral) and Ministral 3: the text part of a model that sees.

Source of names and order: llama.cpp's ``conversion/mistral3.py``; of defaults: transformers' ``MistralConfig`` and
``Ministral3Config``. Ministral 3 weakens the queries with the distance from the beginning, by ``llama_4_scaling_beta``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import gguf

from ggufrun.convert.arch import llama
from ggufrun.convert.arch.shared.rope import SCALED, rope, standard, standard_or
from ggufrun.convert.config import Config
from ggufrun.errors import UnsupportedError

NOT_TEXT = ("vision_tower.", "multi_modal_projector.", "vision_encoder.", "patch_merger.")


YARN = {
    "rope_type": "yarn",
    "type": "yarn",
    "rope_theta": 1e6,
    "factor": 16.0,
    "original_max_position_embeddings": 16384,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    "llama_4_scaling_beta": 0.1,
}
"""The positions of a Ministral 3 whose file says nothing of them."""


def positions(config: Config) -> dict[str, Any]:
    """As transformers completes them."""
    return (standard_or(YARN) if is_ministral(config) else standard())(config)


def check(config: Config) -> None:
    llama.check(config)
    kind = config.values.get("model_type")
    if kind not in (None, "mistral", "ministral3"):
        raise UnsupportedError(
            f"{config.path} holds a {kind} inside, which ggufrun does not convert itself",
            "try --converter upstream, llama.cpp's own converter",
        )
    if is_ministral(config):
        if rope(config).values.get("rope_type") != "yarn":
            raise UnsupportedError(f"{config.path} has a Ministral 3 without YaRN", "llama.cpp knows no such model")
        for key in ("mscale_all_dim", "llama_4_scaling_beta"):
            rope(config).number(key)


def is_ministral(config: Config) -> bool:
    return config.values.get("model_type") == "ministral3"


def metadata(config: Config, writer: gguf.GGUFWriter) -> None:
    llama.metadata(config, writer)
    if is_ministral(config):
        writer.add_rope_scaling_yarn_log_mul(rope(config).number("mscale_all_dim"))
        writer.add_attn_temperature_scale(rope(config).number("llama_4_scaling_beta"))


def kept_name(config: Config, name: str) -> str | None:
    return None if name.removeprefix("model.").startswith(NOT_TEXT) else name.replace("language_model.", "")


FAMILIES = (
    replace(
        llama.LLAMA,
        names={
            "Mistral3ForConditionalGeneration": (
                "mistralai/Mistral-Small-3.1-24B-Instruct-2503",
                "mistralai/Ministral-3-8B-Base-2512",
            ),
            "Ministral3ForCausalLM": ("mistralai/Ministral-3-8B-Base-2512",),
        },
        title="Mistral Small 3.1, Ministral 3",
        left_out=("images",),
        arch=gguf.MODEL_ARCH.MISTRAL3,
        defaults=llama.MISTRAL,
        rope_parameters=positions,
        scalings=SCALED,
        check=check,
        metadata=metadata,
        kept_name=kept_name,
    ),
)
