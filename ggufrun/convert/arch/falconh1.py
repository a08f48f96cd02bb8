"""Falcon-H1: in every layer attention and Mamba 2 side by side.

Source of names and order: llama.cpp's ``conversion/falcon_h1.py`` and ``Mamba2Model`` in its ``mamba.py``; of defaults:
transformers' ``FalconH1Config``. The multipliers of config.json go into the weights, as there is no place for them in a
GGUF.
"""

from __future__ import annotations

from collections.abc import Iterable

import gguf

from ggufrun.checkpoint.tensor import Tensor
from ggufrun.convert.arch.shared.family import Family, if_null
from ggufrun.convert.arch.shared.hyper import file_type
from ggufrun.convert.arch.shared.layout import ATTENTION, GATED, Sizes, decoder_sizes, n_layers
from ggufrun.convert.arch.shared.mamba2 import MAMBA, NORM, check_heads, mamba_heads, mamba_parts, mamba_sizes
from ggufrun.convert.arch.shared.rope import PLAIN, rope, standard
from ggufrun.convert.config import Config
from ggufrun.convert.transforms import scaled
from ggufrun.convert.vocab.readers import bpe_vocabulary
from ggufrun.errors import FormatError, UnsupportedError


def expand(config: Config) -> int:
    """How many times as wide as the model Mamba is, where no width is given."""
    return config.integer("mamba_expand", high=65536) if config.has("mamba_expand") else 2


DEFAULTS = {
    "vocab_size": 128000,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": lambda config: config.integer("hidden_size") // config.integer("num_attention_heads", high=65536),
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "mamba_d_ssm": if_null("mamba_d_ssm", lambda config: expand(config) * config.integer("hidden_size"), 1024),
    "mamba_n_heads": 128,
    "mamba_d_head": lambda config: config.integer("mamba_d_ssm") // mamba_heads(config),
    "mamba_n_groups": 1,
    "mamba_d_state": 256,
    "mamba_d_conv": 4,
    "mamba_rms_norm": False,
    "mamba_norm_before_gate": True,
    "lm_head_multiplier": 1.0,
    "embedding_multiplier": 1.0,
    "mlp_multipliers": lambda config: [1.0, 1.0],
    "key_multiplier": 1.0,
    "attention_out_multiplier": 1.0,
    "attention_in_multiplier": 1.0,
    "ssm_multipliers": lambda config: [1.0] * PARTS,
    "ssm_in_multiplier": 1.0,
    "ssm_out_multiplier": 1.0,
}
PARTS = 5
"""What Mamba's first matrix makes: a gate, values, two kinds of keys, time steps."""

FACTORS: dict[str, tuple[tuple[str, int], ...]] = {
    "gate_proj": (("mlp_multipliers", 0),),
    "down_proj": (("mlp_multipliers", 1),),
    "k_proj": (("key_multiplier", 0), ("attention_in_multiplier", 0)),
    "q_proj": (("attention_in_multiplier", 0),),
    "v_proj": (("attention_in_multiplier", 0),),
    "o_proj": (("attention_out_multiplier", 0),),
    "out_proj": (("ssm_out_multiplier", 0),),
    "in_proj": (("ssm_in_multiplier", 0),),
    "lm_head": (("lm_head_multiplier", 0),),
    "embed_tokens": (("embedding_multiplier", 0),),
}
"""By what a matrix is multiplied: a key, and which of its numbers."""

LAYER = "attn_norm  width\nffn_norm.  width\n" + ATTENTION + GATED + MAMBA


def check(config: Config) -> None:
    config.require("hidden_act", ("silu",))
    for key in ("attention_bias", "mlp_bias", "projectors_bias", "mamba_proj_bias"):
        config.require(key, (False,))
    config.require("mamba_conv_bias", (True,))
    if config.flag("mamba_rms_norm") and config.flag("mamba_norm_before_gate"):
        raise UnsupportedError(f"{config.path} has Mamba's norm before its gate", "llama.cpp knows it behind the gate")
    for key, count in (("ssm_multipliers", PARTS), ("mlp_multipliers", 2)):
        if len(config.numbers(key)) != count:
            raise FormatError(f"{config.path} has not {count} {key}", "correct the file")
    check_heads(config, sizes(config))


def sizes(config: Config) -> Sizes:
    return {**decoder_sizes(config), **mamba_sizes(config, config.integer("mamba_d_ssm"))}


def layer(config: Config, number: int) -> str:
    return LAYER + (NORM if config.flag("mamba_rms_norm") else "")


def metadata(config: Config, writer: gguf.GGUFWriter) -> None:
    found = sizes(config)
    writer.add_context_length(config.integer("max_position_embeddings"))
    writer.add_embedding_length(found["width"])
    writer.add_feed_forward_length(found["inner"])
    writer.add_head_count(found["heads"])
    writer.add_block_count(n_layers(config))
    writer.add_ssm_conv_kernel(found["kernel"])
    writer.add_ssm_inner_size(found["mamba_inner"])
    writer.add_ssm_state_size(found["state"])
    writer.add_ssm_time_step_rank(found["mamba_heads"])
    writer.add_ssm_group_count(found["groups"])
    writer.add_layer_norm_rms_eps(config.number("rms_norm_eps"))
    file_type(writer)
    writer.add_vocab_size(found["vocabulary"])
    writer.add_head_count_kv(found["kv_heads"])
    writer.add_key_length(found["head"])
    writer.add_value_length(found["head"])
    writer.add_rope_freq_base(rope(config).number("rope_theta"))


def transform(config: Config, tensor: Tensor) -> Iterable[Tensor]:
    module = tensor.name.removesuffix(".weight").rpartition(".")[2]
    for key, number in FACTORS.get(module, ()):
        tensor = scaled(tensor, config.numbers(key)[number] if key == "mlp_multipliers" else config.number(key))
    counts = sizes(config)
    if module == "in_proj":
        inner, keys = counts["mamba_inner"], counts["groups"] * counts["state"]
        rows = (inner, inner, keys, keys, counts["mamba_heads"])
        tensor = scaled(tensor, list(zip(rows, config.numbers("ssm_multipliers"), strict=True)))
    yield from mamba_parts(tensor, counts)


FAMILIES = (
    Family(
        names={"FalconH1ForCausalLM": ("tiiuae/Falcon-H1-0.5B-Instruct",)},
        title="Falcon-H1",
        arch=gguf.MODEL_ARCH.FALCON_H1,
        vocab=bpe_vocabulary,
        defaults=DEFAULTS,
        rope_parameters=standard(),
        scalings=PLAIN,
        check=check,
        metadata=metadata,
        sizes=sizes,
        layer=layer,
        # its multiplier is not the output's
        tied=False,
        transform=transform,
    ),
)
