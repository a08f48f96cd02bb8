"""What llama.cpp does with each tensor of a model, and so the types that it may have.

llama.cpp looks up how to multiply by a tensor's type in a table. Where that has no entry, the process jumps to address
zero; where an addition meets another type than F32, it aborts. Neither is checked when a file is loaded.

Source: ``LLM_TENSOR_INFOS`` in ``src/llama-arch.cpp`` of the pinned release (the operation of each tensor),
``type_traits_cpu`` in ``ggml/src/ggml-cpu/ggml-cpu.c``, ``binary_op`` and ``ggml_compute_forward_get_rows`` beside it.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from ggufrun.checkpoint.gguf.file import TensorInfo
from ggufrun.checkpoint.gguf.header import AGAIN
from ggufrun.checkpoint.gguf.tensor_types import TensorType
from ggufrun.errors import FormatError

UNMULTIPLIED = frozenset(
    {
        TensorType.Q8_1,
        TensorType.Q8_K,
        TensorType.I8,
        TensorType.I16,
        TensorType.I32,
        TensorType.I64,
        TensorType.F64,
    }
)
"""Types without an entry for a product: sums on the way, counts, and numbers that only converters know."""

INTEGERS = frozenset({TensorType.I32, TensorType.I64})

ELEMENTWISE = re.compile(
    r"""
    .*norm(_\d|_exps|_key|_query|_conv)?(\.weight|\.bias)? | .*\.bias | .*[._]scales? | .*_scale\.weight
    | .*[._](lerp_\w+|k_k|k_a|r_k|w0|a0|v0|first|decay|ln)\.weight | .*_base\.weight | .*_res_score\.weight
    | .*(ssm_a|ssm_d|exp_probs_b|exp_probs_b_vl|attn_sinks|gamma)(\.weight)?
    | .*(ssm_conv1d|ssm_conv1d_[qkv]|ple_conv1d|shortconv\.conv)\.weight
    | rope_(freqs|factors_long|factors_short)\.weight | .*hrm\.z_l_init.*
    """,
    re.VERBOSE,
)
"""Names of tensors that are added to or multiplied with values one by one, or slide along them: F32, always."""

INDEXES = re.compile(r"(.*ffn_gate_tid2eid|masked_embd_ordering|d2t)(\.weight)?")
"""Names of tensors that hold numbers of tokens or experts, not weights."""


INDEXER = ("indexer.attn_k.weight", "indexer.attn_q_b.weight", "indexer.proj.weight")
NEEDED: tuple[tuple[tuple[str, ...], str, tuple[tuple[str, ...], ...]], ...] = (
    (("phi3",), "attn_norm.weight", (("attn_qkv.weight",), ("attn_q.weight",))),
    (("falcon-h1",), "ssm_conv1d.weight", (("ssm_conv1d.bias",),)),
    (("qwen35", "qwen35moe"), "ssm_conv1d.weight", (("attn_qkv.weight", "attn_gate.weight"),)),
    (("qwen3next",), "ssm_conv1d.weight", (("ssm_in.weight",), ("attn_qkv.weight", "attn_gate.weight"))),
    (("grok", "hy-v3", "mimo2", "step35"), "ffn_norm.weight", (("ffn_down.weight",), ("ffn_down_exps.weight",))),
    *((("glm-dsa",), name, (INDEXER,)) for name in (*INDEXER, "indexer.k_norm.weight")),
)
"""Architectures, a tensor that a layer of theirs has, and what that layer then needs: all of one of the lists.

llama.cpp loads such a layer without them, and crashes when it computes. What it asks for by itself is not here.
"""


def layers_of(tensors: Iterable[TensorInfo]) -> dict[int, set[str]]:
    """The names of each layer's tensors, without the layer: ``{0: {"attn_q.weight", ...}, ...}``."""
    layers: dict[int, set[str]] = defaultdict(set)
    for info in tensors:
        if match := LAYER.fullmatch(info.name):
            layers[int(match[1])].add(match[2])
    return layers


LAYER = re.compile(r"blk\.(\d{1,6})\.(.+)")


def check_layers(path: Path, arch: str, tensors: Iterable[TensorInfo]) -> None:
    """FormatError for a layer that lacks what llama.cpp loads without but computes with."""
    rules = [(has, needs) for archs, has, needs in NEEDED if arch in archs]
    for number, names in layers_of(tensors).items():
        for has, needs in rules:
            if has in names and not any(names.issuperset(wanted) for wanted in needs):
                missing = next(name for name in needs[0] if name not in names)
                raise FormatError(f"{path.name} has no blk.{number}.{missing}, which this layer needs", AGAIN)


def check_types(path: Path, tensors: Iterable[TensorInfo]) -> None:
    """FormatError for a tensor whose type llama.cpp cannot compute with."""
    for info in tensors:
        if INDEXES.fullmatch(info.name):
            allowed, use = info.type in INTEGERS, "a list of numbers"
        elif ELEMENTWISE.fullmatch(info.name):
            allowed, use = info.type is TensorType.F32, "added or multiplied value by value, which takes F32"
        else:
            allowed, use = info.type not in UNMULTIPLIED, "a matrix, and matrices of that type cannot be multiplied"
        if not allowed:
            raise FormatError(f"{path.name} has {info.name} as {info.type.name}; it is {use}", AGAIN)
