"""Granite 4: layers of Mamba 2 with attention in some, or attention in all, dense or with experts.

Source of names and order: ``GraniteHybridModel`` in llama.cpp's ``conversion/granite.py`` and ``Mamba2Model`` in its
``mamba.py``; of defaults: transformers' ``GraniteMoeHybridConfig``. Without a layer of Mamba the GGUF is that of an
older Granite.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import gguf

from ggufrun.checkpoint.tensor import Tensor
from ggufrun.convert.arch import granite, llama
from ggufrun.convert.arch.shared.family import Family
from ggufrun.convert.arch.shared.layer_types import layer_types
from ggufrun.convert.arch.shared.layout import ATTENTION, EXPERTS, GATED, NORMS, SHARED_EXPERT, Sizes
from ggufrun.convert.arch.shared.mamba2 import MAMBA, NORM, check_heads, mamba_heads, mamba_parts, mamba_sizes
from ggufrun.convert.config import Config
from ggufrun.convert.transforms import renamed, split_rows
from ggufrun.convert.vocab.readers import bpe_vocabulary
from ggufrun.errors import UnsupportedError

MAMBA_LAYER, ATTENTION_LAYER = "mamba", "attention"
TODAYS_NAMES = {"linear_attention": MAMBA_LAYER, "full_attention": ATTENTION_LAYER}
"""What transformers 5 calls these layers when it saves a checkpoint."""

DEFAULTS = {
    **granite.MOE,
    "shared_intermediate_size": 1024,
    "mamba_n_heads": 128,
    "mamba_n_groups": lambda config: 1,
    "mamba_d_state": lambda config: 256,
    "mamba_d_head": lambda config: expand(config) * config.integer("hidden_size") // mamba_heads(config),
    "mamba_d_conv": lambda config: 4,
    "mamba_expand": 2,
}

CONTEXT = 1 << 20
"""Tokens that a model without positions can attend to: any number."""


def expand(config: Config) -> int:
    return config.integer("mamba_expand", high=65536)


def kinds(config: Config) -> list[str]:
    """What every layer is."""
    found = config.values.get("layer_types")
    if isinstance(found, list) and all(isinstance(kind, str) for kind in found):
        found = [TODAYS_NAMES.get(kind, kind) for kind in found]
    return layer_types(Config(config.path, {**config.values, "layer_types": found}), (MAMBA_LAYER, ATTENTION_LAYER))


def rotates(config: Config) -> bool:
    """Whether positions turn queries and keys; without a word of it, they do not."""
    return config.values.get("position_embedding_type") == "rope"


def has_mamba(config: Config) -> bool:
    return MAMBA_LAYER in kinds(config)


def n_experts(config: Config) -> int:
    return config.integer("num_local_experts", low=0, high=65536)


def check(config: Config) -> None:
    llama.check(config)
    config.require("attention_bias", (False,))
    config.require("normalization_function", ("rmsnorm",))
    config.require("position_embedding_type", ("rope", "nope"))
    found = sizes(config)
    if has_mamba(config):
        config.require("mamba_conv_bias", (True,))
        config.require("mamba_proj_bias", (False,))
        config.require("mamba_expand", (2,))
        check_heads(config, found)
    if not n_experts(config) and granite.shared_size(config) != found["inner"]:
        raise UnsupportedError(
            f"{config.path} has a gated layer of {granite.shared_size(config)} and says intermediate_size = "
            f"{found['inner']}",
            "llama.cpp knows one size of a model without experts",
        )


def sizes(config: Config) -> Sizes:
    found = granite.sizes(config)
    return {
        **found,
        **mamba_sizes(config, expand(config) * found["width"]),
        "experts": n_experts(config),
        "expert": found["inner"],
        "shared": granite.shared_size(config),
    }


def layer(config: Config, number: int) -> str:
    table = NORMS + (MAMBA + NORM if kinds(config)[number] == MAMBA_LAYER else ATTENTION)
    if not n_experts(config):
        return table + GATED
    return table + EXPERTS + (SHARED_EXPERT if granite.shared_size(config) else "")


def metadata(config: Config, writer: gguf.GGUFWriter) -> None:
    found = sizes(config)
    granite.moe_metadata(config, writer)
    writer.add_ssm_conv_kernel(found["kernel"])
    writer.add_ssm_state_size(found["state"])
    writer.add_ssm_group_count(found["groups"])
    writer.add_ssm_inner_size(found["mamba_inner"])
    writer.add_ssm_time_step_rank(found["mamba_heads"])
    writer.add_head_count_kv([found["kv_heads"] if kind == ATTENTION_LAYER else 0 for kind in kinds(config)])
    # llama.cpp's switch for it
    writer.add_rope_scaling_finetuned(rotates(config))
    if not rotates(config):
        writer.add_context_length(CONTEXT)


def transform(config: Config, tensor: Tensor) -> Iterable[Tensor]:
    found = sizes(config)
    if ".mamba." in tensor.name:
        yield from mamba_parts(tensor, found)
    elif found["experts"] or ".shared_mlp." not in tensor.name:
        yield from granite.moe_transform(config, tensor)
    else:
        yield from _gated(tensor, found["inner"])


def _gated(tensor: Tensor, inner: int) -> Iterable[Tensor]:
    """Without experts, what is shared is all there is."""
    block = tensor.name.split(".layers.")[-1].split(".")[0]
    if tensor.name.endswith(".input_linear.weight"):
        yield from split_rows(tensor, *((f"blk.{block}.ffn_{part}.weight", inner) for part in ("gate", "up")))
    else:
        yield renamed(tensor, f"blk.{block}.ffn_down.weight")


def chosen(config: Config) -> Family:
    """The kind of GGUF: without Mamba that of a Granite with or without experts."""
    values = config.values
    if values.get("layer_types") is None or has_mamba(config):
        return HYBRID
    with_experts = values.get("num_experts_per_tok") or values.get("num_experts_per_token")
    return replace(HYBRID, arch=gguf.MODEL_ARCH.GRANITE_MOE if with_experts else gguf.MODEL_ARCH.GRANITE)


HYBRID = replace(
    llama.LLAMA,
    names={
        "GraniteMoeHybridForCausalLM": (
            "ibm-granite/granite-4.0-h-tiny",
            "ibm-granite/granite-4.0-h-350m",
            "ibm-granite/granite-4.0-micro",
        ),
    },
    title="Granite 4",
    arch=gguf.MODEL_ARCH.GRANITE_HYBRID,
    vocab=bpe_vocabulary,
    defaults=DEFAULTS,
    check=check,
    metadata=metadata,
    sizes=sizes,
    layer=layer,
    transform=transform,
    chosen=chosen,
)

FAMILIES = (HYBRID,)
