"""Quantized weights whose parts do not fit, or whose settings lie: one line that names the true cause."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from ggufrun.checkpoint.open import open_checkpoint
from ggufrun.checkpoint.quantized.blocks import widened
from ggufrun.errors import FormatError, GgufrunError, UnsupportedError
from tests.oracles.quantized_samples import SAMPLES, Sample
from tests.test_checkpoint_dequantized import write

Part = tuple[str, npt.NDArray[Any]]


def cut(sample: Sample, ending: str, *slices: Any) -> dict[str, Part]:
    """A part of which a piece is missing."""
    dtype, values = sample.tensors[ending]
    return {ending: (dtype, np.ascontiguousarray(values[slices]))}


def grown(sample: Sample, ending: str, axis: int) -> dict[str, Part]:
    """A part that has one row or column too many."""
    dtype, values = sample.tensors[ending]
    return {ending: (dtype, np.concatenate([values, values.take([0], axis)], axis))}


def retyped(sample: Sample, ending: str, dtype: str) -> dict[str, Part]:
    """The same bytes, said to be of another type."""
    return {ending: (dtype, sample.tensors[ending][1])}


GPTQ, AWQ, GEMV, FAST = (SAMPLES[name] for name in ("gptq-4bit-v1-order", "awq-gemm", "awq-gemv", "awq-gemv-fast"))
NF4, NESTED, INT8 = SAMPLES["bnb-nf4"], SAMPLES["bnb-nf4-nested"], SAMPLES["bnb-8bit"]
PACKED, ASYM, FP8 = SAMPLES["ct-4bit-sym"], SAMPLES["ct-4bit-asym"], SAMPLES["ct-fp8-channel"]
NVFP4, MODELOPT, MXFP4, BITNET = (SAMPLES[name] for name in ("ct-nvfp4", "modelopt-nvfp4", "ct-mxfp4", "bitnet"))
STATE = ".quant_state.bitsandbytes__nf4"


def index(*values: int) -> dict[str, Part]:
    return {".g_idx": ("I32", np.resize(np.array(values, np.int32), GPTQ.shape[1]))}


def state(**changes: Any) -> dict[str, Part]:
    said = {"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": list(NF4.shape)} | changes
    text = json.dumps({key: value for key, value in said.items() if value != "absent"}).encode()
    return {STATE: ("U8", np.frombuffer(text, np.uint8))}


def text(data: bytes) -> dict[str, Part]:
    return {STATE: ("U8", np.frombuffer(data, np.uint8))}


CASES: list[tuple[Sample, dict[str, Any], type[GgufrunError], str]] = [
    (GPTQ, cut(GPTQ, ".scales", slice(None), slice(1)), FormatError, r"scales has the shape \(3, 1\).*\(groups, 64\)"),
    (GPTQ, cut(GPTQ, ".scales", slice(2)), FormatError, r"qzeros has the shape \(3, 8\).*\(2, 8\)"),
    (GPTQ, grown(GPTQ, ".qzeros", 1), FormatError, r"qzeros has the shape \(3, 9\)"),
    (GPTQ, cut(GPTQ, ".g_idx", slice(95)), FormatError, r"g_idx has the shape \(95,\).*\(96,\)"),
    (GPTQ, index(0, 3), FormatError, "g_idx names group 3 of 3"),
    (GPTQ, index(0, -1), FormatError, "g_idx names group -1 of 3"),
    (GPTQ, index(0, (1 << 31) - 1), FormatError, "g_idx names group 2147483647 of 3"),
    (GPTQ, {".scales": None}, FormatError, r"has no \S+up_proj\.scales"),
    (GPTQ, {".qzeros": None}, FormatError, r"has no \S+up_proj\.qzeros"),
    (GPTQ, {".qweight": None}, FormatError, "part of a quantized weight whose other parts are missing"),
    (GPTQ, retyped(GPTQ, ".qweight", "F32"), FormatError, "qweight is F32, not I32"),
    (GPTQ, retyped(GPTQ, ".scales", "BF16") | retyped(GPTQ, ".g_idx", "F32"), FormatError, "g_idx is F32"),
    (GPTQ, retyped(GPTQ, ".scales", "I16"), FormatError, "scales is I16, not F16 or BF16 or F32"),
    (AWQ, cut(AWQ, ".scales", slice(None), slice(63)), FormatError, r"scales has the shape \(4, 63\)"),
    (AWQ, cut(AWQ, ".scales", slice(3)), FormatError, r"scales has the shape \(3, 64\).*128 inputs in equal groups"),
    (AWQ, cut(AWQ, ".qzeros", slice(3)), FormatError, r"qzeros has the shape \(3, 8\).*\(4, 8\)"),
    (AWQ, {".scales": None}, FormatError, r"has no \S+up_proj\.scales"),
    (GEMV, cut(GEMV, ".qzeros", slice(None), slice(1)), FormatError, r"qzeros has the shape \(64, 1\)"),
    (FAST, cut(FAST, ".qzeros", slice(4)), FormatError, r"qzeros has the shape \(4, 64\)"),
    (NF4, cut(NF4, "", slice(1535)), FormatError, r"1535 bytes, its quant_state says the shape \(48, 64\)"),
    (NF4, cut(NF4, ".absmax", slice(47)), FormatError, r"absmax has the shape \(47,\).*\(48,\)"),
    (NF4, retyped(NF4, ".absmax", "I32"), FormatError, "absmax is I32, not F32"),
    (NF4, {".absmax": None}, FormatError, r"has no \S+up_proj\.weight\.absmax"),
    (NF4, {STATE: None}, FormatError, "part of a quantized weight whose other parts are missing"),
    (NF4, state(shape=[0, 64]), FormatError, r"says the shape \[0, 64\]"),
    (NF4, state(shape=[1 << 60, 64]), FormatError, "says the shape"),
    (NF4, state(shape="absent"), FormatError, "not a quantization state: 'shape'"),
    (NF4, state(shape=[64, 49]), FormatError, r"1536 bytes, its quant_state says the shape \(64, 49\)"),
    (NF4, state(blocksize=0), FormatError, "blocks of 0"),
    (NF4, state(blocksize=-64), FormatError, "blocks of -64"),
    (NF4, state(dtype="int8"), FormatError, "type int8"),
    (NF4, state(nested_blocksize=256, nested_offset=0.1), FormatError, "absmax is F32, not U8"),
    (NF4, state(nested_blocksize=0, nested_offset=0.1), FormatError, "nested blocks of 0"),
    (NF4, state(nested_blocksize=256, nested_offset="x"), FormatError, "not a quantization state"),
    (NF4, state(nested_blocksize=256), FormatError, "not a quantization state: 'nested_offset'"),
    (NF4, text(b"[" * 10_000), FormatError, "not a quantization state"),
    (NF4, text(b"[]"), FormatError, "not a quantization state"),
    (NF4, text(b"\xff{"), FormatError, "not a quantization state"),
    (NF4, text(b" " * 70_000), FormatError, "has 70000 bytes"),
    (NESTED, cut(NESTED, ".nested_quant_map", slice(255)), FormatError, r"nested_quant_map has the shape \(255,\)"),
    (NESTED, grown(NESTED, ".nested_absmax", 0), FormatError, r"nested_absmax has the shape \(2,\).*\(1,\)"),
    (NESTED, {".nested_absmax": None}, FormatError, r"has no \S+\.nested_absmax"),
    (INT8, cut(INT8, ".SCB", slice(47)), FormatError, r"SCB has the shape \(47,\).*\(48,\)"),
    (INT8, {".weight": None}, FormatError, r"has no \S+up_proj\.weight"),
    (INT8, retyped(INT8, ".weight", "U8"), FormatError, "weight is U8, not I8"),
    (INT8, {".weight_format": ("U8", np.ones((), np.uint8))}, UnsupportedError, "order of one kind of GPU"),
    (PACKED, {"_shape": ("I64", np.array([48, 65]))}, FormatError, r"weight_packed has the shape \(48, 8\)"),
    (PACKED, {"_shape": ("I64", np.array([47, 64]))}, FormatError, r"says \(47, 64\).*\(48, 8\)"),
    (PACKED, {"_shape": ("I64", np.array([48, -64]))}, FormatError, r"says \(48, -64\)"),
    (PACKED, {"_shape": ("I64", np.array([48, 1 << 40]))}, FormatError, r"says \(48, 1099511627776\)"),
    (PACKED, {"_shape": None}, FormatError, r"has no \S+weight_shape"),
    (PACKED, {"_scale": None}, FormatError, r"has no \S+weight_scale"),
    (PACKED, cut(PACKED, "_scale", slice(47)), FormatError, r"weight_scale has the shape \(47, 2\).*\(48, groups\)"),
    (
        PACKED,
        retyped(PACKED, "_scale", "F8_E4M3") | {"_scale": ("I16", np.ones((48, 2), np.int16))},
        FormatError,
        "I16",
    ),
    (PACKED, {"_scale": ("F16", np.ones((48, 3), np.float16))}, FormatError, "equal groups of 64 inputs"),
    (PACKED, {"_g_idx": ("I32", np.full(64, 2, np.int32))}, FormatError, "names group 2 of 2"),
    (PACKED, {"_g_idx": ("I32", np.zeros(63, np.int32))}, FormatError, r"g_idx has the shape \(63,\)"),
    (ASYM, cut(ASYM, "_zero_point", slice(5)), FormatError, r"zero_point has the shape \(5, 2\).*\(6, 2\)"),
    (FP8, cut(FP8, "_scale", slice(47)), FormatError, r"weight_scale has the shape \(47, 1\)"),
    (FP8, {"_scale": None}, UnsupportedError, "FP8 without a scale"),
    (FP8, retyped(FP8, "_scale", "I16"), UnsupportedError, "a scale of type I16"),
    (NVFP4, cut(NVFP4, "_scale", slice(31)), FormatError, r"weight_scale has the shape \(31, 8\).*\(32, 8\)"),
    (NVFP4, {"_global_scale": ("F32", np.ones(3, np.float32))}, FormatError, r"global_scale has the shape \(3,\)"),
    (MODELOPT, {"_scale_2": ("F32", np.ones(2, np.float32))}, FormatError, r"scale_2 has the shape \(2,\)"),
    (MXFP4, cut(MXFP4, "_scale", slice(None), slice(3)), FormatError, r"weight_scale has the shape \(32, 3\)"),
    (MXFP4, {"_scale": ("U8", np.ones((32, 8), np.uint8))}, FormatError, r"weight_scale has the shape \(32, 8\)"),
    (BITNET, {"_scale": ("BF16", np.ones(2, np.uint16))}, FormatError, "lacks the scales that bitnet stores"),
]


@pytest.mark.parametrize(("sample", "changes", "error", "words"), CASES, ids=range(len(CASES)))
def test_parts_that_do_not_fit(
    tmp_path: Path, sample: Sample, changes: dict[str, Any], error: type[GgufrunError], words: str
) -> None:
    write(tmp_path, sample, **changes)
    with pytest.raises(error, match=words) as caught:
        open_checkpoint(tmp_path)
    assert "\n" not in str(caught.value) and caught.value.todo


SETTINGS: list[tuple[Sample, dict[str, Any], str]] = [
    (GPTQ, {"bits": 0}, "bits = 0"),
    (GPTQ, {"bits": 5}, "GPTQ with 5 bits"),
    (GPTQ, {"bits": 64}, "GPTQ with 64 bits"),
    (GPTQ, {"bits": 1 << 40}, "bits = 1099511627776"),
    (GPTQ, {"bits": "4"}, 'bits = "4"'),
    (GPTQ, {"bits": [4]}, r"bits = \[4\]"),
    (GPTQ, {"bits": True}, "bits = true"),
    (GPTQ, {"checkpoint_format": "marlin"}, "in the order of marlin"),
    (GPTQ, {"checkpoint_format": "gptq_p"}, "in the order of gptq_p"),
    (GPTQ, {"is_marlin_format": True}, "in the order of marlin"),
    (AWQ, {"bits": 8}, "AWQ with 8 bits"),
    (GEMV, {"group_size": 0}, "groups of 0"),
    (GEMV, {"group_size": 7}, "groups of 7"),
    (GEMV, {"group_size": -7}, "group_size = -7"),
    (GEMV, {"group_size": 1 << 30}, "groups of 1073741824"),
    (GEMV, {"group_size": 1 << 70}, "group_size = 1180591620717411303424"),
    (FAST, {"group_size": "x"}, 'group_size = "x"'),
    (replace(FP8, tensors={**FP8.tensors, "_scale": ("F32", np.ones((5, 5), np.float32))}), {}, "no block size"),
    (SAMPLES["fp8-block"], {"weight_block_size": [0, 32]}, r"blocks of \[0, 32\]"),
    (SAMPLES["fp8-block"], {"weight_block_size": [64, 64]}, r"blocks of \(64, 64\) need \(1, 2\)"),
]


@pytest.mark.parametrize(("sample", "changes", "words"), SETTINGS, ids=range(len(SETTINGS)))
def test_settings_that_lie(tmp_path: Path, sample: Sample, changes: dict[str, Any], words: str) -> None:
    write(tmp_path, sample, {**sample.settings, **changes})
    with pytest.raises(GgufrunError, match=words) as caught:
        open_checkpoint(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", SAMPLES)
def test_files_cut_short(tmp_path: Path, name: str) -> None:
    write(tmp_path, SAMPLES[name])
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(FormatError, match="cut short"):
        open_checkpoint(tmp_path)


def test_a_file_that_shrinks_while_it_is_read(tmp_path: Path) -> None:
    write(tmp_path, GPTQ)
    source = open_checkpoint(tmp_path)
    path = tmp_path / "model.safetensors"
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)
    with pytest.raises(FormatError, match="ends at byte"):
        next(iter(source.tensors.values())).rows(0, 64)
    source.close()


def test_a_weight_that_is_there_twice(tmp_path: Path) -> None:
    twice: dict[str, Any] = {".weight": ("F16", np.zeros(GPTQ.shape, np.float16))}
    write(tmp_path, GPTQ, **twice)
    with pytest.raises(FormatError, match="there twice, quantized and as it is"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("name", ["gptq-4bit-v1", "gptq-8bit-v2", "gptq-3bit-v1-order", "awq-gemm", "awq-gemv-fast"])
def test_lost_settings(tmp_path: Path, name: str) -> None:
    """What the tensors leave open is refused, with the file that would tell."""
    write(tmp_path, SAMPLES[name], {})
    words = "nothing says how its zero points" if name.startswith("gptq") else "says groups of None"
    if name == "awq-gemm":
        open_checkpoint(tmp_path).close()
        return
    with pytest.raises(GgufrunError, match=words):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("v2", [False, True])
def test_symmetric_weights_tell_their_format(tmp_path: Path, v2: bool) -> None:
    """Zero points in the middle, or one less."""
    word = np.uint32(0x88888888 if v2 else 0x77777777).astype(np.int32)
    parts = {**GPTQ.tensors, ".qzeros": ("I32", np.full((3, 8), word))}
    found = []
    both: list[dict[str, Any]] = [{}, {**GPTQ.settings, "checkpoint_format": "gptq_v2" if v2 else "gptq"}]
    for number, said in enumerate(both):
        write(tmp_path / str(number), replace(GPTQ, tensors=parts), said)
        source = open_checkpoint(tmp_path / str(number))
        found.append(next(iter(source.tensors.values())).rows(0, 64))
        source.close()
    np.testing.assert_array_equal(found[0], found[1])


@pytest.mark.parametrize("name", [name for name in SAMPLES if name.startswith(("bnb", "ct", "modelopt", "bitnet"))])
def test_tensors_that_tell_everything(tmp_path: Path, name: str) -> None:
    """Without quantization_config, the same values; only BitNet's scale has two meanings, the older one is taken."""
    sample = SAMPLES[name]
    found = []
    for number, said in enumerate((sample.settings, {})):
        write(tmp_path / str(number), sample, dict(said))
        try:
            source = open_checkpoint(tmp_path / str(number))
        except FormatError as error:
            # blocks that are not full
            assert name == "ct-fp8-block" and "no block size" in error.what
            return
        found.append(widened(next(iter(source.tensors.values()))).rows(0, sample.shape[0]))
        source.close()
    if name != "bitnet-auto":
        # without them nothing says that compressed-tensors rounds 8 bits to the type of the scales
        rounding = name.startswith("ct")
        np.testing.assert_allclose(found[0], found[1], rtol=4e-3 * rounding, atol=1e-6 * rounding)
