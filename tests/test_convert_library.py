"""Every byte against ``llama_model_quantize`` of the engine that is installed: the whole file, header and data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ggufrun.checkpoint.gguf.header import read_header
from ggufrun.convert import pipeline
from ggufrun.convert.plan import plan_convert, plan_quantize
from ggufrun.errors import UsageError
from ggufrun.quantize.plan import QuantizeOptions
from ggufrun.quantize.types import FILE_TYPES
from tests.support.checkpoints import write_llama
from tests.support.library import llama_cpp, run_quantizer

NEED_IMATRIX = ["IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ2_M", "IQ3_XXS", "IQ3_XS", "Q2_K_S"]
# Q1_0 has no fallback for rows that do not fit: tests/test_quantize_library.py has it refused as the library does
TYPES = [name for name in FILE_TYPES if name not in (*NEED_IMATRIX, "MXFP4_MOE", "Q1_0")]

SHAPES: dict[str, dict[str, Any]] = {
    # plain: every row is whole blocks
    "even": {"vocab_size": 2304},
    # rows that K-quants cannot take: the library's own fallback; tied embeddings; an odd number of heads
    "odd": {
        "hidden_size": 192,
        "num_attention_heads": 3,
        "num_key_value_heads": 1,
        "intermediate_size": 416,
        "num_hidden_layers": 2,
        "tie_word_embeddings": True,
        "vocab_size": 2100,
    },
}


def library_quantize(source: Path, target: Path, ftype: int, options: QuantizeOptions) -> None:
    """llama.cpp's own quantizer, with the options translated here and not by what is tested."""
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.nthread = ftype, 2
    params.pure, params.allow_requantize = options.pure, options.allow_requantize
    params.quantize_output_tensor = not options.leave_output
    assert run_quantizer(source, target, params)


@pytest.fixture(scope="module", params=list(SHAPES))
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(str(request.param)) / "llama"
    write_llama(folder, **SHAPES[request.param])
    return folder


@pytest.fixture(scope="module")
def gguf_bf16(checkpoint: Path) -> Path:
    """The checkpoint as BF16 GGUF, which holds its values exactly."""
    path = checkpoint.parent / "bf16.gguf"
    plan = plan_convert(checkpoint, [FILE_TYPES["BF16"]], lambda kind: path)
    pipeline.run(plan)
    return path


def run_quantize(source: Path, target: Path, name: str, options: QuantizeOptions) -> bytes:
    plan = plan_quantize(source, [FILE_TYPES[name]], lambda kind: target, options)
    pipeline.run(plan, threads=3, force=True)
    plan.close()
    return target.read_bytes()


@pytest.mark.parametrize("name", TYPES)
def test_quantize_and_convert_write_the_librarys_file(
    checkpoint: Path, gguf_bf16: Path, tmp_path: Path, name: str
) -> None:
    options = QuantizeOptions()
    library_quantize(gguf_bf16, tmp_path / "theirs.gguf", FILE_TYPES[name].ftype, options)
    theirs = (tmp_path / "theirs.gguf").read_bytes()
    assert run_quantize(gguf_bf16, tmp_path / "ours.gguf", name, options) == theirs
    if FILE_TYPES[name].plain:
        # convert writes these in the order of llama.cpp's converter: test_convert_oracle
        return
    plan = plan_convert(checkpoint, [FILE_TYPES[name]], lambda kind: tmp_path / "straight.gguf")
    pipeline.run(plan)
    plan.close()
    assert (tmp_path / "straight.gguf").read_bytes() == theirs


@pytest.mark.parametrize(
    "options", [QuantizeOptions(pure=True), QuantizeOptions(leave_output=True)], ids=["pure", "leave-output"]
)
def test_options(gguf_bf16: Path, tmp_path: Path, options: QuantizeOptions) -> None:
    library_quantize(gguf_bf16, tmp_path / "theirs.gguf", FILE_TYPES["Q4_K_M"].ftype, options)
    ours = run_quantize(gguf_bf16, tmp_path / "ours.gguf", "Q4_K_M", options)
    assert ours == (tmp_path / "theirs.gguf").read_bytes()
    # the model with tied embeddings has no output.weight to leave
    if options.pure or "output.weight" in {info.name for info in read_header(gguf_bf16).tensors}:
        assert ours != run_quantize(gguf_bf16, tmp_path / "plain.gguf", "Q4_K_M", QuantizeOptions())


def test_requantizing_is_refused_and_then_exact(gguf_bf16: Path, tmp_path: Path) -> None:
    q8 = tmp_path / "q8.gguf"
    run_quantize(gguf_bf16, q8, "Q8_0", QuantizeOptions())
    with pytest.raises(UsageError, match="already quantized"):
        run_quantize(q8, tmp_path / "ours.gguf", "Q4_0", QuantizeOptions())
    options = QuantizeOptions(allow_requantize=True)
    library_quantize(q8, tmp_path / "theirs.gguf", FILE_TYPES["Q4_0"].ftype, options)
    assert run_quantize(q8, tmp_path / "ours.gguf", "Q4_0", options) == (tmp_path / "theirs.gguf").read_bytes()


# in the odd shapes every tensor falls back to a type that needs none
@pytest.mark.parametrize("checkpoint", ["even"], indirect=True)
@pytest.mark.parametrize("name", NEED_IMATRIX)
def test_types_that_need_an_importance_matrix_say_so(gguf_bf16: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="importance matrix"):
        run_quantize(gguf_bf16, tmp_path / "ours.gguf", name, QuantizeOptions())
    assert list(tmp_path.iterdir()) == []


def test_several_types_in_one_pass_are_the_same_files(checkpoint: Path, tmp_path: Path) -> None:
    names = ["F16", "Q4_K_M", "Q8_0"]
    together = plan_convert(checkpoint, [FILE_TYPES[name] for name in names], lambda kind: tmp_path / kind.name)
    pipeline.run(together, threads=2)
    for name in names:
        alone = plan_convert(checkpoint, [FILE_TYPES[name]], lambda kind: tmp_path / "alone")
        pipeline.run(alone, threads=1, force=True)
        assert (tmp_path / "alone").read_bytes() == (tmp_path / name).read_bytes()


@pytest.mark.parametrize("dtype", ["F32", "F16", "F64"])
def test_other_precisions(tmp_path: Path, dtype: str) -> None:
    """F64 is read as F32; an F16 or F32 checkpoint quantizes as its own GGUF does."""
    write_llama(tmp_path / "model", dtype=dtype, shards=2, num_hidden_layers=1, vocab_size=2304)
    paths = {}
    for name in ("own", "Q4_K_M"):
        types = [] if name == "own" else [FILE_TYPES[name]]
        plan = plan_convert(tmp_path / "model", types, lambda kind, name=name: tmp_path / name)  # type: ignore[misc]
        pipeline.run(plan)
        paths[name] = plan.targets[0]
    assert paths["own"].file_type.name == ("F16" if dtype == "F16" else "F32")
    library_quantize(paths["own"].path, tmp_path / "theirs", FILE_TYPES["Q4_K_M"].ftype, QuantizeOptions())
    assert (tmp_path / "Q4_K_M").read_bytes() == (tmp_path / "theirs").read_bytes()


def test_values_survive_the_way(checkpoint: Path, gguf_bf16: Path) -> None:
    """Against the safetensors file itself: rows of wq and wk are permuted within a head, the rest is as it was."""
    from ggufrun.checkpoint.gguf.source import GGUFSource
    from ggufrun.checkpoint.open import open_checkpoint

    before, after = open_checkpoint(checkpoint), GGUFSource(gguf_bf16)
    assert read_header(gguf_bf16).architecture == "llama"
    down = before.tensors["model.layers.1.mlp.down_proj.weight"]
    np.testing.assert_array_equal(
        after.tensors["blk.1.ffn_down.weight"].rows(0, down.n_rows), down.rows(0, down.n_rows)
    )
    query = before.tensors["model.layers.0.self_attn.q_proj.weight"]
    mixed = after.tensors["blk.0.attn_q.weight"].rows(0, query.n_rows)
    head = 64 if query.n_per_row == 192 else 32
    # pair i of a head: rows i and i + half in the Hugging Face layout, rows 2i and 2i + 1 in a GGUF
    np.testing.assert_array_equal(mixed[head + 2], query.rows(head + 1, head + 2)[0])
    np.testing.assert_array_equal(mixed[head + 3], query.rows(head + 1 + head // 2, head + 2 + head // 2)[0])
    before.close()
    after.close()
