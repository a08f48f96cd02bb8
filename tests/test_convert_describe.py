"""What `inspect` says of memory against what the engine plans, for layers of every kind."""

from __future__ import annotations

from pathlib import Path

import pytest

from ggufrun.convert import pipeline, plan
from ggufrun.convert.describe import describe
from ggufrun.engine.context import ContextParams
from ggufrun.engine.memory import measure
from ggufrun.engine.model import ModelParams
from ggufrun.quantize.types import FILE_TYPES
from tests.families import replace_vocabulary, some_vocabulary, write
from tests.family_cases import CASES

NAMES = (
    "qwen2", "gemma3", "deepseek-v3", "glm-4.5-air", "glm-4.7-flash", "qwen3-next-80b", "qwen3.5-equal-heads", "lfm2",
    "lfm2-moe", "exaone-4-32b", "ling-mini-2",
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_the_cache_is_as_large_as_the_engine_makes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    replace_vocabulary(monkeypatch, some_vocabulary)
    out = tmp_path / "m.gguf"
    planned = plan.plan_convert(write(tmp_path / name, CASES[name]), [FILE_TYPES["F16"]], lambda kind: out)
    pipeline.run(planned, threads=1)
    planned.close()
    found, _ = describe(out)
    memory = found.memory(512)
    assert memory is not None
    engine = measure(ModelParams(out, gpu_layers=0), ContextParams(n_ctx=512))
    assert memory - found.tensor_bytes == engine.total.cache
