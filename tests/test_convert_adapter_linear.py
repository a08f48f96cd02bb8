"""Adapters of every linear layer at run time: the engine computes with one what it computes with the merged model, and
the layers of which it takes no notice are those that are refused.

``SOME`` stands for all families' tiny checkpoints, of which the table of ignored weights was made.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from ggufrun.checkpoint.gguf.adapter import is_ignored
from ggufrun.convert import adapter as adapters
from ggufrun.convert import arch, pipeline
from ggufrun.convert.arch.shared.text import is_text
from ggufrun.convert.config import Config
from ggufrun.convert.plan import plan_convert
from ggufrun.engine.adapters import Adapter
from ggufrun.errors import UnsupportedError
from ggufrun.quantize.types import FILE_TYPES
from tests.families.family import replace_vocabulary, some_vocabulary, write
from tests.families.family_cases import CASES
from tests.test_checkpoint_adapters_merge import Arrays, write_adapter
from tests.test_convert_adapter_experts import RANK, logits, random

SOME = (
    "deepseek-v2-lite",
    "deepseek-v3.2-few",
    "gemma-3n-text",
    "glm-4.7-flash-yarn",
    "granite-4-h-small",
    "kimi-linear",
    "lfm2-moe",
    "minicpm3-4b",
    "qwen3-next-80b",
    "youtu-2b",
)

NO_LAYERS = re.compile(r"embed|lm_head|norm|conv|mtp|altup_projections|altup\.prediction_coefs|eh_proj|shared_head")
"""What is not a linear layer of the text, or too small for its effect to be told from rounding."""


def linear_modules(case: str) -> dict[str, tuple[int, ...]]:
    return {
        name.removesuffix(".weight"): shape
        for name, shape in CASES[case].shapes.items()
        if name.endswith(".weight") and len(shape) == 2 and ".experts." not in name and is_text(name)
        if not NO_LAYERS.search(name)
    }


def low_ranks(shapes: dict[str, tuple[int, ...]]) -> Arrays:
    tensors: Arrays = {}
    for seed, (module, (rows, columns)) in enumerate(shapes.items()):
        tensors[f"{module}.lora_A.weight"] = random(2 * seed, RANK, columns)
        tensors[f"{module}.lora_B.weight"] = random(2 * seed + 1, rows, RANK)
    return tensors


def ignored(case: str, modules: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Those that are refused one by one because the engine ignores them."""
    config = Config(Path("config.json"), CASES[case].config)
    family = arch.find(config)
    names = {module: module.rpartition(".")[2] for module in modules}
    stems = {
        "q_proj": "attn_q", "q_a_proj": "attn_q_a", "q_b_proj": "attn_q_b", "kv_a_proj_with_mqa": "attn_kv_a_mqa",
        "kv_b_proj": "attn_kv_b", "wq_b": "indexer.attn_q_b", "wk": "indexer.attn_k", "weights_proj": "indexer.proj",
        "k_proj": "attn_k", "v_proj": "attn_v", "o_proj": "attn_output", "f_a_proj": "ssm_f_a", "f_b_proj": "ssm_f_b",
        "g_a_proj": "ssm_g_a", "g_b_proj": "ssm_g_b", "b_proj": "ssm_beta",
        "modality_router": "altup_router", "per_layer_model_projection": "per_layer_model_proj",
    }  # fmt: skip
    return {
        module: modules[module]
        for module, name in names.items()
        if is_ignored(family.gguf_arch, f"{stems.get(name, name)}.weight")
    }


@pytest.mark.parametrize("case", SOME)
def test_every_linear_layer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    replace_vocabulary(monkeypatch, some_vocabulary)
    base = write(tmp_path / case, CASES[case])
    modules = linear_modules(case)
    unseen = ignored(case, modules)
    seen = {module: shape for module, shape in modules.items() if module not in unseen}
    request = write_adapter(tmp_path / "adapter", low_ranks(seen), r=RANK, lora_alpha=5)
    for plan in (
        plan_convert(base, [FILE_TYPES["F32"]], lambda kind: tmp_path / "base.gguf"),
        plan_convert(base, [FILE_TYPES["F32"]], lambda kind: tmp_path / "merged.gguf", adapters=[request]),
        adapters.plan_adapter(base, request, tmp_path / "adapter.gguf"),
    ):
        pipeline.run(plan, threads=1)
        plan.close()
    plain, merged = logits(tmp_path / "base.gguf"), logits(tmp_path / "merged.gguf")
    added = logits(tmp_path / "base.gguf", Adapter(tmp_path / "adapter.gguf"))
    spread = np.abs(merged - plain).max()
    assert spread > 0.05 and np.abs(added - merged).max() < 0.01 * spread
    # what is refused is what the engine would take no notice of
    for number, (module, shape) in enumerate(unseen.items()):
        request = write_adapter(tmp_path / f"{number}", low_ranks({module: shape}), r=RANK, lora_alpha=5)
        with pytest.raises(UnsupportedError, match=r"ignores adapters of|stored in another shape|changes only"):
            adapters.plan_adapter(base, request, tmp_path / "refused.gguf")
    with monkeypatch.context() as patch:
        patch.setattr(adapters, "is_ignored", lambda arch, name: False)
        # Kimi Linear's output is taken as it is in three of four layers
        flat = {module: shape for module, shape in unseen.items() if not module.endswith(("kv_b_proj", "o_proj"))}
        if not flat:
            return
        request = write_adapter(tmp_path / "unseen", low_ranks(flat), r=RANK, lora_alpha=5)
        plan = adapters.plan_adapter(base, request, tmp_path / "unseen.gguf")
        pipeline.run(plan, threads=1)
        plan.close()
    found = logits(tmp_path / "base.gguf", Adapter(tmp_path / "unseen.gguf"))
    np.testing.assert_allclose(found, plain, atol=1e-6)
