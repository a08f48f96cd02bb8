"""OLMo 2 and 3, and OLMoE.

Source of names and order: llama.cpp's ``conversion/olmo.py``; of defaults: transformers' ``Olmo2Config``,
``Olmo3Config`` and ``OlmoeConfig``.
"""

from __future__ import annotations

import gguf

from ggufrun.convert.arch import qwen
from ggufrun.convert.arch.shared.family import Family, heads_if_null
from ggufrun.convert.arch.shared.hyper import base_metadata
from ggufrun.convert.arch.shared.layer_types import WINDOW, interleaved, layer_types, window_metadata
from ggufrun.convert.arch.shared.layout import ATTENTION, EXPERTS, GATED, Sizes, decoder_sizes
from ggufrun.convert.arch.shared.layout import NORMS as PRE_NORMS
from ggufrun.convert.arch.shared.rope import of_two_bases, standard
from ggufrun.convert.config import Config
from ggufrun.convert.vocab.readers import bpe_vocabulary
from ggufrun.errors import UnsupportedError

DEFAULTS = {
    "vocab_size": 50304,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": heads_if_null,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
}

WIDE_NORMS = """
attn_q_norm          queries
attn_k_norm          keys
"""
NORMS = f"""{WIDE_NORMS}
post_attention_norm  width
post_ffw_norm        width
"""


def check(config: Config) -> None:
    config.require("hidden_act", ("silu",))
    config.require("attention_bias", (False,))
    # a checkpoint with a window is an OLMo 3
    config.require("sliding_window", ())


def usual_layers(config: Config) -> list[str]:
    """Every fourth layer attends to everything."""
    return interleaved(config, 4)


OLMO3 = {**DEFAULTS, "sliding_window": 4096, "layer_types": usual_layers}


def check_olmo3(config: Config) -> None:
    config.require("hidden_act", ("silu",))
    config.require("attention_bias", (False,))
    if WINDOW not in layer_types(config):
        # llama.cpp would abort: it takes a window for one that some layer has
        raise UnsupportedError(
            f"{config.path} has a sliding window in no layer", "remove sliding_window: OLMo 2 has none"
        )


def olmo3_metadata(config: Config, writer: gguf.GGUFWriter) -> None:
    base_metadata(config, writer)
    window_metadata(config, writer)


OLMOE = {
    **DEFAULTS,
    "hidden_size": 2048,
    "intermediate_size": 2048,
    "num_hidden_layers": 16,
    "num_attention_heads": 16,
    "max_position_embeddings": 4096,
    "num_experts_per_tok": 8,
    "num_experts": 64,
    "norm_topk_prob": False,
}


def check_olmoe(config: Config) -> None:
    config.require("hidden_act", ("silu",))
    config.require("attention_bias", (False,))
    config.require("clip_qkv", ())
    config.require("norm_topk_prob", (False,))
    found = decoder_sizes(config)
    if found["keys"] != found["width"] or found["queries"] != found["width"]:
        raise UnsupportedError(
            f"{config.path} has fewer heads of keys than of queries, or of another size",
            "llama.cpp knows no such OLMoE",
        )


def olmoe_sizes(config: Config) -> Sizes:
    found = decoder_sizes(config)
    return {**found, "experts": qwen.n_experts(config), "expert": found["inner"]}


FAMILIES = (
    Family(
        names={"Olmo2ForCausalLM": ("allenai/OLMo-2-1124-7B-Instruct",)},
        title="OLMo 2",
        arch=gguf.MODEL_ARCH.OLMO2,
        vocab=bpe_vocabulary,
        defaults=DEFAULTS,
        rope_parameters=standard(),
        check=check,
        layer=ATTENTION + NORMS + GATED,
        tied=False,
    ),
    Family(
        names={"Olmo3ForCausalLM": ("allenai/Olmo-3-7B-Instruct",)},
        title="OLMo 3",
        arch=gguf.MODEL_ARCH.OLMO2,
        vocab=bpe_vocabulary,
        defaults=OLMO3,
        rope_parameters=of_two_bases(("rope_theta", 5e5), ("rope_theta", 5e5)),
        check=check_olmo3,
        metadata=olmo3_metadata,
        layer=ATTENTION + NORMS + GATED,
        tied=False,
    ),
    Family(
        names={"OlmoeForCausalLM": ("allenai/OLMoE-1B-7B-0924-Instruct",)},
        title="OLMoE",
        arch=gguf.MODEL_ARCH.OLMOE,
        vocab=bpe_vocabulary,
        defaults=OLMOE,
        rope_parameters=standard(),
        check=check_olmoe,
        sizes=olmoe_sizes,
        layer=PRE_NORMS + ATTENTION + WIDE_NORMS + EXPERTS,
        tied=False,
        stacks=(qwen.EXPERT_STACK,),
    ),
)
