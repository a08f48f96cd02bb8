"""Hunyuan, dense and with experts, and the text part of HunyuanOCR.

Source of names and order: llama.cpp's ``conversion/hunyuan.py``; of defaults: transformers' ``HunYuanDenseV1Config``
and ``HunYuanMoEV1Config``. What their files call dynamic scaling is none: a factor ``alpha`` enlarges the base of the
rotation once and for all, whatever the length of a text.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import gguf

from ggufrun.convert.arch import qwenvl
from ggufrun.convert.arch.qwen import EXPERT_STACK, HEAD_NORMS
from ggufrun.convert.arch.shared.family import Family, head_if_null, heads_if_null, without_tied_output
from ggufrun.convert.arch.shared.hyper import base_metadata
from ggufrun.convert.arch.shared.layout import ATTENTION, DECODER, EXPERTS, NORMS, SHARED_EXPERT, Sizes, decoder_sizes
from ggufrun.convert.arch.shared.rope import kind, rope, standard
from ggufrun.convert.arch.shared.text import text_name
from ggufrun.convert.config import Config
from ggufrun.convert.vocab.hunyuan import hunyuan_dense_vocabulary, hunyuan_moe_vocabulary
from ggufrun.errors import FormatError, UnsupportedError

DEFAULTS = {
    "vocab_size": 290943,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": heads_if_null,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
}
DENSE = {**DEFAULTS, "head_dim": head_if_null}
MOE = {**DEFAULTS, "num_experts": 1, "moe_topk": 1}

CONTEXT = 256 * 1024
"""Tokens for which the published values of alpha were chosen."""

TRAINED = (32 * 1024, CONTEXT)
"""What published files say of it."""

MOE_HEAD, MOE_ALPHA = 128, 1000.0
"""The only size of head and alpha of a Hunyuan with experts."""


def check(config: Config) -> None:
    config.require("hidden_act", ("silu",))
    config.require("attention_bias", (False,))
    config.require("mlp_bias", (False,))
    config.require("use_qk_norm", (True,))
    config.require("use_cla", (False,))
    if kind(config) == "dynamic":
        stretched_base(config)
        if config.integer("max_position_embeddings") not in TRAINED:
            raise UnsupportedError(
                f"{config.path} stretches positions by alpha for a context of "
                f"{config.values['max_position_embeddings']} tokens",
                f"alpha is understood for contexts of {' or '.join(map(str, TRAINED))} tokens, as of published models",
            )
        if rope(config).number("rope_theta") != 10000:
            raise UnsupportedError(
                f"{config.path} stretches positions of another base than 10000", "llama.cpp's converter knows none"
            )


def check_moe(config: Config) -> None:
    check(config)
    config.require("moe_layer_num_skipped", (0,))
    config.require("use_mixed_mlp_moe", (True,))
    if uniform(config, "moe_intermediate_size", decoder_sizes(config)["inner"]) != decoder_sizes(config)["inner"]:
        raise UnsupportedError(f"{config.path} has experts of another size than intermediate_size", NO_SUCH)
    if uniform(config, "num_shared_expert", 1) != 1:
        raise UnsupportedError(f"{config.path} has several shared experts", NO_SUCH)
    uniform(config, "moe_topk")
    if kind(config) == "dynamic":
        head = decoder_sizes(config)["head"]
        if head != MOE_HEAD or rope(config).number("alpha") != MOE_ALPHA:
            raise UnsupportedError(
                f"{config.path} stretches positions by {rope(config).values['alpha']} with heads of {head}", NO_SUCH
            )


NO_SUCH = "llama.cpp knows no such model"


def stretched_base(config: Config) -> float:
    """The base of the rotation, enlarged by ``alpha``."""
    head, alpha = decoder_sizes(config)["head"], rope(config).number("alpha")
    if not 0 < alpha <= 1e6 or head < 4:
        raise FormatError(f"{config.path} says alpha = {alpha} of heads of {head}", "correct the file")
    return float(rope(config).number("rope_theta") * (alpha ** (head / (head - 2))))


def uniform(config: Config, key: str, default: int | None = None) -> int:
    """A number that some files give for every layer, always the same."""
    if default is not None and not config.has(key):
        return default
    value = config.values.get(key)
    if not isinstance(value, list):
        return config.integer(key, high=1 << 20)
    if not value or any(item != value[0] for item in value):
        raise UnsupportedError(f"{config.path} says another {key} of every layer", NO_SUCH)
    return Config(config.path, {key: value[0]}).integer(key, high=1 << 20)


def moe_sizes(config: Config) -> Sizes:
    sizes = decoder_sizes(config)
    experts = config.integer(config.first("num_local_experts", "num_experts") or "num_experts", high=65536)
    return {**sizes, "experts": experts, "expert": sizes["inner"], "shared": sizes["inner"]}


def metadata(config: Config, writer: gguf.GGUFWriter) -> None:
    # files of the family that also sees call a dense model one of a single expert
    base_metadata(Config(config.path, {**config.values, "num_experts": None}), writer)
    _positions(config, writer)


def moe_metadata(config: Config, writer: gguf.GGUFWriter) -> None:
    base_metadata(config, writer)
    sizes = moe_sizes(config)
    writer.add_expert_shared_feed_forward_length(sizes["inner"])
    writer.add_expert_feed_forward_length(sizes["expert"])
    writer.add_expert_used_count(uniform(config, "moe_topk"))
    writer.add_expert_shared_count(uniform(config, "num_shared_expert", 1))
    _positions(config, writer)


def _positions(config: Config, writer: gguf.GGUFWriter) -> None:
    if kind(config) == "dynamic":
        writer.add_rope_freq_base(stretched_base(config))
        writer.add_rope_scaling_type(gguf.RopeScalingType.NONE)
        writer.add_rope_scaling_factor(1)
        writer.add_rope_scaling_orig_ctx_len(CONTEXT)
        writer.add_context_length(CONTEXT)


def vl_positions(config: Config) -> dict[str, Any]:
    """Stretched ones, rotated in sections, which go by two names."""
    found = standard()(config)
    sections = found.pop("xdrope_section", None) or found.get("mrope_section")
    if sections and found["rope_type"] in ("xdrope", "dynamic"):
        found |= {"rope_type": "xdrope", "type": "xdrope", "mrope_section": sections}
    return found


def check_vl(config: Config) -> None:
    check(config)
    qwenvl.check_sections(config)
    stretched_base(config)


def vl_metadata(config: Config, writer: gguf.GGUFWriter) -> None:
    """The base as it is, and ``alpha`` beside it: llama.cpp enlarges it itself."""
    metadata(config, writer)
    found, context = rope(config), config.integer("max_position_embeddings")
    writer.add_rope_scaling_type(gguf.RopeScalingType.NONE)
    writer.add_rope_scaling_factor(found.number("factor") if found.has("factor") else 1.0)
    writer.add_rope_scaling_alpha(found.number("alpha"))
    writer.add_rope_scaling_orig_ctx_len(context)


def vl_name(config: Config, name: str) -> str | None:
    text = text_name(config, name)
    return text and without_tied_output(config, text)


DENSE_FAMILY = Family(
    names={"HunYuanDenseV1ForCausalLM": ("tencent/Hunyuan-7B-Instruct", "tencent/Hunyuan-0.5B-Instruct")},
    title="Hunyuan",
    arch=gguf.MODEL_ARCH.HUNYUAN_DENSE,
    vocab=hunyuan_dense_vocabulary,
    defaults=DENSE,
    rope_parameters=standard(),
    check=check,
    metadata=metadata,
    layer=DECODER + HEAD_NORMS,
    kept_name=without_tied_output,
)

FAMILIES = (
    DENSE_FAMILY,
    replace(
        DENSE_FAMILY,
        names={"HunYuanVLForConditionalGeneration": ("tencent/HunyuanOCR",)},
        title="HunyuanOCR",
        left_out=("images",),
        arch=gguf.MODEL_ARCH.HUNYUAN_VL,
        rope_parameters=vl_positions,
        scalings=("xdrope",),
        sections=True,
        check=check_vl,
        metadata=vl_metadata,
        kept_name=vl_name,
    ),
    Family(
        names={"HunYuanMoEV1ForCausalLM": ("tencent/Hunyuan-A13B-Instruct",)},
        title="Hunyuan, mixtures",
        arch=gguf.MODEL_ARCH.HUNYUAN_MOE,
        vocab=hunyuan_moe_vocabulary,
        defaults=MOE,
        rope_parameters=standard(),
        check=check_moe,
        metadata=moe_metadata,
        sizes=moe_sizes,
        layer=NORMS + ATTENTION + HEAD_NORMS + EXPERTS + SHARED_EXPERT,
        kept_name=without_tied_output,
        stacks=(EXPERT_STACK,),
    ),
)
