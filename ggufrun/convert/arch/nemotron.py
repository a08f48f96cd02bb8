"""Nemotron 4 and Minitron.

Source of names and order: llama.cpp's ``conversion/nemotron.py``; of defaults: transformers' ``NemotronConfig``. It
multiplies by one plus the weights of its norms; a GGUF holds the sum.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import gguf

from ggufrun.checkpoint.tensor import Tensor
from ggufrun.convert.arch.shared.family import Family, head_if_null, heads_if_null
from ggufrun.convert.arch.shared.hyper import base_metadata
from ggufrun.convert.arch.shared.layout import ATTENTION, decoder_sizes
from ggufrun.convert.arch.shared.rope import kind, partial_factor, rope, standard
from ggufrun.convert.config import Config
from ggufrun.convert.transforms import plus_one
from ggufrun.convert.vocab.readers import add_vocabulary
from ggufrun.convert.vocab.vocabulary import Original
from ggufrun.errors import UnsupportedError

DEFAULTS = {
    "vocab_size": 256000,
    "hidden_size": 6144,
    "intermediate_size": 24576,
    "num_hidden_layers": 32,
    "num_attention_heads": 48,
    "num_key_value_heads": heads_if_null,
    "head_dim": head_if_null,
    "max_position_embeddings": 4096,
    "norm_eps": 1e-5,
    "tie_word_embeddings": False,
}

WHOLE = """
token_embd        vocabulary width
output_norm       width
output_norm.bias  width
output            vocabulary width
"""
LAYER = f"""
attn_norm          width
attn_norm.bias     width
{ATTENTION}
attn_output.bias?  width
ffn_norm           width
ffn_norm.bias      width
ffn_up             inner width
ffn_up.bias?       inner
ffn_down           width inner
ffn_down.bias?     width
"""

PAD, UNKNOWN = 0, 1
"""Tokens that the files do not tell."""


def nemotron_vocabulary(
    folder: Path, config: Config, writer: gguf.GGUFWriter, pretokenizer: str | None = None
) -> Original:
    """Whatever the folder has, and two special tokens more."""
    original = add_vocabulary(folder, config, writer, pretokenizer)
    writer.add_pad_token_id(PAD)
    writer.add_unk_token_id(UNKNOWN)
    return original


def check(config: Config) -> None:
    config.require("hidden_act", ("relu2",))
    config.require("factor", ())
    sizes = decoder_sizes(config)
    if sizes["queries"] != sizes["width"]:
        raise UnsupportedError(f"{config.path} has heads of another size than width / heads", "llama.cpp knows none")


def metadata(config: Config, writer: gguf.GGUFWriter) -> None:
    base_metadata(config, writer)
    sizes = decoder_sizes(config)
    writer.add_vocab_size(config.integer("vocab_size"))
    writer.add_layer_norm_eps(config.number("norm_eps"))
    writer.add_rope_dimension_count(int(partial_factor(config) * sizes["width"]) // sizes["heads"])
    if kind(config) == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope(config).number("factor"))
    else:
        writer.add_rope_scaling_type(gguf.RopeScalingType.NONE)


def transform(config: Config, tensor: Tensor) -> Iterable[Tensor]:
    yield plus_one(tensor) if tensor.name.endswith("norm.weight") else tensor


FAMILIES = (
    Family(
        names={"NemotronForCausalLM": ("nvidia/Minitron-4B-Base",)},
        title="Nemotron, Minitron",
        arch=gguf.MODEL_ARCH.NEMOTRON,
        vocab=nemotron_vocabulary,
        defaults=DEFAULTS,
        rope_parameters=standard(partial=0.5),
        scalings=("default", "linear"),
        check=check,
        metadata=metadata,
        whole=WHOLE,
        layer=LAYER,
        tied=False,
        transform=transform,
    ),
)
