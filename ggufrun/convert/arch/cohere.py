"""Command-R, Command-R7B, Command A, and Aya.

Source of names and order: llama.cpp's ``conversion/command_r.py``; of defaults: transformers' ``CohereConfig``
and ``Cohere2Config``.
"""

from __future__ import annotations

import gguf

from ggufrun.convert.arch.shared.family import Family, head_if_null, heads_if_null, without_output
from ggufrun.convert.arch.shared.hyper import base_metadata
from ggufrun.convert.arch.shared.layer_types import interleaved
from ggufrun.convert.arch.shared.layout import ATTENTION, GATED, decoder_sizes, n_layers
from ggufrun.convert.arch.shared.rope import PLAIN, standard
from ggufrun.convert.config import Config
from ggufrun.convert.vocab.readers import bpe_vocabulary
from ggufrun.errors import FormatError, UnsupportedError

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


def metadata(config: Config, writer: gguf.GGUFWriter) -> None:
    # the trained length, where the file gives one, is longer than the other key says
    longest = config.first("model_max_length", "max_position_embeddings") or "max_position_embeddings"
    context = config.integer(longest)
    base_metadata(Config(config.path, {**config.values, "max_position_embeddings": context}), writer)
    writer.add_logit_scale(config.number("logit_scale"))
    writer.add_rope_scaling_type(gguf.RopeScalingType.NONE)


def usual_layers(config: Config) -> list[str]:
    """Every so many layers attend to everything."""
    every = config.integer("sliding_window_pattern") if config.has("sliding_window_pattern") else 4
    return interleaved(config, every)


COHERE2 = {
    **DEFAULTS,
    "rotary_pct": 1.0,
    "sliding_window": 4096,
    "head_dim": head_if_null,
    "layer_types": usual_layers,
}
del COHERE2["use_qk_norm"]


def check_cohere2(config: Config) -> None:
    config.require("hidden_act", ("silu",))
    config.require("tie_word_embeddings", (True,))
    config.require("attention_bias", (False,))
    config.require("use_qk_norm", (False,))
    if not 0 < config.number("rotary_pct") <= 1:
        raise FormatError(f"{config.path} says rotary_pct = {config.values['rotary_pct']}", "correct the file")
    sizes = decoder_sizes(config)
    if sizes["queries"] != sizes["width"]:
        raise UnsupportedError(f"{config.path} has heads of another size than width / heads", "llama.cpp knows none")
    if config.values["layer_types"] != interleaved(config, 4):
        raise UnsupportedError(
            f"{config.path} has its sliding window in other layers than three of four", "llama.cpp knows no such model"
        )


def metadata2(config: Config, writer: gguf.GGUFWriter) -> None:
    base_metadata(config, writer)
    writer.add_logit_scale(config.number("logit_scale"))
    writer.add_sliding_window(config.integer("sliding_window"))
    writer.add_vocab_size(config.integer("vocab_size"))
    writer.add_rope_dimension_count(int(config.number("rotary_pct") * decoder_sizes(config)["head"]))
    writer.add_rope_scaling_type(gguf.RopeScalingType.NONE)


FAMILIES = (
    Family(
        names={"Cohere2ForCausalLM": ("CohereLabs/c4ai-command-r7b-12-2024",)},
        title="Command R7B, Command A",
        arch=gguf.MODEL_ARCH.COHERE2,
        vocab=bpe_vocabulary,
        defaults=COHERE2,
        rope_parameters=standard(),
        scalings=PLAIN,
        check=check_cohere2,
        metadata=metadata2,
        whole="token_embd  vocabulary width\noutput_norm  width\n",
        layer=LAYER,
        kept_name=without_output,
    ),
    Family(
        names={
            "CohereForCausalLM": (
                "CohereLabs/c4ai-command-r-v01",
                "CohereLabs/c4ai-command-r-plus",
                "CohereLabs/aya-23-8B",
            ),
        },
        title="Command R, Aya",
        arch=gguf.MODEL_ARCH.COMMAND_R,
        vocab=bpe_vocabulary,
        defaults=DEFAULTS,
        rope_parameters=standard(theta=500000.0),
        scalings=PLAIN,
        check=check,
        metadata=metadata,
        whole="token_embd  vocabulary width\noutput_norm  width\n",
        layer=layer,
        kept_name=without_output,
    ),
)
