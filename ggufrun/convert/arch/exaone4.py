"""EXAONE 4.

Source of names and order: llama.cpp's ``conversion/exaone.py``; of defaults: transformers' ``Exaone4Config``. llama.cpp
takes a model of 64 layers for the large one, whose attention slides in three layers of four, and any other for one
that always attends to everything.
"""

from __future__ import annotations

import gguf

from ggufrun.checkpoint.tensor import Tensor
from ggufrun.convert.arch.qwen import HEAD_NORMS
from ggufrun.convert.arch.shared.family import Family, heads_if_null
from ggufrun.convert.arch.shared.hyper import base_metadata
from ggufrun.convert.arch.shared.layer_types import interleaved, window_metadata
from ggufrun.convert.arch.shared.layout import ATTENTION, GATED, decoder_sizes, n_layers
from ggufrun.convert.arch.shared.rope import SCALED, llama3_frequencies, standard
from ggufrun.convert.config import Config
from ggufrun.convert.vocab.readers import bpe_vocabulary
from ggufrun.errors import UnsupportedError

LARGE = 64
"""Layers of the model with a sliding window."""


def usual_layers(config: Config) -> list[str]:
    """Every fourth layer attends to everything, or all where there is no window."""
    return interleaved(config, 4 if config.has("sliding_window") else 1)


DEFAULTS = {
    "vocab_size": 102400,
    "hidden_size": 4096,
    "intermediate_size": 16384,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": heads_if_null,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "sliding_window": 4096,
    "layer_types": usual_layers,
}

POST_NORMS = """
post_attention_norm  width
post_ffw_norm        width
"""


def check(config: Config) -> None:
    config.require("hidden_act", ("silu",))
    sizes = decoder_sizes(config)
    if sizes["queries"] != sizes["width"]:
        raise UnsupportedError(f"{config.path} has heads of another size than width / heads", "llama.cpp knows none")
    if config.has("sliding_window") != (n_layers(config) == LARGE):
        raise UnsupportedError(
            f"{config.path} has {n_layers(config)} layers and sliding_window = {config.values['sliding_window']}",
            f"llama.cpp expects a window in models of {LARGE} layers, and only there",
        )
    if config.values["layer_types"] != usual_layers(config):
        raise UnsupportedError(
            f"{config.path} has its sliding window in other layers than three of four", "llama.cpp knows no such model"
        )


def metadata(config: Config, writer: gguf.GGUFWriter) -> None:
    base_metadata(config, writer)
    writer.add_vocab_size(config.integer("vocab_size"))
    if config.has("sliding_window"):
        window_metadata(config, writer)


def extra(config: Config) -> list[Tensor]:
    return llama3_frequencies(config, decoder_sizes(config)["head"])


FAMILIES = (
    Family(
        names={"Exaone4ForCausalLM": ("LGAI-EXAONE/EXAONE-4.0-1.2B", "LGAI-EXAONE/EXAONE-4.0-32B")},
        title="EXAONE 4",
        arch=gguf.MODEL_ARCH.EXAONE4,
        vocab=bpe_vocabulary,
        defaults=DEFAULTS,
        rope_parameters=standard(),
        scalings=(*SCALED, "llama3"),
        check=check,
        metadata=metadata,
        layer=ATTENTION + HEAD_NORMS + GATED + POST_NORMS,
        extra=extra,
    ),
)
