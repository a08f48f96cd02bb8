"""Falcon 7B, 40B and 180B.

Source of names and order: llama.cpp's ``conversion/falcon.py``; of defaults: transformers' ``FalconConfig``. Each
key-value head's queries, its key and its value lie together in ``query_key_value``; a GGUF has all queries first.
"""

from __future__ import annotations

from collections.abc import Iterable

import gguf
import numpy as np

from ggufrun.checkpoint.tensor import Tensor
from ggufrun.convert.arch.shared.family import Family
from ggufrun.convert.arch.shared.hyper import file_type
from ggufrun.convert.arch.shared.layout import WHOLE, Sizes, decoder_sizes, n_layers
from ggufrun.convert.arch.shared.rope import PLAIN, base_if_unusual, standard
from ggufrun.convert.config import Config
from ggufrun.convert.transforms import row_numbers, take_rows
from ggufrun.convert.vocab.readers import bpe_vocabulary

DEFAULTS = {
    "vocab_size": 65024,
    "hidden_size": 4544,
    "num_hidden_layers": lambda config: config.values.get("n_layer", 32),
    "num_attention_heads": lambda config: config.values.get("n_head", 71),
    "layer_norm_epsilon": 1e-5,
    "alibi": False,
    "new_decoder_architecture": False,
    "multi_query": True,
    "parallel_attn": True,
    "bias": False,
    "tie_word_embeddings": True,
}

CONTEXT = 2048
"""The length that Falcon was trained on, which its config.json leaves out."""

LAYER = """
attn_norm            width
attn_norm.bias       width
attn_norm_2?         width
attn_norm_2.bias?    width
attn_qkv             qkv width
attn_output          width width
ffn_up               inner width
ffn_down             width inner
"""


def kv_heads(config: Config) -> int:
    """Key-value heads, under the key of transformers or that of the first releases."""
    if config.values.get("model_type") == "falcon" and not config.flag("new_decoder_architecture"):
        # the number of key-value heads is of the new architecture; the old one has one for all, or one each
        return 1 if config.flag("multi_query") else config.integer("num_attention_heads", high=65536)
    if key := config.first("num_kv_heads", "n_head_kv"):
        return config.integer(key, high=65536)
    return config.integer("num_attention_heads", high=65536) if config.flag("new_decoder_architecture") else 1


def sizes(config: Config) -> Sizes:
    found = decoder_sizes(Config(config.path, {**config.values, "num_key_value_heads": kv_heads(config)}))
    inner = config.integer("ffn_hidden_size") if config.has("ffn_hidden_size") else 4 * found["width"]
    return {**found, "inner": inner, "qkv": found["queries"] + 2 * found["keys"]}


def check(config: Config) -> None:
    config.require("activation", ("gelu",))
    config.require("alibi", (False,))
    config.require("bias", (False,))
    if not config.flag("new_decoder_architecture"):
        config.require("parallel_attn", (True,))


def metadata(config: Config, writer: gguf.GGUFWriter) -> None:
    found = sizes(config)
    writer.add_context_length(CONTEXT)
    writer.add_tensor_data_layout("jploski")
    writer.add_embedding_length(found["width"])
    writer.add_feed_forward_length(found["inner"])
    writer.add_block_count(n_layers(config))
    writer.add_head_count(found["heads"])
    writer.add_head_count_kv(found["kv_heads"])
    writer.add_layer_norm_eps(config.number("layer_norm_epsilon"))
    file_type(writer)
    base_if_unusual(config, writer)


def transform(config: Config, tensor: Tensor) -> Iterable[Tensor]:
    if "query_key_value" not in tensor.name:
        yield tensor
        return
    found = sizes(config)
    groups = found["kv_heads"]
    rows = row_numbers(tensor, groups, found["heads"] // groups + 2, found["head"])
    parts = (rows[:, :-2], rows[:, -2], rows[:, -1])
    yield take_rows(tensor, np.concatenate([part.reshape(-1) for part in parts]))


FAMILIES = (
    Family(
        names={
            "FalconForCausalLM": ("tiiuae/falcon-7b-instruct", "tiiuae/falcon-40b-instruct", "tiiuae/falcon-11B"),
            "RWForCausalLM": ("h2oai/h2ogpt-gm-oasst1-en-2048-falcon-7b-v3",),
        },
        title="Falcon",
        arch=gguf.MODEL_ARCH.FALCON,
        vocab=bpe_vocabulary,
        defaults=DEFAULTS,
        rope_parameters=standard(),
        scalings=PLAIN,
        check=check,
        metadata=metadata,
        sizes=sizes,
        whole=WHOLE + "output_norm.bias  width\n",
        layer=LAYER,
        transform=transform,
    ),
)
