"""Adapters that change one tensor of the base under two names: refused with both, for which one counts is unknown."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ggufrun.checkpoint.adapters.adapter import AdapterRequest
from ggufrun.checkpoint.open import open_checkpoint
from ggufrun.convert.adapter import plan_adapter
from ggufrun.errors import FormatError
from tests.test_checkpoint_adapters_merge import Arrays, low_rank

GOLDEN = Path(__file__).parent / "golden"
QUERY, OTHER_QUERY = "model.layers.0.self_attn.q_proj", "model.model.layers.0.self_attn.q_proj"
NORM, EMBEDDING = "model.norm.weight", "model.embed_tokens"
EXPERTS = "model.layers.0.mlp.experts"


def twice(folder: Path, case: str, more: Arrays, settings: dict[str, object] | None = None) -> Path:
    """The golden case with further tensors in its adapter."""
    shutil.copytree(GOLDEN / case, folder)
    path = folder / "adapter_model.safetensors"
    save_file(load_file(path) | {f"base_model.model.{name}": array for name, array in more.items()}, path)
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | (settings or {})))
    return folder


def query(module: str) -> Arrays:
    return low_rank(module, out=8, inner=8, rank=2)


CASES: dict[str, tuple[str, Arrays, str, str]] = {
    "another prefix": ("peft-tokens/tied-tokens", query(OTHER_QUERY), f"{QUERY}.weight", f"{OTHER_QUERY}.weight"),
    "torch.compile": (
        "peft-tokens/tied-tokens",
        query(QUERY.replace("self_attn", "_orig_mod.self_attn")),
        f"{QUERY}.lora_A.weight",
        "layers.0._orig_mod.self_attn.q_proj.lora_A.weight",
    ),
    "whole tensors": (
        "peft-tokens/tied-tokens",
        {NORM: np.ones(8, np.float32), f"model.{NORM}": np.ones(8, np.float32)},
        NORM,
        f"model.{NORM}",
    ),
    "a whole tensor and a change": (
        "peft-tokens/tied-tokens",
        {f"{OTHER_QUERY}.weight": np.ones((8, 8), np.float32)},
        f"{QUERY}.weight",
        f"{OTHER_QUERY}.weight",
    ),
    "rows of tokens": (
        "peft-tokens/tied-tokens",
        {f"model.{EMBEDDING}.token_adapter.trainable_tokens_delta": np.ones((2, 8), np.float32)},
        f"{EMBEDDING}.weight",
        f"model.{EMBEDDING}.weight",
    ),
    "an expert singly and together": (
        "peft-experts/qwen3-moe",
        low_rank(f"{EXPERTS}.1.gate_proj", out=6, inner=8, rank=2),
        f"{EXPERTS}.1.gate_proj.weight",
        f"{EXPERTS}.gate_up_proj",
    ),
    "the vision model's name and the text's": (
        "peft-vision/qwen2.5-vl",
        low_rank("model.layers.0.self_attn.q_proj", out=8, inner=8, rank=2),
        "model.language_model.layers.0.self_attn.q_proj.weight",
        "model.layers.0.self_attn.q_proj.weight",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_both_names_are_told(tmp_path: Path, case: str) -> None:
    base, more, one, other = CASES[case]
    folder = twice(tmp_path / "adapter", base, more)
    with pytest.raises(FormatError, match="twice, as") as caught:
        open_checkpoint(GOLDEN / base, [AdapterRequest(folder)])
    _, first, second = caught.value.what.split(" as ")
    told = {first.removesuffix(" and"), second}
    assert any(name.endswith(one) for name in told) and any(name.endswith(other) for name in told), told


@pytest.mark.parametrize(
    ("base", "more", "words"),
    [
        ("peft-vision/qwen2.5-vl", query(QUERY), r"blk\.0\.attn_q\.weight twice"),
        ("peft-experts/mixtral", low_rank(f"{EXPERTS}.1.w1", 12, 8, 2), r"ffn_gate_exps\.weight twice"),
    ],
)
def test_an_adapter_of_its_own_too(tmp_path: Path, base: str, more: Arrays, words: str) -> None:
    folder = twice(tmp_path / "adapter", base, more)
    with pytest.raises(FormatError, match=words):
        plan_adapter(folder, AdapterRequest(folder), tmp_path / "out.gguf").close()


def test_a_base_without_embedding_and_output(tmp_path: Path) -> None:
    """Not a tied one: there is nothing that both could be."""
    folder = twice(tmp_path / "base", "peft-tokens/tied-lora-head", {})
    tensors = load_file(folder / "model.safetensors")
    del tensors[f"{EMBEDDING}.weight"]
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(FormatError, match=r"the base has no lm_head\.weight"):
        open_checkpoint(folder, [AdapterRequest(folder)])
