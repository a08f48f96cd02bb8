"""Types that llama.cpp cannot compute with, and tensors that it computes with although they are not there."""

from __future__ import annotations

from pathlib import Path

import pytest

from ggufrun.checkpoint.gguf.file import TensorInfo
from ggufrun.checkpoint.gguf.tensor_types import TensorType
from ggufrun.checkpoint.gguf.uses import check_layers, check_types
from ggufrun.errors import FormatError

PATH = Path("x.gguf")


def tensor(name: str, kind: str = "F32", shape: tuple[int, ...] = (32, 256)) -> TensorInfo:
    return TensorInfo(name, shape, TensorType[kind], 0)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *(("blk.0.ffn_up.weight", kind) for kind in ("F32", "F16", "BF16", "Q4_K", "IQ1_S", "TQ2_0", "MXFP4", "Q1_0")),
        ("token_embd.weight", "Q6_K"),
        ("blk.3.attn_norm.weight", "F32"),
        ("blk.3.attn_q.bias", "F32"),
        ("blk.0.ssm_a", "F32"),
        ("blk.1.ffn_gate_inp_shexp.weight", "F16"),
        ("blk.0.ffn_gate_tid2eid.weight", "I32"),
    ],
)
def test_types_that_are_computed_with(name: str, kind: str) -> None:
    check_types(PATH, [tensor(name, kind)])


@pytest.mark.parametrize(
    ("name", "kind", "why"),
    [
        *(
            ("blk.0.ffn_up.weight", kind, "cannot be multiplied")
            for kind in ("I8", "I16", "I32", "I64", "F64", "Q8_1", "Q8_K")
        ),
        ("token_embd.weight", "I32", "cannot be multiplied"),
        ("blk.0.attn_norm.weight", "F16", "value by value"),
        ("output_norm.weight", "I32", "value by value"),
        ("blk.0.attn_q.bias", "BF16", "value by value"),
        ("blk.0.ffn_down_exps.scale", "F16", "value by value"),
        ("rope_freqs.weight", "F64", "value by value"),
        ("blk.0.ssm_conv1d.weight", "Q8_0", "value by value"),
        ("blk.0.shortconv.conv.weight", "F16", "value by value"),
        ("blk.0.exp_probs_b.bias", "I64", "value by value"),
        ("blk.0.attn_sinks.weight", "F16", "value by value"),
        ("blk.0.ffn_gate_tid2eid.weight", "F32", "a list of numbers"),
    ],
)
def test_types_that_are_not(name: str, kind: str, why: str) -> None:
    with pytest.raises(FormatError, match=rf"x\.gguf has {name} as {kind}; it is .*{why}"):
        check_types(PATH, [tensor(name, kind)])


@pytest.mark.parametrize(
    ("arch", "names", "missing"),
    [
        ("phi3", "attn_norm attn_qkv", None),
        ("phi3", "attn_norm attn_q attn_k attn_v", None),
        ("phi3", "attn_norm ffn_up", "attn_qkv"),
        ("llama", "attn_norm ffn_up", None),
        ("qwen35", "ssm_conv1d attn_qkv", "attn_gate"),
        ("qwen35", "attn_q attn_norm", None),
        ("qwen3next", "ssm_conv1d ssm_in", None),
        ("qwen3next", "ssm_conv1d attn_qkv", "ssm_in"),
        ("glm-dsa", "indexer.k_norm indexer.attn_k indexer.attn_q_b", "indexer.proj"),
        ("glm-dsa", "attn_norm", None),
        ("mimo2", "ffn_norm ffn_down_exps", None),
        ("mimo2", "ffn_norm", "ffn_down"),
    ],
)
def test_what_a_layer_needs(arch: str, names: str, missing: str | None) -> None:
    tensors = [tensor("token_embd.weight"), *(tensor(f"blk.1.{name}.weight") for name in names.split())]
    if missing is None:
        check_layers(PATH, arch, tensors)
        return
    with pytest.raises(FormatError, match=rf"x\.gguf has no blk\.1\.{missing}\.weight, which this layer needs"):
        check_layers(PATH, arch, tensors)
