"""StableLM 2 and StableLM Zephyr, and the first ones under the name of their remote code.

Source of names and order: llama.cpp's ``conversion/stablelm.py``; of defaults: transformers' ``StableLmConfig``.
"""

from __future__ import annotations

from dataclasses import replace

import gguf

from ggufrun.convert.arch.shared.family import Family, Stack
from ggufrun.convert.arch.shared.hyper import file_type
from ggufrun.convert.arch.shared.layout import ATTENTION, GATED, WHOLE, decoder_sizes, n_layers
from ggufrun.convert.arch.shared.rope import PLAIN, as_written, base_if_unusual, partial_factor, standard
from ggufrun.convert.config import Config
from ggufrun.convert.vocab.readers import bpe_vocabulary

DEFAULTS = {
    "vocab_size": 50304,
    "hidden_size": 2560,
    "intermediate_size": 6912,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "max_position_embeddings": 4096,
    "layer_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "use_parallel_residual": False,
    "qk_layernorm": False,
}

EPOCH = {
    "layer_norm_eps": lambda config: config.values.get("norm_eps"),
    # what llama.cpp's converter assumes; the loader goes by the norms that are there
    "use_parallel_residual": True,
    "tie_word_embeddings": False,
}

LAYER = "attn_norm  width\nattn_norm.bias  width\n" + ATTENTION + GATED
FFN_NORM = """
ffn_norm       width
ffn_norm.bias  width
"""
HEAD_NORMS = """
attn_q_norm  heads head
attn_k_norm  kv_heads head
"""


def check(config: Config) -> None:
    config.require("hidden_act", ("silu",))


def layer(config: Config, number: int) -> str:
    table = LAYER + (HEAD_NORMS if config.flag("qk_layernorm") else "")
    return table if config.flag("use_parallel_residual") else table + FFN_NORM


def metadata(config: Config, writer: gguf.GGUFWriter) -> None:
    sizes = decoder_sizes(config)
    writer.add_context_length(config.integer("max_position_embeddings"))
    writer.add_embedding_length(sizes["width"])
    writer.add_block_count(n_layers(config))
    writer.add_feed_forward_length(sizes["inner"])
    writer.add_rope_dimension_count(int(partial_factor(config) * sizes["head"]))
    writer.add_head_count(sizes["heads"])
    writer.add_head_count_kv(sizes["kv_heads"])
    writer.add_parallel_residual(config.flag("use_parallel_residual"))
    writer.add_layer_norm_eps(config.number("layer_norm_eps"))
    file_type(writer)
    base_if_unusual(config, writer)


def _norms(part: str, heads: str) -> Stack:
    return Stack(
        rf"model\.layers\.(?P<layer>\d+)\.self_attn\.(?P<part>{part})\.norms\.(?P<number>\d+)\.weight",
        (part,),
        "model.layers.{layer}.self_attn.{part}.weight",
        lambda config: decoder_sizes(config)[heads],
    )


STABLELM = Family(
    names={
        "StableLmForCausalLM": (
            "stabilityai/stablelm-2-1_6b-chat",
            "stabilityai/stablelm-2-12b-chat",
            "stabilityai/stablelm-3b-4e1t",
        ),
    },
    title="StableLM",
    arch=gguf.MODEL_ARCH.STABLELM,
    vocab=bpe_vocabulary,
    defaults=DEFAULTS,
    rope_parameters=standard(partial=0.25),
    scalings=PLAIN,
    check=check,
    metadata=metadata,
    whole=WHOLE + "output_norm.bias  width\n",
    layer=layer,
    tied=False,
    stacks=(_norms("q_layernorm", "heads"), _norms("k_layernorm", "kv_heads")),
)

FAMILIES = (
    STABLELM,
    replace(
        STABLELM,
        names={"StableLMEpochForCausalLM": ("pansophic/rocket-3B",)},
        title="StableLM",
        defaults=EPOCH,
        rope_parameters=as_written,
        layer=LAYER + FFN_NORM,
        stacks=(),
    ),
)
