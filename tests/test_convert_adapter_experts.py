"""Adapters of experts at run time: llama.cpp computes with a GGUF adapter what it computes with the merged model.

The merge itself is held against PEFT in ``test_checkpoint_experts``; here the adapters are made in PEFT's layouts for
the tiny checkpoints of all families, so that names and shapes are those of published models.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from ggufrun.checkpoint.adapters.adapter import AdapterRequest
from ggufrun.convert import pipeline
from ggufrun.convert.adapter import plan_adapter
from ggufrun.convert.plan import plan_convert
from ggufrun.engine.adapters import Adapter
from ggufrun.engine.context import Context, ContextParams
from ggufrun.engine.model import Model, ModelParams
from ggufrun.errors import UnsupportedError
from ggufrun.native.library import llama
from ggufrun.quantize.types import FILE_TYPES
from tests.families.family import VOCABULARY, replace_vocabulary, some_vocabulary, write
from tests.families.family_cases import CASES
from tests.test_checkpoint_adapters_merge import Arrays, write_adapter

IDS = [1, 5, 17, 200, 33, 90]
RANK = 3

TOGETHER = (
    "qwen3-moe-yarn",
    "qwen2-moe",
    "qwen2-moe-together",
    "mixtral-11-experts",
    "glm-4.5-air",
    "deepseek-v2-lite",
    "deepseek-r1",
    "llama-4-text",
    "gpt-oss-floats",
    "gpt-oss",
    "qwen3-next-80b",
    "qwen3.5-moe",
    "qwen3-vl-moe",
    "granite-moe",
    "ernie-4.5-moe",
    "hunyuan-a13b",
    "lfm2-moe",
    "minimax-m2",
    "olmoe",
    "kimi-linear",
)
"""Checkpoints whose experts are parameters of the running model."""

APART = ("qwen3-moe-yarn", "mixtral-11-experts", "deepseek-v2-lite", "ling-lite")
"""Checkpoints whose experts were modules of their own in transformers 4, or are in their own code."""

INPUT_FIRST = ("llama-4-text", "gpt-oss-floats", "gpt-oss")


def random(seed: int, *shape: int) -> npt.NDArray[np.float32]:
    values = np.random.default_rng(seed).standard_normal(shape) * 0.3
    return values.astype(np.float32)


def layers(case: str) -> dict[str, tuple[int, int, int]]:
    """Each module of experts, as transformers 5 calls it, with the number of experts, their inner size and width."""
    found: dict[str, tuple[int, int, int]] = {}
    counts: dict[str, int] = {}
    for name, shape in CASES[case].shapes.items():
        apart = re.fullmatch(r"(.+experts)\.(\d+)\.(?:gate_proj|w1)\.weight", name)
        module = name.rpartition(".")[0].replace("block_sparse_moe", "mlp")
        if apart:
            module = apart[1].replace("block_sparse_moe", "mlp")
            counts[module] = max(counts.get(module, 0), int(apart[2]) + 1)
            found[module] = counts[module], *shape  # type: ignore[assignment]
        elif name.endswith("experts.gate_up_proj_blocks"):
            found[module] = shape[0], shape[1] // 2, shape[2] * 32
        elif name.endswith("experts.gate_up_proj"):
            experts, one, other = shape
            in_first = case in INPUT_FIRST or case == "qwen3-vl-moe"
            found[module] = (experts, other // 2, one) if in_first else (experts, one // 2, other)
        elif name.endswith("block_sparse_moe.input_linear.weight"):
            found[module.replace("input_linear", "experts")] = shape[0], shape[1] // 2, shape[2]
    assert found
    return found


def adapter_of_parameters(case: str) -> Arrays:
    tensors: Arrays = {}
    for number, (module, (experts, inner, width)) in enumerate(layers(case).items()):
        both, down = (2 * inner, width), (width, inner)
        if case == "llama-4-text":
            # peft takes its parameters for (out, in), whatever they are
            both, down = both[::-1], down[::-1]
        for seed, (part, (rows, columns)) in enumerate(((".base_layer", both), ("", down))):
            rank = (2 if part else 1) * RANK * experts
            tensors[f"{module}{part}.lora_A.weight"] = random(4 * number + seed, rank, columns)
            tensors[f"{module}{part}.lora_B.weight"] = random(4 * number + seed + 2, rows, rank)
    return tensors


def adapter_of_modules(case: str) -> Arrays:
    """Of all experts but one."""
    tensors: Arrays = {}
    for seed, (name, shape) in enumerate(CASES[case].shapes.items()):
        match = re.fullmatch(r"(.+experts\.(\d+)\..+)\.weight", name)
        if match and match[2] != "2":
            tensors[f"{match[1]}.lora_A.weight"] = random(2 * seed, RANK, shape[1])
            tensors[f"{match[1]}.lora_B.weight"] = random(2 * seed + 1, shape[0], RANK)
    return tensors


PARAMETERS: dict[str, Any] = {
    "r": RANK,
    "lora_alpha": 5,
    "target_parameters": ["experts.gate_up_proj", "experts.down_proj"],
    "rank_pattern": {r".*\.gate_up_proj": 2 * RANK},
    "alpha_pattern": {r".*\.gate_up_proj": 7},
    "peft_version": "0.21.2",
}


def logits(model: Path, *adapters: Adapter) -> npt.NDArray[np.float32]:
    with (
        Model(ModelParams(model, gpu_layers=0)) as opened,
        Context(opened, ContextParams(n_ctx=64, threads=1, adapters=adapters)) as context,
    ):
        context.feed(IDS)
        found = llama().llama_get_logits_ith(context.pointer, -1)
        return np.array([found[number] for number in range(VOCABULARY)], np.float32)


def assert_same_at_run_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str, request: AdapterRequest
) -> None:
    replace_vocabulary(monkeypatch, some_vocabulary)
    base = write(tmp_path / case, CASES[case])
    plans = [
        plan_convert(base, [FILE_TYPES["F32"]], lambda kind: tmp_path / "base.gguf"),
        plan_convert(base, [FILE_TYPES["F32"]], lambda kind: tmp_path / "merged.gguf", adapters=[request]),
        plan_adapter(base, request, tmp_path / "adapter.gguf"),
    ]
    for plan in plans:
        pipeline.run(plan, threads=1)
        plan.close()
    plain, merged = logits(tmp_path / "base.gguf"), logits(tmp_path / "merged.gguf")
    added = logits(tmp_path / "base.gguf", Adapter(tmp_path / "adapter.gguf"))
    spread = np.abs(merged - plain).max()
    assert spread > 0.01
    assert np.abs(added - merged).max() < 0.002 * spread + 1e-5


@pytest.mark.parametrize("case", TOGETHER)
def test_parameters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    request = write_adapter(tmp_path / "adapter", adapter_of_parameters(case), **PARAMETERS)
    assert_same_at_run_time(tmp_path, monkeypatch, case, request)


def test_experts_that_llama_cpp_scales(tmp_path: Path) -> None:
    request = write_adapter(tmp_path / "adapter", adapter_of_parameters("gemma-4-26b-a4b"), **PARAMETERS)
    base = write(tmp_path / "base", CASES["gemma-4-26b-a4b"])
    with pytest.raises(UnsupportedError, match="multiplies by a scale, but not what an adapter adds"):
        plan_adapter(base, request, tmp_path / "adapter.gguf")


@pytest.mark.parametrize("case", APART)
def test_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    request = write_adapter(tmp_path / "adapter", adapter_of_modules(case), r=RANK, lora_alpha=5)
    assert_same_at_run_time(tmp_path, monkeypatch, case, request)
