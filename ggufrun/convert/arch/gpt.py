"""GPT-2 and GPT-NeoX (Pythia).

Source of names and order: llama.cpp's ``conversion/gpt2.py`` and ``conversion/gptneox.py``; of defaults: transformers'
``GPT2Config`` and ``GPTNeoXConfig``. GPT-2 stores its matrices the other way round; GPT-NeoX keeps a head's query, key
and value together.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import gguf

from ggufrun.checkpoint.tensor import Tensor
from ggufrun.convert.arch.shared.family import Family
from ggufrun.convert.arch.shared.hyper import file_type
from ggufrun.convert.arch.shared.layout import WHOLE, Sizes, decoder_sizes, n_layers
from ggufrun.convert.arch.shared.rope import PLAIN, base_if_unusual, partial_factor, standard
from ggufrun.convert.config import Config
from ggufrun.convert.transforms import row_numbers, take_rows, transposed
from ggufrun.convert.vocab.readers import bpe_vocabulary

GPT2 = {
    "vocab_size": 50257,
    "n_positions": 1024,
    "n_embd": 768,
    "n_layer": 12,
    "n_head": 12,
    "layer_norm_epsilon": 1e-5,
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "tie_word_embeddings": True,
}
NEOX = {
    "vocab_size": 50432,
    "hidden_size": 6144,
    "intermediate_size": 24576,
    "num_hidden_layers": 44,
    "num_attention_heads": 64,
    "max_position_embeddings": 2048,
    "layer_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "use_parallel_residual": True,
}

LAYER = """
attn_norm         width
attn_norm.bias    width
attn_qkv          qkv width
attn_qkv.bias     qkv
attn_output       width width
attn_output.bias  width
ffn_norm          width
ffn_norm.bias     width
ffn_up            inner width
ffn_up.bias       inner
ffn_down          width inner
ffn_down.bias     width
"""

NOT_WEIGHTS = (".attn.bias", ".attn.masked_bias")
TURNED = (".c_attn.weight", ".c_proj.weight", ".c_fc.weight")


def context(config: Config) -> int:
    return config.integer(config.first("n_ctx", "n_positions") or "n_positions")


def sizes(config: Config) -> Sizes:
    found = decoder_sizes(config)
    return {**found, "qkv": 3 * found["width"]}


def gpt2_sizes(config: Config) -> Sizes:
    return {**sizes(config), "context": context(config)}


def check_gpt2(config: Config) -> None:
    config.require("activation_function", ("gelu_new", "gelu_pytorch_tanh", "gelu"))
    config.require("scale_attn_weights", (True,))
    config.require("scale_attn_by_inverse_layer_idx", (False,))
    config.require("add_cross_attention", (False,))


def check_neox(config: Config) -> None:
    config.require("hidden_act", ("gelu", "gelu_new", "gelu_fast"))
    config.require("attention_bias", (True,))


def gpt2_metadata(config: Config, writer: gguf.GGUFWriter) -> None:
    found = gpt2_sizes(config)
    writer.add_block_count(n_layers(config))
    writer.add_context_length(found["context"])
    writer.add_embedding_length(found["width"])
    writer.add_feed_forward_length(found["inner"])
    writer.add_head_count(found["heads"])
    writer.add_layer_norm_eps(config.number("layer_norm_epsilon"))
    file_type(writer)


def neox_metadata(config: Config, writer: gguf.GGUFWriter) -> None:
    """Without a file type, as llama.cpp's converter has it."""
    found = sizes(config)
    writer.add_context_length(config.integer("max_position_embeddings"))
    writer.add_embedding_length(found["width"])
    writer.add_block_count(n_layers(config))
    writer.add_feed_forward_length(found["inner"])
    writer.add_rope_dimension_count(int(partial_factor(config) * found["head"]))
    writer.add_head_count(found["heads"])
    writer.add_parallel_residual(config.flag("use_parallel_residual"))
    writer.add_layer_norm_eps(config.number("layer_norm_eps"))
    base_if_unusual(config, writer)


def neox_rope(config: Config) -> dict[str, Any]:
    """GPT-NeoX has other names for the base and the rotated part of a head."""
    old = {"rope_theta": config.values.get("rotary_emb_base"), "partial_rotary_factor": config.values.get("rotary_pct")}
    found = {key: value for key, value in old.items() if value is not None}
    return standard(partial=0.25)(Config(config.path, {**found, **config.values}))


def gpt2_name(config: Config, name: str) -> str | None:
    # not the causal mask, which early checkpoints carry
    return None if name.endswith(NOT_WEIGHTS) else name


def gpt2_transform(config: Config, tensor: Tensor) -> Iterable[Tensor]:
    turned = tensor.name.endswith(TURNED) and len(tensor.shape) == 2
    yield transposed(tensor) if turned else tensor


def neox_transform(config: Config, tensor: Tensor) -> Iterable[Tensor]:
    if not tensor.name.endswith(("query_key_value.weight", "query_key_value.bias")):
        yield tensor
        return
    found = sizes(config)
    rows = row_numbers(tensor, found["heads"], 3, found["head"])
    yield take_rows(tensor, rows.swapaxes(0, 1))


FAMILIES = (
    Family(
        names={"GPT2LMHeadModel": ("openai-community/gpt2", "uer/gpt2-chinese-cluecorpussmall")},
        title="GPT-2",
        arch=gguf.MODEL_ARCH.GPT2,
        vocab=bpe_vocabulary,
        defaults=GPT2,
        scalings=("default",),
        check=check_gpt2,
        metadata=gpt2_metadata,
        sizes=gpt2_sizes,
        whole=WHOLE + "output_norm.bias  width\nposition_embd  context width\n",
        layer=LAYER,
        kept_name=gpt2_name,
        transform=gpt2_transform,
    ),
    Family(
        names={"GPTNeoXForCausalLM": ("EleutherAI/pythia-70m", "EleutherAI/gpt-neox-20b")},
        title="GPT-NeoX, Pythia",
        arch=gguf.MODEL_ARCH.GPTNEOX,
        vocab=bpe_vocabulary,
        defaults=NEOX,
        rope_parameters=neox_rope,
        scalings=PLAIN,
        check=check_neox,
        metadata=neox_metadata,
        sizes=sizes,
        whole=WHOLE + "output_norm.bias  width\n",
        layer=LAYER,
        tied=False,
        transform=neox_transform,
    ),
)
