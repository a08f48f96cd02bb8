"""Llama 1, 2 and 3, and everything that is a Llama in all but weights (Chinese-LLaMA/Alpaca, Atom, Yi); Mistral,
Mixtral and SmolLM 3.

Source of names and order: llama.cpp's ``conversion/llama.py``; of defaults: transformers' ``LlamaConfig``,
``MistralConfig``, ``MixtralConfig`` and ``SmolLM3Config``. A Mistral's sliding window has no place in a GGUF of the
llama kind: llama.cpp attends to the whole context.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import gguf

from ggufrun.checkpoint.tensor import Tensor
from ggufrun.convert.arch.shared.family import Family, Stack, head_if_null, heads_if_null
from ggufrun.convert.arch.shared.hyper import base_metadata
from ggufrun.convert.arch.shared.layout import ATTENTION, BIASES, DECODER, EXPERTS, NORMS, Sizes, decoder_sizes
from ggufrun.convert.arch.shared.rope import SCALED, llama3_frequencies, standard
from ggufrun.convert.config import Config
from ggufrun.convert.transforms import rotary_permutation
from ggufrun.convert.vocab.readers import llama_vocabulary
from ggufrun.errors import UnsupportedError

DEFAULTS = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "num_key_value_heads": heads_if_null,
    "head_dim": head_if_null,
}
MISTRAL = {**DEFAULTS, "intermediate_size": 14336, "max_position_embeddings": 131072, "num_key_value_heads": 8}
MIXTRAL = {
    **{key: value for key, value in MISTRAL.items() if key != "head_dim"},
    "rms_norm_eps": 1e-5,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
}
SMOLLM3 = {
    **{key: value for key, value in DEFAULTS.items() if key != "head_dim"},
    "vocab_size": 128256,
    "hidden_size": 2048,
    "num_hidden_layers": 36,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "max_position_embeddings": 32768,
    "tie_word_embeddings": True,
}


def check(config: Config) -> None:
    config.require("hidden_act", ("silu", "swish"))


def metadata(config: Config, writer: gguf.GGUFWriter) -> None:
    base_metadata(config, writer)
    writer.add_vocab_size(config.integer("vocab_size"))
    writer.add_rope_dimension_count(decoder_sizes(config)["head"])


def transform(config: Config, tensor: Tensor) -> Iterable[Tensor]:
    sizes = decoder_sizes(config)
    if tensor.name.endswith(("q_proj.weight", "q_proj.bias")):
        yield rotary_permutation(tensor, sizes["heads"])
    elif tensor.name.endswith(("k_proj.weight", "k_proj.bias")):
        yield rotary_permutation(tensor, sizes["kv_heads"])
    else:
        yield tensor


def extra(config: Config) -> list[Tensor]:
    return llama3_frequencies(config, decoder_sizes(config)["head"])


def mixtral_sizes(config: Config) -> Sizes:
    sizes = decoder_sizes(config)
    return {**sizes, "experts": config.integer("num_local_experts", high=65536), "expert": sizes["inner"]}


def check_smollm3(config: Config) -> None:
    check(config)
    config.require("use_sliding_window", (False,))
    layers = range(config.integer("num_hidden_layers", high=65536))
    every_fourth = [int((layer + 1) % 4 != 0) for layer in layers]
    if config.values.get("no_rope_layers") not in (None, every_fourth) or config.values.get(
        "no_rope_layer_interval"
    ) not in (None, 4):
        raise UnsupportedError(
            f"{config.path} leaves out rotation in other layers than every fourth", "llama.cpp knows only those"
        )


LLAMA = Family(
    names={
        "LlamaForCausalLM": (
            "meta-llama/Llama-2-7b-hf",
            "hfl/chinese-llama-2-7b",
            "hfl/chinese-alpaca-2-7b-64k",
            "FlagAlpha/Atom-7B-Chat",
            "01-ai/Yi-1.5-9B-Chat",
            "meta-llama/Llama-3.2-1B-Instruct",
        ),
        "LLaMAForCausalLM": ("decapoda-research/llama-7b-hf",),
    },
    title="Llama 1 to 3, Chinese-LLaMA and Alpaca, Atom, Yi, DeepSeek LLM",
    arch=gguf.MODEL_ARCH.LLAMA,
    vocab=llama_vocabulary,
    defaults=DEFAULTS,
    rope_parameters=standard(),
    scalings=(*SCALED, "llama3"),
    check=check,
    metadata=metadata,
    layer=DECODER + BIASES,
    transform=transform,
    extra=extra,
)

FAMILIES = (
    LLAMA,
    replace(
        LLAMA,
        names={"MistralForCausalLM": ("mistralai/Mistral-7B-Instruct-v0.3", "mistralai/Mistral-Nemo-Instruct-2407")},
        title="Mistral",
        defaults=MISTRAL,
    ),
    replace(
        LLAMA,
        names={"MixtralForCausalLM": ("mistralai/Mixtral-8x7B-v0.1", "hfl/chinese-mixtral-instruct")},
        title="Mixtral",
        defaults=MIXTRAL,
        rope_parameters=standard(theta=1e6),
        sizes=mixtral_sizes,
        layer=NORMS + ATTENTION + EXPERTS,
        stacks=(
            Stack(
                r"model\.layers\.(?P<layer>\d+)\.block_sparse_moe\.experts\.(?P<number>\d+)\.(?P<part>w[123])\.weight",
                ("w1", "w2", "w3"),
                "layers.{layer}.feed_forward.experts.{part}.weight",
                lambda config: config.integer("num_local_experts"),
            ),
        ),
    ),
    replace(
        LLAMA,
        names={"SmolLM3ForCausalLM": ("HuggingFaceTB/SmolLM3-3B",)},
        title="SmolLM3",
        arch=gguf.MODEL_ARCH.SMOLLM3,
        defaults=SMOLLM3,
        rope_parameters=standard(theta=2e6),
        check=check_smollm3,
        layer=DECODER,
    ),
)
