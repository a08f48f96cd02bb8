"""GGUF adapters that would end the engine's process are refused before it sees them, and what fits is added.

Each refused case but the types was seen to end the process, or to read past the end of its matrices.
"""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt
import pytest

from ggufrun.convert import pipeline
from ggufrun.convert.plan import plan_convert
from ggufrun.engine.adapters import Adapter
from ggufrun.engine.context import Context, ContextParams
from ggufrun.engine.model import ModelParams
from ggufrun.errors import FormatError, GgufrunError, UnsupportedError
from ggufrun.quantize.types import FILE_TYPES
from ggufrun.workflows.open_model import open_model
from tests.families.family import replace_vocabulary, some_vocabulary, write
from tests.families.family_cases import CASES

EXPERTS, WIDTH, INNER, TOKENS, RANK = 4, 48, 24, 320, 3
DOWN, QUERY, EMBEDDING = "blk.0.ffn_down_exps.weight", "blk.0.attn_q.weight", "token_embd.weight"
Shape = tuple[int, ...]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One with experts and an output of its own, one whose output is the embedding."""
    folder = tmp_path_factory.mktemp("models")
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        replace_vocabulary(patch, some_vocabulary)
        for case in ("qwen2-moe", "hunyuan-1.8b"):
            found[case] = folder / f"{case}.gguf"
            plan = plan_convert(write(folder / case, CASES[case]), [FILE_TYPES["F32"]], lambda kind: found[case])  # noqa: B023
            pipeline.run(plan, threads=1)
            plan.close()
    return found


def write_gguf_adapter(path: Path, model: Path, weight: str, first: Shape, second: Shape, dtype: npt.DTypeLike) -> None:
    writer = gguf.GGUFWriter(path, gguf.GGUFReader(model).fields["general.architecture"].contents())
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", 4.0)
    for ending, shape in (("lora_a", first), ("lora_b", second)):
        writer.add_tensor(f"{weight}.{ending}", np.ones(shape, dtype))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def add(tmp_path: Path, model: Path, weight: str, first: Shape, second: Shape, dtype: npt.DTypeLike = "f4") -> None:
    write_gguf_adapter(tmp_path / "adapter.gguf", model, weight, first, second, dtype)
    params = ContextParams(n_ctx=64, threads=1, adapters=(Adapter(tmp_path / "adapter.gguf"),))
    with open_model(ModelParams(model, gpu_layers=0), params) as opened, Context(opened, params) as context:
        context.feed([1, 5, 17])


@pytest.mark.parametrize(
    ("weight", "first", "second"),
    [
        (DOWN, (EXPERTS, RANK, INNER), (EXPERTS, WIDTH, RANK)),
        (QUERY, (RANK, WIDTH), (WIDTH, RANK)),
        (QUERY, (1, RANK, WIDTH), (1, WIDTH, RANK)),
        (EMBEDDING, (TOKENS, RANK), (WIDTH, RANK)),
    ],
)
def test_what_fits_is_added(tmp_path: Path, models: dict[str, Path], weight: str, first: Shape, second: Shape) -> None:
    add(tmp_path, models["qwen2-moe"], weight, first, second)


@pytest.mark.parametrize(
    ("model", "weight", "first", "second", "error", "words"),
    [
        ("qwen2-moe", DOWN, (1, RANK, INNER), (1, WIDTH, RANK), FormatError, r"is \(4, 48, 24\) in qwen2-moe"),
        ("qwen2-moe", DOWN, (2, RANK, INNER), (EXPERTS, WIDTH, RANK), FormatError, r"\(2, 3, 24\)"),
        ("qwen2-moe", DOWN, (6, RANK, INNER), (6, WIDTH, RANK), FormatError, r"\(6, 3, 24\)"),
        ("qwen2-moe", DOWN, (RANK, INNER), (WIDTH, RANK), FormatError, r"\(3, 24\)"),
        ("qwen2-moe", QUERY, (2, RANK, WIDTH), (2, WIDTH, RANK), FormatError, r"\(2, 3, 48\)"),
        ("qwen2-moe", QUERY, (RANK, WIDTH), (2, WIDTH, RANK), FormatError, r"\(2, 48, 3\)"),
        ("qwen2-moe", EMBEDDING, (TOKENS, RANK), (WIDTH, 2), FormatError, "give the adapter of this very model"),
        ("hunyuan-1.8b", EMBEDDING, (TOKENS, RANK), (WIDTH, RANK), UnsupportedError, "which is its output, too"),
    ],
)
def test_what_would_end_the_process_is_refused(
    tmp_path: Path,
    models: dict[str, Path],
    model: str,
    weight: str,
    first: Shape,
    second: Shape,
    error: type[GgufrunError],
    words: str,
) -> None:
    with pytest.raises(error, match=words):
        add(tmp_path, models[model], weight, first, second)


def test_whole_numbers_are_no_matrices(tmp_path: Path, models: dict[str, Path]) -> None:
    with pytest.raises(FormatError, match="holds I32 values"):
        add(tmp_path, models["qwen2-moe"], QUERY, (RANK, WIDTH), (WIDTH, RANK), "i4")
