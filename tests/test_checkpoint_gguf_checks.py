"""Headers that would abort llama.cpp are refused before it sees them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ggufrun.checkpoint.gguf.checks import check_hyperparameters
from ggufrun.checkpoint.gguf.file import Header, Kind, TensorInfo, encode
from ggufrun.checkpoint.gguf.tensor_types import TensorType
from ggufrun.errors import FormatError

TENSOR = TensorInfo("x", (2, 2), TensorType.F32, 0)


def header(**values: Any) -> Header:
    """A sound Llama header with some values changed; None leaves a key out."""
    plain: dict[str, Any] = {"block_count": 4, "embedding_length": 64, "attention.head_count": 4}
    metadata = {"general.architecture": encode("llama", Kind.STRING)}
    for key, value in (plain | {name.replace("__", "."): value for name, value in values.items()}).items():
        if isinstance(value, str):
            metadata[f"llama.{key}"] = encode(value, Kind.STRING)
        elif isinstance(value, list):
            metadata[f"llama.{key}"] = encode(value, Kind.ARRAY)
        elif isinstance(value, float):
            metadata[f"llama.{key}"] = encode(value, Kind.FLOAT32)
        elif value is not None:
            metadata[f"llama.{key}"] = encode(value, Kind.UINT32 if value >= 0 else Kind.INT32)
    return Header(metadata, (TENSOR,))


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"expert_count": 8, "expert_used_count": 2},
        {"expert_count": 8, "expert_used_count": 2, "expert_group_count": 4, "expert_group_used_count": 2},
        {"rope__scaling__type": "yarn"},
        {"block_count": None},
        {"attention__head_count": [4, 4, 0, 4]},
        {"rope__dimension_count": 16},
        {"attention__key_length": 128, "rope__dimension_count": 64, "rope__dimension_count_swa": 128},
        {"attention__head_count": [4, 8, 4, 4], "rope__dimension_count": 16},
        {"attention__key_length": 128, "attention__key_length_swa": 64, "rope__dimension_count": 64},
        {"attention__key_length": 128, "attention__key_length_swa": 64, "rope__dimension_count_swa": 64},
        {"attention__layer_norm_rms_epsilon": 0.0, "rope__freq_base": 1e6, "rope__scaling__factor": 0.0},
        {"activation_sparsity_scale": [-float("inf"), 1.5]},
        {"context_length": 10485760, "vocab_size": 262144},
        {"rope__dimension_sections": [4, 2, 2, 0]},
        {"rope__dimension_sections": [8, 8, 0, 0]},
        {"rope__dimension_sections": 4},
        {"attention__key_length": 128, "rope__dimension_sections": [64, 32, 16, 16]},
    ],
)
def test_sound_ones(values: dict[str, Any]) -> None:
    check_hyperparameters(Path("x.gguf"), header(**values))


@pytest.mark.parametrize(
    "values",
    [
        {"block_count": 0},
        {"block_count": 513},
        {"block_count": -1},
        {"block_count": "four"},
        {"nextn_predict_layers": 5},
        {"nextn_predict_layers": 4},
        {"expert_count": 2000, "expert_used_count": 2},
        {"expert_count": 8},
        {"expert_used_count": 2},
        {"expert_count": 8, "expert_used_count": 9},
        {"expert_count": 8, "expert_used_count": 2, "expert_group_count": 3, "expert_group_used_count": 1},
        {"expert_count": 8, "expert_used_count": 2, "expert_group_count": 4},
        {"embedding_length": 0},
        {"attention__head_count": 0},
        {"rope__scaling__type": "mystery"},
        {"rope__dimension_count": 0},
        {"rope__dimension_count": 5},
        {"rope__dimension_count": 18},
        {"rope__dimension_sections": [8, 8, 8, 8]},
        {"rope__dimension_sections": 5},
        {"rope__dimension_sections": [8, 8, 1, 0]},
        {"attention__key_length": 128, "rope__dimension_count": 130},
        {"attention__key_length": 128, "attention__key_length_swa": 64},
        {"attention__key_length": 128, "attention__key_length_swa": 64, "rope__dimension_count": 96},
        {"attention__key_length": 1 << 20},
        {"ssm__inner_size": 1 << 24},
        {"attention__sliding_window": (1 << 31) - 1},
        {"attention__head_count_kv": [4, 4, 1 << 20, 4]},
        {"embedding_length": 1 << 24},
        {"context_length": (1 << 32) - 1},
        {"vocab_size": (1 << 32) - 1},
        {"attention__layer_norm_rms_epsilon": -1e-5},
        {"attention__layer_norm_epsilon": float("inf")},
        {"attention__scale": float("nan")},
        {"rope__freq_base": 0.0},
        {"rope__freq_base_swa": -10000.0},
        {"rope__scaling__factor": float("inf")},
        {"activation_sparsity_scale": [0.5, float("nan")]},
    ],
)
def test_others(values: dict[str, Any]) -> None:
    with pytest.raises(FormatError, match=r"x\.gguf says"):
        check_hyperparameters(Path("x.gguf"), header(**values))


def test_architectures_without_attention_have_no_heads() -> None:
    """Mamba's and RWKV's files say 0, as llama.cpp's converter writes it."""
    metadata = {"general.architecture": encode("mamba", Kind.STRING)}
    metadata |= {
        f"mamba.{key}": encode(value, Kind.UINT32) for key, value in (("block_count", 2), ("embedding_length", 64))
    }
    metadata["mamba.attention.head_count"] = encode(0, Kind.UINT32)
    check_hyperparameters(Path("x.gguf"), Header(metadata, (TENSOR,)))


def test_no_architecture() -> None:
    with pytest.raises(FormatError, match="no architecture"):
        check_hyperparameters(Path("x.gguf"), Header({}, ()))


@pytest.mark.parametrize(
    ("arch", "key", "value", "sound"),
    [
        ("qwen35", "full_attention_interval", 0, 4),
        ("lfm2", "shortconv.l_cache", 0, 3),
        ("ernie4_5-moe", "interleave_moe_layer_step", 0, 1),
        ("granitehybrid", "ssm.group_count", 0, 1),
        ("qwen3next", "ssm.time_step_rank", 0, 32),
        ("olmo2", "attention.sliding_window_pattern", [False, False], [True, False]),
        ("qwen3vl", "n_deepstack_layers", 2, 1),
        ("qwen2vl", "rope.dimension_sections", [0, 0, 0, 4], [0, 2, 0, 0]),
        ("qwen35", "rope.dimension_sections", [-1, 1, 1, 1], [1, 1, 1, 1]),
        ("paddleocr", "rope.dimension_sections", [1 << 30, 1, 1, 1], [8, 4, 4, 0]),
    ],
)
def test_what_only_some_architectures_trip_over(arch: str, key: str, value: Any, sound: Any) -> None:
    for given, refused in ((value, True), (sound, False)):
        plain: dict[str, Any] = {"block_count": 2, "embedding_length": 64, "attention.head_count": 4}
        plain |= {"attention.sliding_window": 8, "rope.dimension_sections": [2, 1, 1, 0]}
        metadata = {"general.architecture": encode(arch, Kind.STRING)}
        for name, number in {**plain, key: given}.items():
            kind = Kind.ARRAY if isinstance(number, list) else Kind.UINT32
            metadata[f"{arch}.{name}"] = encode(number, kind)
        if refused:
            with pytest.raises(FormatError, match=rf"x\.gguf says {key}"):
                check_hyperparameters(Path("x.gguf"), Header(metadata, (TENSOR,)))
        else:
            check_hyperparameters(Path("x.gguf"), Header(metadata, (TENSOR,)))
