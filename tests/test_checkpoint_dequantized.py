"""Every method against its own library: values exactly those that ``quantized_oracle.py`` recorded, in any slices."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
import pytest

from ggufrun.checkpoint.open import open_checkpoint
from ggufrun.checkpoint.quantized.blocks import widened
from ggufrun.checkpoint.tensor import Tensor
from ggufrun.convert import pipeline
from ggufrun.convert.plan import Wishes, plan_convert
from ggufrun.quantize.types import FILE_TYPES, FileType
from tests.families.family import no_vocabulary, replace_vocabulary
from tests.oracles.quantized_samples import SAMPLES, WHOLES, Sample, Whole, ct_packed, stem_of
from tests.support.checkpoints import safetensors_bytes

GOLDEN = json.loads((Path(__file__).parent / "golden" / "quantized.json").read_text())
NAME = "model.layers.0.mlp.up_proj"


def write(folder: Path, sample: Sample, settings: dict[str, Any] | None = None, **changes: Any) -> None:
    """A folder that has the weight alone. ``changes`` are parts by their endings, None for one to leave out."""
    folder.mkdir(exist_ok=True)
    said = sample.settings if settings is None else settings
    config = {"model_type": "llama", **sample.config, **({"quantization_config": said} if said else {})}
    (folder / "config.json").write_text(json.dumps(config))
    stem = stem_of(NAME + ".weight", sample)
    tensors = {ending: part for ending, part in {**sample.tensors, **changes}.items() if part is not None}
    (folder / "model.safetensors").write_bytes(
        safetensors_bytes({stem + ending: part for ending, part in tensors.items()})
    )


def values(tensor: Tensor, start: int, stop: int) -> npt.NDArray[np.float32]:
    rows = tensor.rows(start, stop)
    if tensor.dtype == "MXFP4":
        found: npt.NDArray[np.float32] = gguf.quants.dequantize(rows, gguf.GGMLQuantizationType.MXFP4)
        np.testing.assert_array_equal(found, widened(tensor).rows(start, stop))
        return found
    if tensor.dtype == "NVFP4":
        return widened(tensor).rows(start, stop)
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


@pytest.mark.parametrize("name", ["gptq-4bit-v1", "bnb-nf4"])
def test_weights_of_gpt2_are_turned(tmp_path: Path, name: str) -> None:
    """Its plain ones are (inputs, outputs), as the family expects; quantization makes ordinary layers of them."""
    sample = replace(SAMPLES[name], config={"model_type": "gpt2"})
    write(tmp_path, sample)
    source = open_checkpoint(tmp_path)
    tensor = source.tensors[NAME + ".weight"]
    assert tensor.shape == tuple(reversed(sample.shape))
    assert digest([np.ascontiguousarray(tensor.rows(0, tensor.n_rows).T)]) == GOLDEN["weights"][name]["sha256"]
    np.testing.assert_array_equal(tensor.rows(3, 9), tensor.rows(0, tensor.n_rows)[3:9])
    source.close()


@pytest.mark.parametrize(
    ("packing", "sample"),
    [
        ({"packing_format": "auto_round:auto_gptq"}, "gptq-4bit-v1"),
        ({"packing_format": "auto_round:gptqmodel"}, "gptq-4bit-v2"),
        ({"packing_format": "auto_round"}, "gptq-4bit-v2"),
        ({"backend": "auto_round:gptq:exllamav2"}, "gptq-4bit-v1"),
        ({"backend": "auto_round:exllamav2"}, "gptq-4bit-v2"),
        ({"packing_format": "auto_round:auto_awq"}, "awq-gemm"),
    ],
)
@pytest.mark.parametrize("method", ["auto-round", "intel/auto-round"])
def test_what_autoround_writes(tmp_path: Path, packing: dict[str, str], sample: str, method: str) -> None:
    """GPTQ's or AWQ's tensors, with other names for the formats of zero points."""
    settings = {"quant_method": method, "bits": 4, "group_size": 32, "sym": False, **packing}
    write(tmp_path, SAMPLES[sample], settings)
    source = open_checkpoint(tmp_path)
    assert digest([source.tensors[NAME + ".weight"].rows(0, 64)]) == GOLDEN["weights"][sample]["sha256"]
    source.close()


@pytest.mark.parametrize("count", [1, 2])
def test_biases_of_zeros_that_autogptq_added(tmp_path: Path, count: int) -> None:
    """Its first releases gave every quantized layer one; a kind that is not zero everywhere belongs to the model."""
    sample = SAMPLES["gptq-4bit-v1"]
    stems = [f"model.layers.{layer}.{kind}" for layer in range(2) for kind in ("self_attn.q_proj", "mlp.up_proj")]
    stored = {stem + ending: part for stem in stems for ending, part in sample.tensors.items()}
    for stem in stems[: 4 if count == 2 else 3]:
        bias = np.full(64, stem == stems[0], np.float16)
        stored[f"{stem}.bias"] = ("F16", bias)
    (tmp_path / "config.json").write_text(json.dumps({"quantization_config": sample.settings}))
    (tmp_path / "model.safetensors").write_bytes(safetensors_bytes(stored))
    source = open_checkpoint(tmp_path)
    found = {name for name in source.tensors if name.endswith(".bias")}
    source.close()
    # where a layer lacks one, they were not added to all
    kept = [stems[0], stems[2]] if count == 2 else stems[:3]
    assert found == {f"{stem}.bias" for stem in kept}


def test_every_sample_was_recorded() -> None:
    assert list(GOLDEN["weights"]) == list(SAMPLES) and list(GOLDEN["wholes"]) == list(WHOLES)


def digest(weights: Iterable[npt.NDArray[np.float32]]) -> str:
    return hashlib.sha256(b"".join((rows + np.float32(0)).tobytes() for rows in weights)).hexdigest()


def write_whole(folder: Path, model: Whole, name: str = "model.safetensors") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(model.config))
    (folder / name).write_bytes(safetensors_bytes(model.stored()))
    return folder


def namer(folder: Path) -> Callable[[FileType], Path]:
    return lambda kind: folder / kind.name


@pytest.fixture
def without_a_tokenizer(monkeypatch: pytest.MonkeyPatch) -> None:
    replace_vocabulary(monkeypatch, no_vocabulary)


@pytest.mark.usefixtures("without_a_tokenizer")
@pytest.mark.parametrize("name", WHOLES)
def test_whole_checkpoints(tmp_path: Path, name: str) -> None:
    """The same GGUFs as from a checkpoint that holds what the library makes of the weights, in F32."""
    model = WHOLES[name]
    folder = write_whole(tmp_path / name, model)
    source = open_checkpoint(folder)
    weights = {key: source.tensors[key].rows(0, source.tensors[key].n_rows) for key in model.modules}
    source.close()
    assert list(source.tensors.keys() - model.plain.keys() - model.modules.keys()) == []
    assert digest(weights.values()) == GOLDEN["wholes"][name]
    # models are also trained in FP8 or made ternary: nothing was lost then
    native = name in ("mixtral-fp8", "llama-bitnet")
    assert ["quantized before" in note for note in source.notes] == [True] * (not native)
    plain = {**model.plain, **{key: ("F32", rows) for key, rows in weights.items()}}
    kinds = [FILE_TYPES[kind] for kind in ("F16", "BF16", "F32", "Q8_0")]
    for path, config, stored in (
        (tmp_path / "quantized", model.config, model.stored()),
        (tmp_path / "plain", {**model.config, "quantization_config": None}, plain),
    ):
        path.mkdir()
        (path / "config.json").write_text(json.dumps(config))
        (path / "model.safetensors").write_bytes(safetensors_bytes(stored))
        planned = plan_convert(path, kinds, namer(path), wishes=Wishes(name="x"))
        pipeline.run(planned, threads=2)
        planned.close()
    for kind in kinds:
        quantized, other = ((tmp_path / place / kind.name).read_bytes() for place in ("quantized", "plain"))
        assert quantized == other, kind.name


def test_the_precision_of_its_own_is_that_of_the_scales(tmp_path: Path) -> None:
    expected = {"llama-gptq": "F16", "qwen2-nf4": "BF16", "mixtral-ct-4bit": "BF16", "llama-8bit": "F16"}
    for name, kind in expected.items():
        source = open_checkpoint(write_whole(tmp_path / name, WHOLES[name]))
        source.close()
        assert {source.tensors[key].precision for key in WHOLES[name].modules} == {kind}


@pytest.mark.usefixtures("without_a_tokenizer")
@pytest.mark.parametrize("name", ["gptq_model-4bit-128g.safetensors", "anything.safetensors"])
def test_names_of_files_that_only_quantized_checkpoints_have(tmp_path: Path, name: str) -> None:
    """AutoGPTQ's, with its settings in a file of their own, of the first format."""
    model = WHOLES["llama-gptq"]
    said = {key: model.config["quantization_config"][key] for key in ("bits", "group_size", "desc_act", "sym")}
    config = {key: value for key, value in model.config.items() if key != "quantization_config"}
    write_whole(tmp_path, replace(model, config=config), name)
    (tmp_path / "quantize_config.json").write_text(json.dumps(said))
    (tmp_path / "adapter_model.safetensors").write_bytes(safetensors_bytes({"x": ("F16", np.zeros(1, np.float16))}))
    (tmp_path / "consolidated.safetensors").write_bytes(b"not one of these")
    source = open_checkpoint(tmp_path)
    assert (
        digest(source.tensors[key].rows(0, source.tensors[key].n_rows) for key in model.modules)
        == (GOLDEN["wholes"]["llama-gptq"])
    )
    source.close()
    assert tmp_path / "quantize_config.json" in source.files


@pytest.mark.parametrize("bits", [3, 5, 6])
@pytest.mark.parametrize("symmetric", [True, False])
def test_words_that_older_releases_did_not_fill(tmp_path: Path, bits: int, symmetric: bool) -> None:
    """compressed-tensors put as many whole numbers into a word as it holds, and left the rest of its bits empty."""
    sample = ct_packed(bits, (33, 64), bits, 32, symmetric, dtype="F32", old=True)
    write(tmp_path, sample)
    source = open_checkpoint(tmp_path)
    found = source.tensors[NAME + ".weight"].rows(0, 33)
    source.close()
    each, mask = 32 // bits, (1 << bits) - 1
    packed, scale = sample.tensors["_packed"][1].astype(np.int64), sample.tensors["_scale"][1]
    zero = sample.tensors["_zero_point"][1].astype(np.int64) if not symmetric else None
    for row in (0, 1, 17, 32):
        for column in (0, 1, 31, 32, 63):
            number = packed[row, column // each] >> (bits * (column % each)) & mask
            point = 1 << (bits - 1)
            if zero is not None:
                point = zero[row // each, column // 32] >> (bits * (row % each)) & mask
            assert found[row, column] == np.float32(number - point) * scale[row, column // 32]


def test_columns_in_the_order_of_their_importance(tmp_path: Path) -> None:
    """actorder: ``weight_g_idx`` names the group of each column."""
    sample = ct_packed(3, (48, 64), 8, 16, symmetric=False, act_order=True)
    order = sample.tensors["_g_idx"][1]
    sorting = np.argsort(order, kind="stable")
    dtype, words = sample.tensors["_packed"]
    # of 8 bits, a column is a byte
    straight = np.ascontiguousarray(words.view(np.uint8)[:, sorting]).view(np.int32)
    found = []
    cases: tuple[dict[str, Any], ...] = ({}, {"_packed": (dtype, straight), "_g_idx": None})
    for number, changes in enumerate(cases):
        write(tmp_path / str(number), sample, None, **changes)
        source = open_checkpoint(tmp_path / str(number))
        found.append(source.tensors[NAME + ".weight"].rows(0, 48))
        source.close()
    np.testing.assert_array_equal(found[0][:, sorting], found[1])
    # an order that was not kept
    lost: dict[str, Any] = {"_packed": (dtype, straight), "_g_idx": ("I32", np.full(64, -1, np.int32))}
    write(tmp_path / "2", sample, None, **lost)
    source = open_checkpoint(tmp_path / "2")
    np.testing.assert_array_equal(source.tensors[NAME + ".weight"].rows(0, 48), found[1])
    source.close()
