"""Gemma 4, dense and with experts, with and without an embedding for every layer.

Source of names and order: ``Gemma4Model`` in llama.cpp's ``conversion/gemma.py``; of defaults: transformers'
``Gemma4TextConfig``. Layers that attend to everything have heads of another size than those with a window, may use
their keys as values, and rotate a part of a head that is spread over it: the others get a frequency of nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import gguf
import numpy as np

from ggufrun.checkpoint.tensor import Tensor
from ggufrun.convert.arch.gemma import EMBEDDING, POST_NORMS, final_cap
from ggufrun.convert.arch.gemma3n import kept_name
from ggufrun.convert.arch.shared.family import Family
from ggufrun.convert.arch.shared.hyper import base_metadata
from ggufrun.convert.arch.shared.layer_types import FULL, WINDOW, interleaved, layer_types, window_metadata
from ggufrun.convert.arch.shared.layout import NORMS, Sizes, decoder_sizes, n_layers
from ggufrun.convert.arch.shared.rope import partial_factor
from ggufrun.convert.config import Config
from ggufrun.convert.transforms import constant, renamed
from ggufrun.convert.vocab.gemma4 import gemma4_vocabulary
from ggufrun.errors import FormatError, UnsupportedError

FULL_EVERY = 6

DEFAULTS = {
    "vocab_size": 262144,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 30,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "global_head_dim": lambda config: of_full_layers(config, "head_dim") or 512,
    "num_global_key_value_heads": lambda config: of_full_layers(config, "num_key_value_heads"),
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True,
    "sliding_window": 512,
    "hidden_size_per_layer_input": 256,
    "attention_k_eq_v": False,
    "num_kv_shared_layers": 0,
    "enable_moe_block": False,
    "use_double_wide_mlp": False,
    "layer_types": lambda config: interleaved(config, FULL_EVERY),
}

GATED = """
ffn_gate  inner width
ffn_up    inner width
ffn_down  width inner
"""
EXPERTS = """
ffn_gate_inp          experts width
ffn_gate_inp.scale.   width
ffn_gate_up_exps      experts both width
ffn_down_exps         experts width expert
ffn_down_exps.scale.  experts
pre_ffw_norm_2        width
post_ffw_norm_1       width
post_ffw_norm_2       width
"""
OWN_EMBEDDING = """
inp_gate   each width
proj       width each
post_norm  width
"""
OWN_EMBEDDINGS = """
per_layer_token_embd  vocabulary each_layers
per_layer_model_proj  each_layers width
per_layer_proj_norm   each
"""
NOTHING = 1e30
"""What a frequency is divided by that is to turn nothing."""


def of_full_layers(config: Config, key: str) -> Any:
    """What transformers' newer files say of the layers that attend to everything; None for nothing."""
    section = config.section("per_layer_config")
    kinds = config.values.get("layer_types")
    # layer 5 of 30 is called "05"
    named = {int(name): name for name in section.values if name.isdecimal()} if section else {}
    for number, kind in enumerate(kinds if isinstance(kinds, list) else ()):
        layer = section.section(named[number]) if section and kind == FULL and number in named else None
        if layer is not None and layer.has(key):
            return layer.integer(key)
    return None


def positions(config: Config) -> dict[str, Any]:
    """Those of both kinds of layers, as config.json has them."""
    section = config.section("rope_parameters")
    if section:
        return dict(section.values)
    return {
        "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
        "full_attention": {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1000000.0},
    }


def check(config: Config) -> None:
    for key in ("hidden_activation", "hidden_act"):
        config.require(key, ("gelu_pytorch_tanh", "gelu"))
    config.require("tie_word_embeddings", (True,))
    config.require("attention_bias", (False,))
    config.require("use_bidirectional_attention", ("vision",))
    kinds = layer_types(config)
    if WINDOW not in kinds or kinds[-1] != FULL:
        raise FormatError(f"{config.path} has layer_types of one kind, or a window in the last", "correct the file")
    if config.integer("num_kv_shared_layers", low=0) >= n_layers(config):
        raise FormatError(f"{config.path} has no layer with keys of its own", "correct num_kv_shared_layers")
    first = n_layers(config) - config.integer("num_kv_shared_layers", low=0)
    if first < n_layers(config) and kinds[max(first - 2, 0) : first] != [WINDOW, FULL]:
        raise UnsupportedError(
            f"{config.path} shares the keys of other layers than the last two with keys", "llama.cpp knows only those"
        )
    local = config.section("rope_parameters")
    local = local.section("sliding_attention") if local else None
    if local is not None and local.values.get("rope_type", "default") != "default":
        raise UnsupportedError(f"{config.path} scales positions of a window", "llama.cpp knows no such model")
    partial_factor(config)
    if config.integer("global_head_dim", high=65536) % 2 or decoder_sizes(config)["head"] % 2:
        raise FormatError(f"{config.path} has heads of an odd size", "correct the file")


def is_shared(config: Config, number: int) -> bool:
    """Does layer ``number`` use the keys of another?"""
    return number >= n_layers(config) - config.integer("num_kv_shared_layers", low=0)


def inner(config: Config, number: int) -> int:
    wide = config.flag("use_double_wide_mlp") and is_shared(config, number)
    return config.integer("intermediate_size") * (2 if wide else 1)


def each(config: Config) -> int:
    """The size of a layer's own embedding; 0 for none."""
    return config.integer("hidden_size_per_layer_input", low=0) if config.has("hidden_size_per_layer_input") else 0


def has_full_heads(config: Config) -> bool:
    """Do layers that attend to everything have their own number of heads of keys?"""
    return config.has("num_global_key_value_heads") and config.flag("attention_k_eq_v")


def full_heads(config: Config) -> int:
    """That number."""
    return config.integer("num_global_key_value_heads" if has_full_heads(config) else "num_key_value_heads", high=65536)


def sizes(config: Config) -> Sizes:
    found = decoder_sizes(config)
    full = config.integer("global_head_dim", high=65536)
    experts = config.flag("enable_moe_block")
    expert = config.integer("moe_intermediate_size") if experts else 0
    return {
        **found,
        "full_head": full,
        "full_queries": found["heads"] * full,
        "full_keys": full_heads(config) * full,
        "wide": 2 * found["inner"],
        "each": each(config),
        "each_layers": each(config) * n_layers(config),
        "experts": config.integer("num_experts", high=65536) if experts else 0,
        "expert": expert,
        "both": 2 * expert,
    }


def whole(config: Config) -> str:
    return EMBEDDING + (OWN_EMBEDDINGS if each(config) else "")


def layer(config: Config, number: int) -> str:
    full = layer_types(config)[number] == FULL
    kind = "full_" if full else ""
    keys = "?" if is_shared(config, number) else ""
    values = "?" if keys or (full and config.flag("attention_k_eq_v")) else ""
    attention = f"""
attn_q              {kind}queries width
attn_q_norm         {kind}head
attn_k{keys}        {kind}keys width
attn_k_norm{keys}   {kind}head
attn_v{values}      {kind}keys width
attn_output         width {kind}queries
layer_output_scale  1
"""
    gated = GATED if inner(config, number) == config.integer("intermediate_size") else GATED.replace("inner", "wide")
    table = NORMS + attention + gated + POST_NORMS
    return table + (EXPERTS if config.flag("enable_moe_block") else "") + (OWN_EMBEDDING if each(config) else "")


def metadata(config: Config, writer: gguf.GGUFWriter) -> None:
    found, kinds = sizes(config), layer_types(config)
    base_metadata(config, writer)
    # without the key llama.cpp caps at 30; its converter leaves it out all the same
    writer.add_final_logit_softcapping(final_cap(config))
    writer.add_sliding_window(config.integer("sliding_window"))
    writer.add_shared_kv_layers(config.integer("num_kv_shared_layers", low=0))
    writer.add_embedding_length_per_layer_input(each(config))
    window_metadata(config, writer)
    for add, size in (
        (writer.add_key_length, "full_head"),
        (writer.add_value_length, "full_head"),
        (writer.add_key_length_swa, "head"),
        (writer.add_value_length_swa, "head"),
    ):
        add(found[size])
    if found["expert"]:
        writer.add_expert_feed_forward_length(found["expert"])
    if config.flag("use_double_wide_mlp"):
        writer.add_feed_forward_length([inner(config, number) for number in range(n_layers(config))])
    if has_full_heads(config):
        writer.add_head_count_kv([full_heads(config) if kind == FULL else found["kv_heads"] for kind in kinds])
    writer.add_rope_dimension_count(found["full_head"])
    writer.add_rope_dimension_count_swa(found["head"])


def transform(config: Config, tensor: Tensor) -> Iterable[Tensor]:
    stem, _, part = tensor.name.partition(".router.")
    number = stem.rpartition(".")[2]
    if part == "scale":
        yield renamed(tensor, f"blk.{number}.ffn_gate_inp.scale")
    elif part == "per_expert_scale":
        yield renamed(tensor, f"blk.{number}.ffn_down_exps.scale")
    elif tensor.name.endswith(("layer_scalar", ".experts.gate_up_proj", ".experts.down_proj")):
        yield renamed(tensor, f"{tensor.name}.weight")
    else:
        yield tensor


def extra(config: Config) -> list[Tensor]:
    pairs = config.integer("global_head_dim", high=65536) // 2
    turned = int(2 * pairs * partial_factor(config) / 2)
    return [constant("rope_freqs.weight", np.array([1.0] * turned + [NOTHING] * (pairs - turned), np.float32))]


FAMILIES = (
    Family(
        names={
            "Gemma4ForCausalLM": ("google/gemma-4-31B-it",),
            "Gemma4ForConditionalGeneration": (
                "google/gemma-4-26B-A4B-it",
                "google/gemma-4-31B-it",
                "google/gemma-4-E2B-it",
                "google/gemma-4-E4B-it",
            ),
        },
        title="Gemma 4",
        left_out=("images", "sound"),
        arch=gguf.MODEL_ARCH.GEMMA4,
        vocab=gemma4_vocabulary,
        defaults=DEFAULTS,
        rope_parameters=positions,
        scalings=("proportional",),
        check=check,
        metadata=metadata,
        sizes=sizes,
        whole=whole,
        layer=layer,
        kept_name=kept_name,
        transform=transform,
        extra=extra,
    ),
)
