"""DeepSeek V3.2 and GLM-5: latent attention to those tokens only that an indexer of its own small heads chooses.

Source of names and order: ``DeepseekV32Model`` in llama.cpp's ``conversion/deepseek.py`` and ``GlmMoeDsaModel`` in its
``glm.py``; of defaults: transformers' ``DeepseekV32Config`` and ``GlmMoeDsaConfig``. The layers after the last, which
predict further tokens, are kept. A shared layer of GLM-5 attends to what the indexer before it chose.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import gguf

from ggufrun.checkpoint.tensor import Tensor
from ggufrun.convert.arch import deepseek
from ggufrun.convert.arch.shared.family import Family
from ggufrun.convert.arch.shared.latent import split_expansion
from ggufrun.convert.arch.shared.layout import PREDICTOR, Sizes, n_layers
from ggufrun.convert.arch.shared.next_tokens import ahead_metadata, layers_ahead, placed
from ggufrun.convert.arch.shared.rope import partial_factor
from ggufrun.convert.config import Config
from ggufrun.convert.transforms import renamed
from ggufrun.convert.vocab.glm import glm4_moe_vocabulary
from ggufrun.convert.vocab.readers import bpe_vocabulary
from ggufrun.errors import FormatError, UnsupportedError

DEEPSEEK = {
    **deepseek.V3,
    "max_position_embeddings": 163840,
    "index_topk": 2048,
    "index_head_dim": 128,
    "index_n_heads": 64,
}
GLM = {
    **DEEPSEEK,
    "vocab_size": 154880,
    "hidden_size": 6144,
    "intermediate_size": 12288,
    "num_hidden_layers": 78,
    "num_attention_heads": 64,
    "max_position_embeddings": 202752,
    "rms_norm_eps": 1e-5,
    "q_lora_rank": 2048,
    "qk_nope_head_dim": 192,
    "v_head_dim": 256,
    "n_group": 1,
    "topk_group": 1,
    "index_n_heads": 32,
    "indexer_types": lambda config: usual_indexers(config),
}

INDEXER = """
indexer.attn_q_b     indexer_queries q_rank
indexer.attn_k       indexer_head width
indexer.k_norm       indexer_head
indexer.k_norm.bias  indexer_head
indexer.proj         indexer_heads width
"""
NO_INDEXER = re.sub(r"(?m)^(\S+)", r"\1?", INDEXER)
"""A sound checkpoint may have one that is never asked."""

HEAD_MULTIPLE = 64
"""llama.cpp turns the indexer's vectors by matrices of this size or a power of two above it."""

OWN, SHARED = "full", "shared"
"""Layers with an indexer of their own, and those that use the one before them."""


def usual_indexers(config: Config) -> list[str]:
    """As transformers has it: from a pattern of letters, or every so many layers after the first ones."""
    pattern = config.values.get("index_topk_pattern")
    if pattern is not None:
        letters: list[Any] = list(pattern) if isinstance(pattern, str | list) else []
        return [{"F": OWN, "S": SHARED}.get(letter, letter) for letter in letters if isinstance(letter, str)]
    every, first = (
        config.integer(key, low=0) if config.has(key) else default
        for key, default in (("index_topk_freq", 1), ("index_skip_topk_offset", 2))
    )
    return [SHARED if max(layer - first + 1, 0) % max(every, 1) else OWN for layer in range(n_layers(config))]


def check(config: Config) -> None:
    deepseek.check(config)
    config.require("topk_method", ("noaux_tc",))
    config.require("rope_interleave", (True,))
    config.integer("q_lora_rank")
    found = sizes(config)
    if found["indexer_head"] % HEAD_MULTIPLE or config.integer("qk_rope_head_dim") > found["indexer_head"]:
        raise UnsupportedError(
            f"{config.path} says index_head_dim = {found['indexer_head']}",
            f"llama.cpp wants a multiple of {HEAD_MULTIPLE} that is not below qk_rope_head_dim",
        )


def check_glm(config: Config) -> None:
    check(config)
    found = config.values["indexer_types"]
    known = isinstance(found, list) and len(found) == n_layers(config) and set(map(str, found)) <= {OWN, SHARED}
    if not known or found[0] != OWN:
        raise FormatError(f"{config.path} has indexer_types that do not describe its layers", "correct the file")


def sizes(config: Config) -> Sizes:
    heads, head = config.integer("index_n_heads", high=65536), config.integer("index_head_dim", high=65536)
    return {**deepseek.v2_sizes(config), "indexer_heads": heads, "indexer_head": head, "indexer_queries": heads * head}


def layer(config: Config, number: int) -> str:
    types = config.values.get("indexer_types")
    has_own = not isinstance(types, list) or types[number : number + 1] == [OWN]
    indexer = INDEXER if has_own else NO_INDEXER
    return deepseek.v3_layer(config, number) + indexer + (PREDICTOR if number >= n_layers(config) else "")


def metadata(config: Config, writer: gguf.GGUFWriter) -> None:
    deepseek.v2_metadata(config, writer)
    ahead_metadata(config, writer)
    writer.add_indexer_head_count(config.integer("index_n_heads"))
    writer.add_indexer_key_length(config.integer("index_head_dim"))
    writer.add_indexer_top_k(config.integer("index_topk"))


def glm_metadata(config: Config, writer: gguf.GGUFWriter) -> None:
    metadata(config, writer)
    writer.add_rope_dimension_count(int(config.integer("qk_rope_head_dim") * partial_factor(config, default=1.0)))
    writer.add_array(f"{writer.arch}.attention.indexer.types", [kind == OWN for kind in config.values["indexer_types"]])


def transform(config: Config, tensor: Tensor) -> Iterable[Tensor]:
    if tensor.name.endswith(".e_score_correction_bias"):
        tensor = renamed(tensor, f"{tensor.name.removesuffix('_bias')}.bias")
    return split_expansion(config, placed(config, tensor))


V32 = replace(
    deepseek.V2_FAMILY,
    names={"DeepseekV32ForCausalLM": ("deepseek-ai/DeepSeek-V3.2",)},
    title="DeepSeek-V3.2",
    # the published package does not know the name, and the other family has the same tensors
    arch=gguf.MODEL_ARCH.GLM_DSA,
    arch_name="deepseek32",
    vocab=bpe_vocabulary,
    defaults=DEEPSEEK,
    check=check,
    metadata=metadata,
    sizes=sizes,
    layer=layer,
    transform=transform,
    ahead=layers_ahead,
)

FAMILIES: tuple[Family, ...] = (
    V32,
    replace(
        V32,
        names={"GlmMoeDsaForCausalLM": ("zai-org/GLM-5",)},
        title="GLM-5",
        arch_name="",
        vocab=glm4_moe_vocabulary,
        defaults=GLM,
        check=check_glm,
        metadata=glm_metadata,
    ),
)
