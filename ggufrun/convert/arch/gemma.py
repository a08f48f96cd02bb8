"""Gemma 1, 2 and 3; of Gemma 3's image models, the text part.

Source of names and order: llama.cpp's ``conversion/gemma.py``; of defaults: transformers' ``GemmaConfig``,
``Gemma2Config`` and ``Gemma3TextConfig``. Gemma multiplies by one plus the weights of its norms; a GGUF holds the sum.
llama.cpp knows which layers have a sliding window, and the scale of attention, from the number of layers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import gguf

from ggufrun.checkpoint.tensor import Tensor
from ggufrun.convert.arch.shared.family import Family, without_output
from ggufrun.convert.arch.shared.hyper import base_metadata, file_type
from ggufrun.convert.arch.shared.layer_types import interleaved
from ggufrun.convert.arch.shared.layout import DECODER, decoder_sizes, n_layers
from ggufrun.convert.arch.shared.rope import PLAIN, SCALED, base_if_unusual, of_two_bases, rope, standard
from ggufrun.convert.config import Config
from ggufrun.convert.transforms import plus_one
from ggufrun.convert.vocab.readers import gemma2_vocabulary, gemma_vocabulary
from ggufrun.errors import UnsupportedError

GEMMA = {
    "vocab_size": 256000,
    "hidden_size": 3072,
    "intermediate_size": 24576,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "head_dim": 256,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True,
}
GEMMA2 = {
    **GEMMA,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
    "final_logit_softcapping": 30.0,
    "attn_logit_softcapping": 50.0,
}
GEMMA3 = {
    **GEMMA2,
    "vocab_size": 262208,
    "max_position_embeddings": 131072,
    "final_logit_softcapping": None,
    "attn_logit_softcapping": None,
}

EMBEDDING = """
token_embd    vocabulary width
output_norm   width
"""

POST_NORMS = """
post_attention_norm  width
post_ffw_norm        width
"""

HEAD_NORMS = """
attn_q_norm  head
attn_k_norm  head
"""

WIDE_LAYERS = {"gemma2": 46, "gemma3": 62}
"""The 27B models: their scale of attention is that of width / heads, not of a head's size."""

WINDOW_EVERY = {"gemma2": 2, "gemma3": 6}
"""Every so many layers attend to everything, the others to the window."""

NO_CAP = 1e6
"""Where Gemma 2 and 3n are to cut nothing off: llama.cpp cuts logits at 30 and attention at 50 by default, and
neither has more than a few digits."""

NOT_TEXT = ("vision_tower.", "multi_modal_projector.")


def check(config: Config) -> None:
    for key in ("hidden_activation", "hidden_act"):
        config.require(key, ("gelu_pytorch_tanh", "gelu"))
    config.require("use_bidirectional_attention", (False,))
    config.require("tie_word_embeddings", (True,))


def check_window(config: Config, kind: str) -> None:
    check(config)
    layers, sizes = n_layers(config), decoder_sizes(config)
    scale = sizes["width"] // sizes["heads"] if layers == WIDE_LAYERS[kind] else sizes["head"]
    if not math.isclose(config.number("query_pre_attn_scalar"), scale):
        raise UnsupportedError(
            f"{config.path} says query_pre_attn_scalar = {config.values['query_pre_attn_scalar']}, "
            f"llama.cpp scales the attention of this model by {scale}",
            "there is no place for it in a GGUF",
        )
    every = WINDOW_EVERY[kind]
    usual = {"layer_types": interleaved(config, every), "sliding_window_pattern": every}
    if any(config.values.get(key) not in (None, value) for key, value in usual.items()):
        raise UnsupportedError(
            f"{config.path} has its sliding window in other layers than llama.cpp assumes",
            f"known is full attention every {every} layers",
        )


def check_gemma2(config: Config) -> None:
    check_window(config, "gemma2")


def check_gemma3(config: Config) -> None:
    check_window(config, "gemma3")
    config.require("attn_logit_softcapping", ())


def final_cap(config: Config) -> float:
    """What the logits are squeezed into, from minus it to it; 0 for nothing."""
    return cap(config, "final_logit_softcapping")


def cap(config: Config, key: str) -> float:
    """What is squeezed into the range from minus it to it; 0 for nothing, of which files say null."""
    return config.number(key) if config.has(key) else 0.0


def metadata(config: Config, writer: gguf.GGUFWriter) -> None:
    sizes = decoder_sizes(config)
    writer.add_context_length(config.integer("max_position_embeddings"))
    writer.add_embedding_length(sizes["width"])
    writer.add_block_count(n_layers(config))
    writer.add_feed_forward_length(sizes["inner"])
    writer.add_head_count(sizes["heads"])
    writer.add_head_count_kv(sizes["kv_heads"])
    writer.add_layer_norm_rms_eps(config.number("rms_norm_eps"))
    writer.add_key_length(sizes["head"])
    writer.add_value_length(sizes["head"])
    file_type(writer)


def gemma1_metadata(config: Config, writer: gguf.GGUFWriter) -> None:
    metadata(config, writer)
    base_if_unusual(config, writer)


def gemma2_metadata(config: Config, writer: gguf.GGUFWriter) -> None:
    metadata(config, writer)
    writer.add_attn_logit_softcapping(cap(config, "attn_logit_softcapping") or NO_CAP)
    writer.add_final_logit_softcapping(final_cap(config) or NO_CAP)
    writer.add_sliding_window(config.integer("sliding_window"))
    base_if_unusual(config, writer)


def gemma3_metadata(config: Config, writer: gguf.GGUFWriter) -> None:
    base_metadata(config, writer)
    writer.add_rope_freq_base(rope(config).number("rope_theta"))
    if final_cap(config):
        writer.add_final_logit_softcapping(final_cap(config))
    writer.add_sliding_window(config.integer("sliding_window"))


def transform(config: Config, tensor: Tensor) -> Iterable[Tensor]:
    yield plus_one(tensor) if tensor.name.endswith("norm.weight") else tensor


def gemma3_name(config: Config, name: str) -> str | None:
    if name.removeprefix("model.").startswith(NOT_TEXT):
        return None
    return without_output(config, name.replace("language_model.", ""))


FAMILIES = (
    Family(
        names={"GemmaForCausalLM": ("google/gemma-2b-it", "google/gemma-7b-it")},
        title="Gemma 1",
        arch=gguf.MODEL_ARCH.GEMMA,
        vocab=gemma_vocabulary,
        defaults=GEMMA,
        rope_parameters=standard(),
        scalings=PLAIN,
        check=check,
        metadata=gemma1_metadata,
        whole=EMBEDDING,
        layer=DECODER,
        kept_name=without_output,
        transform=transform,
    ),
    Family(
        names={"Gemma2ForCausalLM": ("google/gemma-2-2b-it", "google/gemma-2-9b-it", "google/gemma-2-27b-it")},
        title="Gemma 2",
        arch=gguf.MODEL_ARCH.GEMMA2,
        vocab=gemma2_vocabulary,
        defaults=GEMMA2,
        rope_parameters=standard(),
        scalings=PLAIN,
        check=check_gemma2,
        metadata=gemma2_metadata,
        whole=EMBEDDING,
        layer=DECODER + POST_NORMS,
        kept_name=without_output,
        transform=transform,
    ),
    Family(
        names={
            "Gemma3ForCausalLM": ("google/gemma-3-1b-it", "google/gemma-3-270m-it"),
            "Gemma3ForConditionalGeneration": (
                "google/gemma-3-4b-it",
                "google/gemma-3-12b-it",
                "google/gemma-3-27b-it",
            ),
        },
        title="Gemma 3",
        left_out=("images",),
        arch=gguf.MODEL_ARCH.GEMMA3,
        vocab=gemma2_vocabulary,
        defaults=GEMMA3,
        rope_parameters=of_two_bases(("rope_theta", 1e6), ("rope_local_base_freq", 1e4)),
        scalings=SCALED,
        check=check_gemma3,
        metadata=gemma3_metadata,
        whole=EMBEDDING,
        layer=DECODER + POST_NORMS + HEAD_NORMS,
        kept_name=gemma3_name,
        transform=transform,
    ),
)
