"""MXFP4: the blocks mean what the checkpoint's nibbles mean, and stay as they are in every file."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest

from ggufrun.checkpoint.quantized import mxfp4
from ggufrun.checkpoint.quantized.module import Module
from ggufrun.checkpoint.quantized.panels import Panels
from ggufrun.checkpoint.quantized.settings import Settings
from ggufrun.checkpoint.tensor import Tensor
from ggufrun.convert import pipeline, plan
from ggufrun.errors import FormatError, UnsupportedError
from ggufrun.quantize.plan import QuantizeOptions
from ggufrun.quantize.types import FILE_TYPES
from tests.families.family import no_vocabulary, replace_vocabulary, write
from tests.families.family_cases import CASES

E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)
"""The 16 values, from the specification."""


def stored(name: str, values: np.ndarray[tuple[int, ...], np.dtype[np.uint8]], dtype: str = "U8") -> Tensor:
    table = values.reshape(-1, values.shape[-1])
    return Tensor(name, dtype, values.shape, lambda start, stop: table[start:stop])


def repacked(blocks: Tensor, scales: Tensor) -> Tensor:
    return mxfp4.read(Module("w", "w", {"_blocks": blocks, "_scales": scales}, Settings(Path()), Panels()))


def test_blocks_mean_the_same_values() -> None:
    random = np.random.default_rng(1)
    blocks = random.integers(0, 256, (3, 5, 4, 16), np.uint8)
    scales = random.integers(100, 140, (3, 5, 4), np.uint8)
    tensor = repacked(stored("w_blocks", blocks), stored("w_scales", scales))
    assert (tensor.name, tensor.dtype, tensor.shape) == ("w", "MXFP4", (3, 5, 128))
    nibbles = np.stack([blocks & 15, blocks >> 4], axis=-1).reshape(3, 5, 4, 32)
    expected = (E2M1[nibbles] * np.exp2(scales.astype(np.float32) - 127)[..., None]).reshape(15, 128)
    data = np.concatenate([tensor.rows(0, 7), tensor.rows(7, 15)])
    values = gguf.quants.dequantize(data, gguf.GGMLQuantizationType.MXFP4)
    np.testing.assert_array_equal(values, expected)


@pytest.mark.parametrize(
    ("blocks", "scales", "dtype"),
    [
        ((3, 5, 4, 16), (3, 5, 3), "U8"),
        ((3, 5, 4, 15), (3, 5, 4), "U8"),
        ((4, 16), (4,), "U8"),
        ((3, 5, 4, 16), (3, 5, 4), "I8"),
        ((0, 5, 4, 16), (0, 5, 4), "U8"),
    ],
)
def test_blocks_and_scales_that_do_not_fit(blocks: tuple[int, ...], scales: tuple[int, ...], dtype: str) -> None:
    pair = stored("w_blocks", np.zeros(blocks, np.uint8), dtype), stored("w_scales", np.zeros(scales, np.uint8))
    with pytest.raises(FormatError, match=r"w_blocks is|w_scales has"):
        repacked(*pair)


@pytest.mark.parametrize("kind", ["F16", "Q8_0", "Q4_K_M", "Q2_K"])
def test_experts_stay_as_they_are(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str) -> None:
    replace_vocabulary(monkeypatch, no_vocabulary)
    folder = write(tmp_path / "gpt-oss", CASES["gpt-oss"])
    names = ["BF16", kind]
    planned = plan.plan_convert(folder, [FILE_TYPES[name] for name in names], lambda found: tmp_path / found.name)
    pipeline.run(planned, threads=2)
    planned.close()
    plain, other = (gguf.GGUFReader(tmp_path / name) for name in names)
    experts = {tensor.name: tensor.data.tobytes() for tensor in plain.tensors if "_exps.weight" in tensor.name}
    assert len(experts) == 6
    for tensor in other.tensors:
        if tensor.name in experts:
            assert tensor.tensor_type == gguf.GGMLQuantizationType.MXFP4
            assert tensor.data.tobytes() == experts[tensor.name]


def test_a_type_given_by_the_user_counts_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    replace_vocabulary(monkeypatch, no_vocabulary)
    folder = write(tmp_path / "gpt-oss", CASES["gpt-oss"])
    options = QuantizeOptions(tensor_types=(("ffn_up_exps", "q8_0"),))
    names = ["BF16", "Q4_K_M"]
    kinds = [FILE_TYPES[name] for name in names]
    planned = plan.plan_convert(folder, kinds, lambda found: tmp_path / found.name, options)
    pipeline.run(planned, threads=2)
    planned.close()
    plain, other = ({t.name: t for t in gguf.GGUFReader(tmp_path / name).tensors} for name in names)
    name = "blk.1.ffn_up_exps.weight"
    assert other[name].tensor_type == gguf.GGMLQuantizationType.Q8_0
    assert other["blk.1.ffn_gate_exps.weight"].tensor_type == gguf.GGMLQuantizationType.MXFP4
    values = gguf.quants.dequantize(plain[name].data, gguf.GGMLQuantizationType.MXFP4)
    np.testing.assert_array_equal(other[name].data, gguf.quants.quantize(values, gguf.GGMLQuantizationType.Q8_0))


def test_mxfp4_of_another_model_is_refused(tmp_path: Path) -> None:
    case = CASES["gpt-oss"]
    folder = write(tmp_path / "m", case)
    text = (folder / "config.json").read_text().replace("GptOssForCausalLM", "LlamaForCausalLM")
    (folder / "config.json").write_text(text)
    with pytest.raises(UnsupportedError, match="no place in a llama GGUF"):
        plan.plan_convert(folder, (), lambda found: tmp_path / "out.gguf").close()
