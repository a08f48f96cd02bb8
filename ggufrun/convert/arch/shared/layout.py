"""Which tensors a family's checkpoints have, as a table of names and dimensions.

A line is the tensor's GGUF name and its dimensions in numpy's order, by the names that a family's ``sizes`` give them:

    attn_q          queries width
    attn_q.bias?    queries

``.weight`` is understood, unless the name ends in a dot; a question mark says that a sound checkpoint may do without.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ggufrun.convert.config import Config
from ggufrun.errors import FormatError, UnsupportedError

AHEAD = "(layers that predict further tokens)"
"""Where a completed configuration has the number of layers after the last; no key that a config.json would have."""

Sizes = dict[str, int]
Layer = str | Callable[[Config, int], str]
"""The table of every layer, or of layer number n."""


@dataclass(frozen=True)
class Expected:
    """A tensor that a checkpoint has, or may have."""

    shape: tuple[int, ...]
    required: bool


WHOLE = """
token_embd    vocabulary width
output_norm   width
output        vocabulary width
"""

NORMS = """
attn_norm     width
ffn_norm      width
"""

ATTENTION = """
attn_q        queries width
attn_k        keys width
attn_v        keys width
attn_q.bias?  queries
attn_k.bias?  keys
attn_v.bias?  keys
attn_output   width queries
"""

GATED = """
ffn_gate      inner width
ffn_up        inner width
ffn_down      width inner
"""

BIASES = """
attn_output.bias?  width
ffn_gate.bias?     inner
ffn_up.bias?       inner
ffn_down.bias?     width
"""

DECODER = NORMS + ATTENTION + GATED
"""A layer of Llama and of most of its successors."""

EXPERTS = """
ffn_gate_inp   experts width
ffn_gate_exps  experts expert width
ffn_up_exps    experts expert width
ffn_down_exps  experts width expert
"""

SHARED_EXPERT = """
ffn_gate_shexp  shared width
ffn_up_shexp    shared width
ffn_down_shexp  width shared
"""

PREDICTOR = """
nextn.eh_proj            width two_widths
nextn.enorm              width
nextn.hnorm              width
nextn.embed_tokens?      vocabulary width
nextn.shared_head_head?  vocabulary width
nextn.shared_head_norm?  width
"""
"""What a layer that predicts a further token has beyond the others."""


def expected(table: str, sizes: Mapping[str, int], prefix: str = "") -> dict[str, Expected]:
    """A table with its sizes filled in. Dimensions may be written as numbers."""
    found = {}
    for line in filter(str.strip, table.splitlines()):
        name, *dimensions = line.split()
        required = not name.endswith("?")
        name = name.removesuffix("?")
        if not name.endswith((".weight", ".bias")):
            name = name.removesuffix(".") if name.endswith(".") else f"{name}.weight"
        shape = tuple(int(size) if size.isdecimal() else sizes[size] for size in dimensions)
        found[prefix + name] = Expected(shape, required)
    return found


def n_layers(config: Config) -> int:
    """How many layers the model has: at most 1024, which no model comes near, so that tables of names stay small."""
    key = config.first("n_layers", "num_hidden_layers", "n_layer", "num_layers")
    return config.integer(key or "num_hidden_layers", high=1024)


def n_blocks(config: Config) -> int:
    """How many layers the GGUF has: those of the model, and after them those that predict further tokens."""
    return n_layers(config) + (config.integer(AHEAD, low=0, high=1024) if config.has(AHEAD) else 0)


def shared_experts(config: Config, key: str) -> int:
    """How many experts see every token: none where config.json says 0 or null."""
    return config.integer(key, low=0, high=65536) if config.has(key) else 0


def check_shared_experts(config: Config, key: str) -> None:
    """llama.cpp adds what such experts say wherever it has experts of these kinds."""
    if not shared_experts(config, key):
        raise UnsupportedError(
            f"{config.path.name} says {key} = {config.values.get(key)}, and llama.cpp computes models of this kind "
            "with shared experts only",
            "a GGUF has no place for it: run this model with another runtime",
        )


def decoder_sizes(config: Config) -> Sizes:
    """The sizes that most decoders have: width, inner, vocabulary, heads, kv_heads, head, queries, keys.

    ``head`` is the number of values a head; ``queries`` and ``keys`` those of all heads.
    """
    width = config.integer(config.first("hidden_size", "n_embd", "dim") or "hidden_size")
    n_head = config.integer(
        config.first("num_attention_heads", "n_head", "n_heads") or "num_attention_heads", high=65536
    )
    kv_key = config.first("num_key_value_heads", "n_kv_heads")
    n_head_kv = config.integer(kv_key, high=65536) if kv_key else n_head
    head = config.optional_integer("head_dim") or width // n_head
    inner = config.first("intermediate_size", "n_inner", "hidden_dim")
    if n_head % n_head_kv or (width % n_head and not config.has("head_dim")) or not head:
        raise FormatError(
            f"{config.path} says {width} wide, {n_head} heads, {n_head_kv} for keys and values",
            "these do not divide; correct the file",
        )
    return {
        "width": width,
        "two_widths": 2 * width,
        "inner": config.integer(inner) if inner else 4 * width,
        "vocabulary": config.integer(config.first("padded_vocab_size", "vocab_size") or "vocab_size"),
        "heads": n_head,
        "kv_heads": n_head_kv,
        "head": head,
        "queries": n_head * head,
        "keys": n_head_kv * head,
    }
