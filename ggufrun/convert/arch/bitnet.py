"""BitNet b1.58 of 1bitLLM: a Llama with two more norms a layer, whose linear layers are made of -1, 0 and 1.

Its checkpoints hold the floats that were trained, and the running model rounds them each time; a GGUF holds what they
are rounded to. Source of names, order and rounding: llama.cpp's ``conversion/bitnet.py``. Microsoft's BitNet b1.58 2B
has the same layers with another activation, which llama.cpp does not compute.
"""

from __future__ import annotations

from collections.abc import Iterable

import gguf

from ggufrun.checkpoint.tensor import Tensor
from ggufrun.convert.arch import llama
from ggufrun.convert.arch.shared.family import Family, without_output
from ggufrun.convert.arch.shared.hyper import base_metadata
from ggufrun.convert.arch.shared.layout import GATED, NORMS
from ggufrun.convert.arch.shared.rope import PLAIN, standard
from ggufrun.convert.config import Config
from ggufrun.convert.transforms import ternary
from ggufrun.errors import UnsupportedError

LAYER = (
    NORMS
    + GATED
    + """
attn_q         queries width
attn_k         keys width
attn_v         keys width
attn_output    width queries
attn_sub_norm  width
ffn_sub_norm   inner
"""
)

DEFAULTS = {**llama.DEFAULTS, "tie_word_embeddings": True}

TERNARY = ("_proj.weight",)
"""What the names of rounded tensors end with."""


TODAYS_NAMES = {"self_attn.attn_sub_norm": "self_attn.inner_attn_ln", "mlp.ffn_sub_norm": "mlp.ffn_layernorm"}
"""What transformers calls the two norms, and what 1bitLLM does."""


def kept_name(config: Config, name: str) -> str | None:
    for today, known in TODAYS_NAMES.items():
        name = name.replace(today, known)
    return without_output(config, name)


def check(config: Config) -> None:
    if config.values.get("hidden_act") not in (None, "silu"):
        raise UnsupportedError(
            f"{config.path} says hidden_act = {config.values['hidden_act']!r}, and llama.cpp computes BitNet with "
            "'silu' only, so that answers would be nonsense",
            "run this model with bitnet.cpp or transformers",
        )
    config.require("attention_bias", (False,))
    config.require("tie_word_embeddings", (True,))


def metadata(config: Config, writer: gguf.GGUFWriter) -> None:
    base_metadata(config, writer)
    writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
    writer.add_rope_scaling_factor(1.0)


def transform(config: Config, tensor: Tensor) -> Iterable[Tensor]:
    packed = config.section("quantization_config")
    if tensor.name.endswith(TERNARY) and not (packed and packed.values.get("quant_method") == "bitnet"):
        yield ternary(tensor)
    else:
        yield tensor


FAMILIES = (
    Family(
        names={
            "BitnetForCausalLM": (
                "1bitLLM/bitnet_b1_58-3B",
                "1bitLLM/bitnet_b1_58-large",
                "1bitLLM/bitnet_b1_58-xl",
            ),
            # as transformers calls it; what was published under this name is Microsoft's
            "BitNetForCausalLM": (),
        },
        title="BitNet b1.58 of 1bitLLM",
        arch=gguf.MODEL_ARCH.BITNET,
        defaults=DEFAULTS,
        rope_parameters=standard(),
        scalings=PLAIN,
        check=check,
        metadata=metadata,
        whole="token_embd  vocabulary width\noutput_norm  width\n",
        layer=LAYER,
        kept_name=kept_name,
        transform=transform,
    ),
)
