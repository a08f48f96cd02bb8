"""ChatGLM 2 and 3, GLM-4 in its three forms: remote code (ChatGLMModel), GlmForCausalLM and Glm4ForCausalLM (0414).

Source of names and order: llama.cpp's ``conversion/chatglm.py`` and ``conversion/glm.py``; of defaults: transformers'
``GlmConfig`` and ``Glm4Config``, and for the remote code the published checkpoints.
"""

from __future__ import annotations

import gguf

from ggufrun.convert.arch.shared.family import Family
from ggufrun.convert.arch.shared.hyper import base_metadata, file_type
from ggufrun.convert.arch.shared.layout import ATTENTION, NORMS, Sizes, decoder_sizes, n_layers
from ggufrun.convert.arch.shared.rope import PLAIN, partial_factor, rope, standard
from ggufrun.convert.config import Config
from ggufrun.convert.vocab.glm import chatglm_vocabulary, glm4_vocabulary
from ggufrun.errors import UnsupportedError

GLM = {
    "vocab_size": 151552,
    "hidden_size": 4096,
    "intermediate_size": 13696,
    "num_hidden_layers": 40,
    "num_attention_heads": 32,
    "num_key_value_heads": 2,
    "head_dim": 128,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1.5625e-07,
    "tie_word_embeddings": False,
    "attention_bias": True,
}

CHATGLM = """
attn_norm       width
attn_qkv        qkv width
attn_qkv.bias?  qkv
attn_output     width queries
ffn_norm        width
ffn_up          both width
ffn_down        width inner
"""

FUSED_GATE = """
ffn_up          both width
ffn_down        width inner
"""

POST_NORMS = """
post_attention_norm  width
post_ffw_norm        width
"""


def chatglm_sizes(config: Config) -> Sizes:
    width, n_head = config.integer("hidden_size"), config.integer("num_attention_heads", high=65536)
    n_head_kv = config.integer("multi_query_group_num", high=65536) if config.has("multi_query_group_num") else n_head
    inner, head = config.integer("ffn_hidden_size"), width // n_head
    return {
        "width": width,
        "inner": inner,
        "both": 2 * inner,
        "vocabulary": config.integer(config.first("padded_vocab_size", "vocab_size") or "padded_vocab_size"),
        "heads": n_head,
        "kv_heads": n_head_kv,
        "queries": n_head * head,
        "qkv": (n_head + 2 * n_head_kv) * head,
        "head": head,
    }


def glm_sizes(config: Config) -> Sizes:
    sizes = decoder_sizes(config)
    return {**sizes, "both": 2 * sizes["inner"]}


def check_chatglm(config: Config) -> None:
    for key, allowed in (
        ("rmsnorm", True),
        ("add_bias_linear", False),
        ("original_rope", True),
        ("post_layer_norm", True),
        ("apply_residual_connection_post_layernorm", False),
        ("rope_theta", 10000),
    ):
        config.require(key, (allowed,))
    if config.has("kv_channels") and config.integer("kv_channels") != chatglm_sizes(config)["head"]:
        raise UnsupportedError(f"{config.path} has heads of another size than width / heads", "llama.cpp knows none")


def chatglm_metadata(config: Config, writer: gguf.GGUFWriter) -> None:
    sizes = chatglm_sizes(config)
    writer.add_context_length(config.integer("seq_length") if config.has("seq_length") else sizes["width"])
    writer.add_embedding_length(sizes["width"])
    writer.add_feed_forward_length(sizes["inner"])
    writer.add_block_count(n_layers(config))
    writer.add_head_count(sizes["heads"])
    writer.add_head_count_kv(sizes["kv_heads"])
    writer.add_layer_norm_rms_eps(config.number("layernorm_epsilon") if config.has("layernorm_epsilon") else 1e-5)
    file_type(writer)
    rotated = config.integer("attention_dim") if config.has("attention_dim") else sizes["head"]
    writer.add_rope_dimension_count(int(rotated * partial_factor(config, default=0.5)))
    writer.add_add_bos_token(False)
    writer.add_rope_freq_base(10000 * (config.number("rope_ratio") if config.has("rope_ratio") else 1))


def chatglm_name(config: Config, name: str) -> str | None:
    return None if name.endswith("rotary_pos_emb.inv_freq") else name.removeprefix("transformer.")


def check_glm(config: Config) -> None:
    config.require("hidden_act", ("silu",))
    sizes = glm_sizes(config)
    if config.architectures[0] == "GlmForCausalLM" and sizes["queries"] != sizes["width"]:
        raise UnsupportedError(f"{config.path} has heads of another size than width / heads", "llama.cpp knows none")


def glm_metadata(config: Config, writer: gguf.GGUFWriter) -> None:
    """As ``chatglm_metadata``, where llama.cpp's converter overlooks the keys of transformers: it takes the width for
    the context length and another epsilon."""
    sizes = glm_sizes(config)
    writer.add_context_length(config.integer("max_position_embeddings"))
    writer.add_embedding_length(sizes["width"])
    writer.add_feed_forward_length(sizes["inner"])
    writer.add_block_count(n_layers(config))
    writer.add_head_count(sizes["heads"])
    writer.add_head_count_kv(sizes["kv_heads"])
    writer.add_layer_norm_rms_eps(config.number("rms_norm_eps"))
    file_type(writer)
    writer.add_rope_dimension_count(int(sizes["head"] * partial_factor(config, default=0.5)))
    writer.add_add_bos_token(False)
    writer.add_rope_freq_base(rope(config).number("rope_theta"))


def glm4_metadata(config: Config, writer: gguf.GGUFWriter) -> None:
    base_metadata(config, writer)
    writer.add_rope_dimension_count(int(decoder_sizes(config)["head"] * partial_factor(config, default=0.5)))


GLM4_FAMILY = Family(
    names={"Glm4ForCausalLM": ("THUDM/GLM-4-9B-0414", "THUDM/GLM-4-32B-0414")},
    title="GLM-4-0414, GLM-Z1",
    arch=gguf.MODEL_ARCH.GLM4,
    vocab=glm4_vocabulary,
    defaults=GLM,
    rope_parameters=standard(partial=0.5),
    check=check_glm,
    metadata=glm4_metadata,
    sizes=glm_sizes,
    layer=NORMS + ATTENTION + FUSED_GATE + POST_NORMS,
)

FAMILIES = (
    Family(
        names={
            "ChatGLMModel": ("THUDM/chatglm3-6b", "THUDM/glm-4-9b-chat"),
            "ChatGLMForConditionalGeneration": ("THUDM/codegeex4-all-9b",),
        },
        title="ChatGLM2, ChatGLM3, GLM-4",
        arch=gguf.MODEL_ARCH.CHATGLM,
        vocab=chatglm_vocabulary,
        scalings=PLAIN,
        check=check_chatglm,
        metadata=chatglm_metadata,
        sizes=chatglm_sizes,
        layer=CHATGLM,
        kept_name=chatglm_name,
    ),
    Family(
        names={"GlmForCausalLM": ("THUDM/glm-4-9b-chat-hf", "THUDM/glm-edge-1.5b-chat")},
        title="GLM-4 as transformers has it",
        arch=gguf.MODEL_ARCH.CHATGLM,
        vocab=chatglm_vocabulary,
        defaults=GLM,
        rope_parameters=standard(partial=0.5),
        scalings=PLAIN,
        check=check_glm,
        metadata=glm_metadata,
        sizes=glm_sizes,
        layer=NORMS + ATTENTION + FUSED_GATE,
    ),
    GLM4_FAMILY,
)
