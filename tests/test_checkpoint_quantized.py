"""FP8 checkpoints, as llama.cpp's converter reads them, and what is refused, with advice.

The reference converter's files are recorded as SHA-256 in ``golden/fp8.json``, beside the command that made them.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from ggufrun.checkpoint.open import open_checkpoint
from ggufrun.checkpoint.quantized import fp8_values
from ggufrun.convert import pipeline
from ggufrun.convert.plan import plan_convert
from ggufrun.errors import FormatError, GgufrunError, UnsupportedError
from ggufrun.quantize.types import FILE_TYPES
from tests.conftest import Oracle
from tests.support.checkpoints import TOKENIZER, bf16, llama_config, llama_tensors, safetensors_bytes

Stored = dict[str, tuple[str, npt.NDArray[Any]]]

GOLDEN = Path(__file__).parent / "golden" / "fp8.json"

BLOCKS = {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": [128, 128]}
CHANNELS = {
    "quant_method": "compressed-tensors",
    "format": "float-quantized",
    "config_groups": {"group_0": {"weights": {"num_bits": 8, "type": "float", "strategy": "channel"}}},
}
TENSORS = {"quant_method": "modelopt", "quant_algo": "FP8"}
# 192 and 320 are no multiples of a block
SHAPE: dict[str, Any] = {"hidden_size": 192, "num_attention_heads": 6, "intermediate_size": 320, "num_hidden_layers": 2}

KINDS: dict[str, tuple[dict[str, Any], str]] = {
    "deepseek": (BLOCKS, "F8_E4M3"),
    "e5m2": (BLOCKS, "F8_E5M2"),
    "rows": (CHANNELS, "F8_E4M3"),
    "tensor": (TENSORS, "F8_E4M3"),
}
RUNS = [
    ("deepseek", "f16"),
    ("deepseek", "bf16"),
    ("deepseek", "f32"),
    ("e5m2", "f32"),
    ("rows", "f16"),
    ("tensor", "f16"),
]


def scales(settings: dict[str, Any], shape: tuple[int, int], chance: np.random.Generator) -> npt.NDArray[np.float32]:
    if settings is BLOCKS:
        size: tuple[int, ...] = (-(-shape[0] // 128), -(-shape[1] // 128))
    else:
        size = (shape[0], 1) if settings is CHANNELS else ()
    return np.asarray(chance.uniform(1e-4, 3e-4, size), np.float32)


def write_fp8(folder: Path, kind: str = "deepseek", changes: Stored | None = None) -> None:
    """A Llama whose linear layers are FP8, of all bit patterns that are numbers."""
    settings, dtype = KINDS[kind]
    config = llama_config(quantization_config=settings, **SHAPE)
    chance = np.random.default_rng(8)
    stored: Stored = {}
    for name, values in llama_tensors(config).items():
        if "proj" not in name:
            stored[name] = ("BF16", bf16(values))
            continue
        bits = chance.integers(0, 0x7C if dtype == "F8_E5M2" else 0x7F, values.shape, np.uint8)
        stored[name] = (dtype, bits | (chance.integers(0, 2, values.shape, np.uint8) << 7))
        scale = scales(settings, values.shape, chance)
        stored[f"{name}_scale_inv" if settings is BLOCKS else f"{name}_scale"] = ("F32", scale)
        if settings is TENSORS:
            stored[name.replace(".weight", ".input_scale")] = ("F32", np.float32(1.5).reshape(()))
    stored |= changes or {}
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    shutil.copy(TOKENIZER, folder)
    (folder / "model.safetensors").write_bytes(safetensors_bytes(stored))


def ours(folder: Path, out: Path, kind: str) -> bytes:
    plan = plan_convert(folder, [FILE_TYPES[kind.upper()]], lambda file_type: out)
    pipeline.run(plan, threads=2)
    plan.close()
    return out.read_bytes()


@pytest.mark.parametrize(("name", "kind"), RUNS)
def test_recorded_answers(tmp_path: Path, name: str, kind: str) -> None:
    write_fp8(tmp_path / name, name)
    golden = json.loads(GOLDEN.read_text())
    found = hashlib.sha256(ours(tmp_path / name, tmp_path / "out.gguf", kind)).hexdigest()
    assert found == golden["sha256"][f"{name} {kind}"]


@pytest.mark.parametrize(("name", "kind"), RUNS)
def test_fresh_answers(oracle: Oracle, tmp_path: Path, record: Path | None, name: str, kind: str) -> None:
    write_fp8(tmp_path / name, name)
    out = tmp_path / "theirs.gguf"
    oracle.run(oracle.python, oracle.convert, tmp_path / name, "--outtype", kind, "--outfile", out)
    theirs = out.read_bytes()
    if record is not None:
        golden = json.loads(GOLDEN.read_text())
        golden["sha256"][f"{name} {kind}"] = hashlib.sha256(theirs).hexdigest()
        GOLDEN.write_text(json.dumps(golden, indent=2) + "\n")
    assert ours(tmp_path / name, tmp_path / "ours.gguf", kind) == theirs


def test_every_bit_pattern() -> None:
    """A few that the standard spells out, and what holds of all."""
    e4m3, e5m2 = fp8_values("F8_E4M3"), fp8_values("F8_E5M2")
    assert e4m3[0x7E] == 448 and e4m3[0x08] == 2.0**-6 and e4m3[0x01] == 2.0**-9 and e4m3[0x38] == 1
    assert np.isnan(e4m3[[0x7F, 0xFF]]).all() and np.isnan(e4m3).sum() == 2
    assert e5m2[0x7B] == 57344 and e5m2[0x04] == 2.0**-14 and e5m2[0x01] == 2.0**-16 and e5m2[0x3C] == 1
    assert np.isinf(e5m2[[0x7C, 0xFC]]).all() and np.isnan(e5m2).sum() == 6
    # two bytes of F16 begin with the byte of an E5M2
    halves = (np.arange(256, dtype=np.uint16) << 8).view(np.float16).astype(np.float32)
    np.testing.assert_array_equal(e5m2, halves)
    np.testing.assert_array_equal(e4m3[:128], -e4m3[128:])


def test_rows_in_any_slices(tmp_path: Path) -> None:
    for kind in KINDS:
        write_fp8(tmp_path / kind, kind)
        source = open_checkpoint(tmp_path / kind)
        assert not [name for name in source.tensors if "scale" in name]
        for tensor in source.tensors.values():
            if "proj" in tensor.name:
                assert (tensor.dtype, tensor.precision) == ("F32", "BF16")
                whole = tensor.rows(0, tensor.n_rows)
                for start, stop in ((0, 1), (100, 150), (127, 129), (tensor.n_rows - 3, tensor.n_rows)):
                    start, stop = min(start, tensor.n_rows), min(stop, tensor.n_rows)
                    np.testing.assert_array_equal(tensor.rows(start, stop), whole[start:stop])
        source.close()


def test_its_own_precision_is_bf16(tmp_path: Path) -> None:
    write_fp8(tmp_path / "m")
    plan = plan_convert(tmp_path / "m", [], lambda file_type: tmp_path / "out.gguf")
    assert plan.targets[0].file_type.name == "BF16"
    plan.close()


def change(folder: Path, **settings: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = settings or None
    (folder / "config.json").write_text(json.dumps(config))


NAME = "model.layers.0.mlp.down_proj.weight"
STORED: dict[str, type[np.generic]] = {
    "U8": np.uint8,
    "I8": np.int8,
    "I32": np.int32,
    "F16": np.float16,
    "F8_E4M3": np.uint8,
}


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({f"{NAME}_scale_inv": ("F32", np.ones((3, 3), np.float32))}, FormatError, r"\(3, 3\).*\(2, 3\)"),
        ({f"{NAME}_scale_inv": ("F32", np.ones((2, 3, 1), np.float32))}, FormatError, r"\(2, 3, 1\)"),
        ({f"{NAME}_scale_inv": ("I32", np.ones((2, 3), np.int32))}, UnsupportedError, "I32"),
        ({"model.norm.weight": ("F8_E4M3", np.ones(192, np.uint8))}, UnsupportedError, "model.norm.weight"),
    ],
)
def test_scales_that_do_not_fit(tmp_path: Path, changes: dict[str, Any], error: type[GgufrunError], words: str) -> None:
    write_fp8(tmp_path / "m", changes=changes)
    with pytest.raises(error, match=words):
        open_checkpoint(tmp_path / "m")


def test_blocks_without_a_config_are_not_guessed(tmp_path: Path) -> None:
    write_fp8(tmp_path / "m")
    change(tmp_path / "m")
    with pytest.raises(FormatError, match="no block size"):
        open_checkpoint(tmp_path / "m")


@pytest.mark.parametrize("block", [[0, 128], [128], "128", [128.0, 128], [True, 128], [-1, 1]])
def test_blocks_that_are_none(tmp_path: Path, block: Any) -> None:
    write_fp8(tmp_path / "m")
    change(tmp_path / "m", quant_method="fp8", weight_block_size=block)
    with pytest.raises(FormatError, match="blocks of"):
        open_checkpoint(tmp_path / "m")


@pytest.mark.parametrize(
    ("method", "ending", "dtype", "words"),
    [
        ("hqq", "weight.W_q", "U8", "HQQ"),
        ("aqlm", "codes", "I8", "AQLM"),
        ("torchao", "weight_qdata", "I8", "torchao"),
        ("torchao", "weight_qdata", "F8_E4M3", "torchao"),
        ("quark", "weight", "I32", "Quark"),
        ("eetq", "weight", "I8", "EETQ"),
        ("some_new-one", "weight", "U8", "some-new-one"),
        ("vptq", "centroids", "F16", "VPTQ"),
        ("modelopt", "pre_quant_scale", "F16", "Model Optimizer"),
    ],
)
def test_other_methods_are_refused_by_name(tmp_path: Path, method: str, ending: str, dtype: str, words: str) -> None:
    from tests.support.checkpoints import write_llama

    write_llama(tmp_path / "m", vocab_size=2100, num_hidden_layers=1)
    stray = {f"model.layers.0.mlp.other_proj.{ending}": (dtype, np.zeros((4, 4), STORED[dtype]))}
    (tmp_path / "m" / "model-2.safetensors").write_bytes(safetensors_bytes(stray))
    change(tmp_path / "m", quant_method=method)
    with pytest.raises(UnsupportedError, match=words) as caught:
        open_checkpoint(tmp_path / "m")
    assert "original" in caught.value.todo


@pytest.mark.parametrize("ending", [".qzeros", ".weight.absmax", ".weight_packed", ".weight_scale_2"])
def test_parts_of_a_weight_whose_rest_is_missing(tmp_path: Path, ending: str) -> None:
    write_fp8(tmp_path / "m", changes={"model.layers.0.mlp.other_proj" + ending: ("I32", np.zeros((2, 2), np.int32))})
    with pytest.raises(FormatError, match=r"other_proj\S+ (is a part of|is quantized, but has no)") as caught:
        open_checkpoint(tmp_path / "m")
    assert "missing files" in caught.value.todo


@pytest.mark.parametrize("method", ["gptq", "compressed-tensors", "hqq", "fp8", "mxfp4", "modelopt"])
def test_settings_over_plain_weights_are_a_note(tmp_path: Path, method: str) -> None:
    """Fine-tuning of a dequantized model leaves them."""
    from tests.support.checkpoints import write_llama

    write_llama(tmp_path / "plain", vocab_size=2048)
    write_llama(tmp_path / "m", vocab_size=2048)
    change(tmp_path / "m", quant_method=method, bits=4)
    planned = plan_convert(tmp_path / "m", [FILE_TYPES["F16"]], lambda file_type: tmp_path / "out.gguf")
    assert [method in note and "plain floats" in note for note in planned.notes] == [True]
    pipeline.run(planned, threads=2)
    planned.close()
    assert (tmp_path / "out.gguf").read_bytes()[-1000:] == ours(tmp_path / "plain", tmp_path / "p.gguf", "f16")[-1000:]


def test_fp8_without_any_scales_is_a_cast(tmp_path: Path) -> None:
    from tests.support.checkpoints import write_llama

    weights = write_llama(tmp_path / "m", vocab_size=2048, num_hidden_layers=1)
    bits = np.random.default_rng(1).integers(0, 0x7E, weights[NAME].shape, np.uint8)
    stored = {name: ("F32", values) for name, values in weights.items()} | {NAME: ("F8_E4M3", bits)}
    (tmp_path / "m" / "model.safetensors").write_bytes(safetensors_bytes(stored))
    source = open_checkpoint(tmp_path / "m")
    np.testing.assert_array_equal(source.tensors[NAME].rows(3, 9), fp8_values("F8_E4M3")[bits[3:9]])
    source.close()
