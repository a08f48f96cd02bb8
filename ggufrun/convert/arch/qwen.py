"""Qwen 1, 2, 2.5 and 3, dense and with experts.

Source of names and order: llama.cpp's ``conversion/qwen.py``; of defaults: transformers' ``Qwen2Config``,
``Qwen2MoeConfig``, ``Qwen3Config`` and ``Qwen3MoeConfig``. Qwen 1 (``QWenLMHeadModel``) is remote code; its names and
sizes are those of the published checkpoints.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import gguf

from ggufrun.checkpoint.tensor import Tensor
from ggufrun.convert.arch.qwenreranker import is_reranker, reranker
from ggufrun.convert.arch.shared.experts import halves
from ggufrun.convert.arch.shared.family import Family, Stack, heads_if_null
from ggufrun.convert.arch.shared.hyper import base_metadata
from ggufrun.convert.arch.shared.layout import (
    ATTENTION,
    DECODER,
    EXPERTS,
    NORMS,
    SHARED_EXPERT,
    WHOLE,
    Sizes,
    decoder_sizes,
)
from ggufrun.convert.arch.shared.pooling import pooling_metadata
from ggufrun.convert.arch.shared.rope import standard
from ggufrun.convert.config import Config
from ggufrun.convert.transforms import renamed
from ggufrun.convert.vocab.readers import bpe_vocabulary, qwen_vocabulary
from ggufrun.errors import FormatError, UnsupportedError

QWEN2 = {
    "vocab_size": 151936,
    "hidden_size": 4096,
    "intermediate_size": 22016,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
}
MOE = {
    **QWEN2,
    "hidden_size": 2048,
    "num_hidden_layers": 24,
    "mlp_only_layers": [],
    "decoder_sparse_step": 1,
    "norm_topk_prob": False,
}
QWEN2_MOE = {
    **MOE,
    "intermediate_size": 5632,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "moe_intermediate_size": 1408,
    "shared_expert_intermediate_size": 5632,
    "num_experts_per_tok": 4,
    "num_experts": 60,
}
QWEN3_MOE = {
    **MOE,
    "intermediate_size": 6144,
    "num_key_value_heads": 4,
    "moe_intermediate_size": 768,
    "num_experts_per_tok": 8,
    "num_experts": 128,
}

HEAD_NORMS = """
attn_q_norm  head
attn_k_norm  head
"""

FUSED = """
attn_norm      width
attn_qkv       qkv width
attn_qkv.bias  qkv
attn_output    width width
ffn_norm       width
ffn_gate       inner width
ffn_up         inner width
ffn_down       width inner
"""


def metadata(config: Config, writer: gguf.GGUFWriter) -> None:
    base_metadata(config, writer)
    pooling_metadata(config, writer)


def check(config: Config) -> None:
    """Qwen 2 and 3: a sliding window in some layers cannot be told, but few checkpoints use the one they mention."""
    config.require("hidden_act", ("silu",))
    window = config.optional_integer("sliding_window")
    if not config.values.get("use_sliding_window") or window is None:
        return
    layers = config.integer("num_hidden_layers")
    full = config.integer("max_window_layers", low=0) if config.has("max_window_layers") else 28
    if full < layers and window < config.integer("max_position_embeddings"):
        raise UnsupportedError(
            f"{config.path} attends to {window} tokens in some layers, which llama.cpp does not know of this model",
            "set use_sliding_window to false for contexts within the window",
        )


def check_moe(config: Config) -> None:
    check(config)
    config.require("decoder_sparse_step", (1,))
    if config.values.get("mlp_only_layers"):
        raise UnsupportedError(f"{config.path} has layers without experts", "llama.cpp knows no such model")


def check_qwen2_moe(config: Config) -> None:
    check_moe(config)
    config.require("norm_topk_prob", (False,))


def check_qwen3_moe(config: Config) -> None:
    check_moe(config)
    config.require("norm_topk_prob", (True,))


def check_qwen1(config: Config) -> None:
    sizes = qwen1_sizes(config)
    config.require("no_bias", (True,))
    if sizes["queries"] != sizes["width"]:
        raise FormatError(
            f"{config.path} says {sizes['heads']} heads of {sizes['head']} in a width of {sizes['width']}",
            "correct the file",
        )


def qwen1_sizes(config: Config) -> Sizes:
    """Qwen 1 counts both halves of its gated layer as intermediate size."""
    sizes = decoder_sizes(config)
    if config.has("kv_channels"):
        sizes["queries"] = config.integer("kv_channels") * sizes["heads"]
    return {**sizes, "inner": sizes["inner"] // 2, "qkv": 3 * sizes["width"]}


def moe_sizes(config: Config) -> Sizes:
    sizes = decoder_sizes(config)
    return sizes | {"experts": n_experts(config), "expert": config.integer("moe_intermediate_size")}


def qwen2_moe_sizes(config: Config) -> Sizes:
    return moe_sizes(config) | {"shared": config.integer("shared_expert_intermediate_size")}


def n_experts(config: Config) -> int:
    return config.integer(config.first("num_local_experts", "num_experts") or "num_experts", high=65536)


def qwen1_metadata(config: Config, writer: gguf.GGUFWriter) -> None:
    """llama.cpp reads the epsilon as that of an RMS norm, which the pinned release's converter does not write."""
    base_metadata(config, writer)
    writer.add_layer_norm_rms_eps(config.number("layer_norm_epsilon"))


def moe_metadata(config: Config, writer: gguf.GGUFWriter) -> None:
    base_metadata(config, writer)
    writer.add_expert_feed_forward_length(config.integer("moe_intermediate_size"))
    if config.has("shared_expert_intermediate_size"):
        # 0 in Qwen3-Coder, which has no shared experts
        writer.add_expert_shared_feed_forward_length(config.integer("shared_expert_intermediate_size", low=0))


def split_experts(config: Config, tensor: Tensor) -> Iterable[Tensor]:
    """Experts that are stored together already, gate over up, as transformers 5 keeps them in memory."""
    stem, found, _ = tensor.name.removesuffix(".weight").partition(".experts.gate_up_proj")
    if found:
        sizes = moe_sizes(config)
        yield from halves(tensor, stem, sizes["experts"], sizes["expert"])
    elif tensor.name.endswith(".experts.down_proj"):
        yield renamed(tensor, f"{tensor.name}.weight")
    else:
        yield tensor


EXPERT_STACK = Stack(
    r"model\.layers\.(?P<layer>\d+)\.mlp\.experts\.(?P<number>\d+)\.(?P<part>down_proj|gate_proj|up_proj)\.weight",
    ("down_proj", "gate_proj", "up_proj"),
    "model.layers.{layer}.mlp.experts.{part}.weight",
    n_experts,
)

QWEN3 = Family(
    names={
        "Qwen3ForCausalLM": (
            "Qwen/Qwen3-0.6B",
            "Qwen/Qwen3-8B",
            "Qwen/Qwen3-Embedding-0.6B",
            "Qwen/Qwen3-Reranker-0.6B",
        )
    },
    title="Qwen 3",
    arch=gguf.MODEL_ARCH.QWEN3,
    metadata=metadata,
    defaults=QWEN2 | {"num_key_value_heads": heads_if_null, "head_dim": 128},
    rope_parameters=standard(),
    check=check,
    layer=DECODER + HEAD_NORMS,
)

FAMILIES = (
    Family(
        names={"QWenLMHeadModel": ("Qwen/Qwen-7B-Chat",)},
        title="Qwen 1",
        arch=gguf.MODEL_ARCH.QWEN,
        vocab=qwen_vocabulary,
        check=check_qwen1,
        metadata=qwen1_metadata,
        sizes=qwen1_sizes,
        layer=FUSED,
        tied=False,
    ),
    Family(
        names={
            "Qwen2ForCausalLM": (
                "Qwen/Qwen2.5-0.5B-Instruct",
                "Qwen/Qwen2.5-7B-Instruct",
                "Qwen/Qwen1.5-7B-Chat",
                "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B",
            ),
        },
        title="Qwen 1.5, 2, 2.5, QwQ",
        arch=gguf.MODEL_ARCH.QWEN2,
        metadata=metadata,
        defaults=QWEN2 | {"num_key_value_heads": heads_if_null},
        rope_parameters=standard(),
        check=check,
        whole=WHOLE + "output.bias?  vocabulary\n",
    ),
    Family(
        names={"Qwen2MoeForCausalLM": ("Qwen/Qwen1.5-MoE-A2.7B-Chat", "Qwen/Qwen2-57B-A14B-Instruct")},
        title="Qwen 1.5 and 2, mixtures",
        arch=gguf.MODEL_ARCH.QWEN2MOE,
        vocab=bpe_vocabulary,
        defaults=QWEN2_MOE,
        rope_parameters=standard(),
        check=check_qwen2_moe,
        metadata=moe_metadata,
        sizes=qwen2_moe_sizes,
        layer=NORMS + ATTENTION + EXPERTS + SHARED_EXPERT + "ffn_gate_inp_shexp  1 width\n",
        tied=False,
        transform=split_experts,
        stacks=(EXPERT_STACK,),
    ),
    replace(QWEN3, chosen=lambda config: reranker(QWEN3) if is_reranker(config) else QWEN3),
    Family(
        names={"Qwen3MoeForCausalLM": ("Qwen/Qwen3-30B-A3B", "Qwen/Qwen3-Coder-480B-A35B-Instruct")},
        title="Qwen 3, mixtures",
        arch=gguf.MODEL_ARCH.QWEN3MOE,
        vocab=bpe_vocabulary,
        defaults=QWEN3_MOE,
        rope_parameters=standard(),
        check=check_qwen3_moe,
        metadata=moe_metadata,
        sizes=moe_sizes,
        layer=NORMS + ATTENTION + HEAD_NORMS + EXPERTS,
        transform=split_experts,
        stacks=(EXPERT_STACK,),
    ),
)
