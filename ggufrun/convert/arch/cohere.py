"""Command-R and Aya 23.

Source of names and order: llama.cpp's ``conversion/command_r.py``; of defaults: transformers' ``CohereConfig``.
"""

from __future__ import annotations

from collections.abc import Iterable

import gguf

from ggufrun.checkpoint.tensor import Tensor
from ggufrun.convert.arch.family import Family, heads_if_null
from ggufrun.convert.arch.hyper import base_metadata
from ggufrun.convert.arch.layout import ATTENTION, GATED, n_layers
from ggufrun.convert.arch.rope import PLAIN, standard
from ggufrun.convert.config import Config
from ggufrun.convert.vocab import bpe_vocabulary
from ggufrun.errors import UnsupportedError

DEFAULTS = {
    "vocab_size": 256000,
    "hidden_size": 8192,
    "intermediate_size": 22528,
    "logit_scale": 0.0625,
    "num_hidden_layers": 40,
    "num_attention_heads": 64,
    "num_key_value_heads": heads_if_null,
    "max_position_embeddings": 8192,
    "layer_norm_eps": 1e-5,
    "tie_word_embeddings": True,
    "use_qk_norm": False,
}

LAYER = "attn_norm  width\n" + ATTENTION + GATED
HEAD_NORMS = """
attn_q_norm  heads head
attn_k_norm  kv_heads head
"""

NORMED_LAYERS = 64
"""llama.cpp expects norms of queries and keys (Command-R Plus) in models of this many layers or more."""


def check(config: Config) -> None:
    config.require("hidden_act", ("silu",))
    config.require("tie_word_embeddings", (True,))
    if config.flag("use_qk_norm") != (n_layers(config) >= NORMED_LAYERS):
        raise UnsupportedError(
            f"{config.path} has {n_layers(config)} layers and use_qk_norm = {config.values['use_qk_norm']}",
            f"llama.cpp expects such norms in models of {NORMED_LAYERS} layers or more, and only there",
        )


def layer(config: Config, number: int) -> str:
    return LAYER + (HEAD_NORMS if config.flag("use_qk_norm") else "")


def transform(config: Config, tensor: Tensor) -> Iterable[Tensor]:
    # the output matrix is the token embedding once more
    return () if tensor.name == "lm_head.weight" else (tensor,)


def metadata(config: Config, writer: gguf.GGUFWriter) -> None:
    # the trained length, where the file gives one, is longer than the other key says
    longest = config.first("model_max_length", "max_position_embeddings") or "max_position_embeddings"
    context = config.integer(longest)
    base_metadata(Config(config.path, {**config.values, "max_position_embeddings": context}), writer)
    writer.add_logit_scale(config.number("logit_scale"))
    writer.add_rope_scaling_type(gguf.RopeScalingType.NONE)


FAMILIES = (
    Family(
        names=("CohereForCausalLM",),
        arch=gguf.MODEL_ARCH.COMMAND_R,
        vocab=bpe_vocabulary,
        defaults=DEFAULTS,
        rope_parameters=standard(theta=500000.0),
        scalings=PLAIN,
        check=check,
        metadata=metadata,
        whole="token_embd  vocabulary width\noutput_norm  width\n",
        layer=layer,
        transform=transform,
    ),
)
