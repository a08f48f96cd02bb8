"""Gemma 3n: four streams of values instead of one, an embedding for every layer, and keys that later layers share.

Source of names and order: llama.cpp's ``conversion/gemma.py``; of defaults: transformers' ``Gemma3nTextConfig``. Much
of it has no place in a GGUF: llama.cpp knows the sizes of the published models. Of images and sound, which they
understand too, nothing is kept.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

import gguf

from ggufrun.checkpoint.tensor import Tensor
from ggufrun.convert.arch.gemma import EMBEDDING, HEAD_NORMS, NO_CAP, POST_NORMS, final_cap
from ggufrun.convert.arch.shared.family import Family, Stack, without_output
from ggufrun.convert.arch.shared.hyper import base_metadata
from ggufrun.convert.arch.shared.layer_types import WINDOW, interleaved, layer_types
from ggufrun.convert.arch.shared.layout import DECODER, Sizes, decoder_sizes, n_layers
from ggufrun.convert.arch.shared.rope import PLAIN, of_two_bases, rope
from ggufrun.convert.arch.shared.text import text_name
from ggufrun.convert.config import Config
from ggufrun.convert.transforms import padded, renamed
from ggufrun.convert.vocab.readers import gemma2_vocabulary
from ggufrun.errors import UnsupportedError

STREAMS, RANK, EACH = 4, 64, 256
"""Streams of values, the rank of a layer's detour, and the size of a layer's own embedding."""

OWN_KEYS = 20
"""So many layers have keys of their own; those after them share."""

FULL_EVERY = 5

SPARSE_LAYERS = 10
"""In so many layers most of what the gate lets through is cut off."""

CUTS = {0.95: 1.6448535919189453, 0.0: -math.inf}
"""The part that is cut off, and by how many standard deviations above the mean that is (in single precision)."""

DEFAULTS = {
    "vocab_size": 262400,
    "hidden_size": 2048,
    "intermediate_size": 16384,
    "num_hidden_layers": 35,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 256,
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True,
    "sliding_window": 512,
    "final_logit_softcapping": 30.0,
    "hidden_size_per_layer_input": EACH,
    "altup_active_idx": 0,
    "altup_num_inputs": STREAMS,
    "num_kv_shared_layers": 15,
    "laurel_rank": RANK,
    "layer_types": lambda config: interleaved(config, FULL_EVERY),
    "activation_sparsity_pattern": lambda config: usual_cuts(config),
}

WHOLE = f"""{EMBEDDING}
per_layer_token_embd   vocabulary each_layers
per_layer_model_proj   each_layers width
per_layer_proj_norm    each
altup_proj             others width width
altup_unembd_proj      others width width
"""
LAYER = f"""{DECODER}{POST_NORMS}{HEAD_NORMS}
inp_gate             each width
proj                 width each
post_norm            width
altup_correct_coef   streams streams
altup_correct_scale  width
altup_predict_coef   squared_streams streams
altup_router         streams width
altup_router_norm    width
laurel_l             rank width
laurel_r             width rank
laurel_post_norm     width
"""


def usual_cuts(config: Config) -> list[float]:
    sparse = SPARSE_LAYERS if n_layers(config) > SPARSE_LAYERS else 0
    return [0.95] * sparse + [0.0] * (n_layers(config) - sparse)


def inner(config: Config) -> list[int]:
    """The size of every layer's gated part."""
    said = config.values.get("intermediate_size")
    each = said if isinstance(said, list) else [said] * n_layers(config)
    if len(each) != n_layers(config) or any(size != each[0] for size in each):
        raise UnsupportedError(f"{config.path} has layers of several sizes", "llama.cpp knows one")
    return [Config(config.path, {"intermediate_size": size}).integer("intermediate_size") for size in each]


def one_inner(config: Config) -> Config:
    return Config(config.path, {**config.values, "intermediate_size": inner(config)[0]})


def check(config: Config) -> None:
    for key in ("hidden_activation", "hidden_act"):
        config.require(key, ("gelu_pytorch_tanh", "gelu"))
    config.require("tie_word_embeddings", (True,))
    config.require("attention_bias", (False,))
    config.require("altup_correct_scale", (True,))
    final_cap(config)
    for key, value in (
        ("altup_num_inputs", STREAMS),
        ("altup_active_idx", 0),
        ("laurel_rank", RANK),
        ("hidden_size_per_layer_input", EACH),
        ("num_kv_shared_layers", n_layers(config) - OWN_KEYS),
        ("layer_types", interleaved(config, FULL_EVERY)),
        ("activation_sparsity_pattern", usual_cuts(config)),
    ):
        if config.values[key] != value:
            raise UnsupportedError(f"{config.path} says {key} = {config.values[key]}", f"llama.cpp expects {value}")


def sizes(config: Config) -> Sizes:
    found = decoder_sizes(one_inner(config))
    return {
        **found,
        "streams": STREAMS,
        "squared_streams": STREAMS * STREAMS,
        "others": STREAMS - 1,
        "rank": RANK,
        "each": EACH,
        "each_layers": EACH * n_layers(config),
    }


def metadata(config: Config, writer: gguf.GGUFWriter) -> None:
    base_metadata(one_inner(config), writer)
    writer.add_feed_forward_length(inner(config))
    writer.add_rope_freq_base(rope(config).number("rope_theta"))
    writer.add_final_logit_softcapping(final_cap(config) or NO_CAP)
    writer.add_sliding_window(config.integer("sliding_window"))
    writer.add_altup_active_idx(0)
    writer.add_altup_num_inputs(STREAMS)
    writer.add_embedding_length_per_layer_input(EACH)
    writer.add_shared_kv_layers(config.integer("num_kv_shared_layers", low=0))
    writer.add_activation_sparsity_scale([CUTS[part] for part in config.values["activation_sparsity_pattern"]])
    writer.add_sliding_window_pattern([kind == WINDOW for kind in layer_types(config)])


def kept_name(config: Config, name: str) -> str | None:
    text = text_name(config, name)
    return text and without_output(config, text)


SHARED_KEYS = re.compile(r"blk\.(\d{1,9})\.attn_(?:k|v|k_norm)\.weight")


def never_used(config: Config, name: str) -> bool:
    """The keys and values of layers that share those of others: transformers 5 does not save them."""
    match = SHARED_KEYS.fullmatch(name)
    return match is not None and int(match[1]) >= OWN_KEYS


def transform(config: Config, tensor: Tensor) -> Iterable[Tensor]:
    if tensor.name in ("model.embed_tokens.weight", "model.embed_tokens_per_layer.weight"):
        # tokens that stand for images and sound have no rows in all files
        tensor = padded(tensor, config.integer("vocab_size"))
    yield renamed(tensor, f"{tensor.name}.weight") if tensor.name.endswith("_scale") else tensor


def _of_streams(part: str) -> Stack:
    return Stack(
        rf"model(?P<layer>)\.(?P<part>{part})\.(?P<number>\d)\.weight",
        (part,),
        "model.{part}.weight",
        lambda config: STREAMS - 1,
    )


FAMILIES = (
    Family(
        names={
            "Gemma3nForCausalLM": ("google/gemma-3n-E2B-it",),
            "Gemma3nForConditionalGeneration": ("google/gemma-3n-E2B-it", "google/gemma-3n-E4B-it"),
        },
        title="Gemma 3n",
        left_out=("images", "sound"),
        arch=gguf.MODEL_ARCH.GEMMA3N,
        vocab=gemma2_vocabulary,
        defaults=DEFAULTS,
        rope_parameters=of_two_bases(("rope_theta", 1e6), ("rope_local_base_freq", 1e4)),
        scalings=PLAIN,
        check=check,
        metadata=metadata,
        sizes=sizes,
        whole=WHOLE,
        layer=LAYER,
        kept_name=kept_name,
        transform=transform,
        never_used=never_used,
        stacks=(_of_streams("altup_projections"), _of_streams("altup_unembed_projections")),
    ),
)
