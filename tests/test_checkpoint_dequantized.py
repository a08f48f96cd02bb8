"""Every method against its own library: values exactly those that ``quantized_oracle.py`` recorded, in any slices."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
import pytest

from ggufrun.checkpoint.open import open_checkpoint
from ggufrun.checkpoint.tensor import Tensor
from tests.checkpoints import safetensors_bytes
from tests.quantized_samples import SAMPLES, Sample

GOLDEN = json.loads((Path(__file__).parent / "golden" / "quantized.json").read_text())
NAME = "model.layers.0.mlp.up_proj"


def write(folder: Path, sample: Sample, settings: dict[str, Any] | None = None, **changes: Any) -> None:
    """A folder that has the weight alone. ``changes`` are parts by their endings, None for one to leave out."""
    folder.mkdir(exist_ok=True)
    said = sample.settings if settings is None else settings
    config = {"model_type": "llama", **sample.config, **({"quantization_config": said} if said else {})}
    (folder / "config.json").write_text(json.dumps(config))
    stem = NAME if any(ending.startswith(".weight") for ending in sample.tensors) else NAME + ".weight"
    if sample.kind in ("gptq", *(f"awq-{kind}" for kind in ("gemm", "gemv", "gemv_fast"))):
        stem = NAME
    tensors = {ending: part for ending, part in {**sample.tensors, **changes}.items() if part is not None}
    (folder / "model.safetensors").write_bytes(
        safetensors_bytes({stem + ending: part for ending, part in tensors.items()})
    )


def values(tensor: Tensor, start: int, stop: int) -> npt.NDArray[np.float32]:
    rows = tensor.rows(start, stop)
    if tensor.dtype == "MXFP4":
        found: npt.NDArray[np.float32] = gguf.quants.dequantize(rows, gguf.GGMLQuantizationType.MXFP4)
        return found
    assert tensor.dtype == "F32" and rows.dtype == np.float32
    return rows


@pytest.mark.parametrize("name", SAMPLES)
def test_values_are_those_of_the_library(tmp_path: Path, name: str) -> None:
    sample, golden = SAMPLES[name], GOLDEN["weights"][name]
    write(tmp_path, sample)
    source = open_checkpoint(tmp_path)
    try:
        assert list(source.tensors) == [NAME + ".weight"]
        tensor = source.tensors[NAME + ".weight"]
        assert tensor.shape == tuple(sample.shape)
        whole = values(tensor, 0, tensor.n_rows) + np.float32(0)
        assert whole.reshape(-1)[:4].tolist() == golden["first"]
        assert hashlib.sha256(whole.tobytes()).hexdigest() == golden["sha256"]
        if golden["type"] != "float32":
            assert tensor.precision in ("", {"float16": "F16", "bfloat16": "BF16"}[golden["type"]])
        for start, stop in ((0, 1), (0, 0), (1, 7), (5, tensor.n_rows), (tensor.n_rows - 1, tensor.n_rows)):
            np.testing.assert_array_equal(values(tensor, start, stop), whole[start:stop])
    finally:
        source.close()


def test_every_sample_was_recorded() -> None:
    assert list(GOLDEN["weights"]) == list(SAMPLES)
