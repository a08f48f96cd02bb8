"""Blocks of 4 bits stay bit for bit in every file, NVFP4 with its scale next to it where llama.cpp reads that."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

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
from tests.families.family import no_vocabulary, replace_vocabulary, some_vocabulary
from tests.oracles.quantized_samples import MIXTRAL, QWEN3_MOE, Sample, Whole, mxfp4, nvfp4_of, whole
from tests.support.checkpoints import safetensors_bytes
from tests.test_convert_logits import logits_of

NVFP4 = gguf.GGMLQuantizationType.NVFP4

MODELS: dict[str, Callable[[Callable[[int, tuple[int, int]], Sample]], Whole]] = {
    "llama": lambda make: whole("LlamaForCausalLM", make),
    "mixtral": lambda make: whole("MixtralForCausalLM", make, **MIXTRAL),
    "qwen3": lambda make: whole("Qwen3ForCausalLM", make, head_dim=16),
    "qwen3moe": lambda make: whole("Qwen3MoeForCausalLM", make, **QWEN3_MOE),
}


def write(folder: Path, model: Whole) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(model.config))
    (folder / "model.safetensors").write_bytes(safetensors_bytes(model.stored()))
    return folder


def namer(folder: Path) -> Callable[[FileType], Path]:
    return lambda kind: folder / f"{folder.name}.{kind.name}.gguf"


def convert(folder: Path, *kinds: str) -> list[Path]:
    planned = plan_convert(folder, [FILE_TYPES[kind] for kind in kinds], namer(folder), wishes=Wishes(name="x"))
    pipeline.run(planned, threads=2)
    planned.close()
    return [target.path for target in planned.targets]


def tensors(path: Path) -> dict[str, gguf.ReaderTensor]:
    return {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}


def plain(folder: Path, model: Whole) -> Path:
    """The same checkpoint with the floats that the weights stand for."""
    source = open_checkpoint(folder)
    weights = {name: widened(source.tensors[name]) for name in model.modules}
    stored = {**model.plain, **{name: ("F32", values(weight)) for name, weight in weights.items()}}
    source.close()
    found = folder.with_name(f"{folder.name}-plain")
    found.mkdir()
    (found / "config.json").write_text(json.dumps({**model.config, "quantization_config": None}))
    (found / "model.safetensors").write_bytes(safetensors_bytes(stored))
    return found


def values(tensor: Tensor) -> npt.NDArray[np.float32]:
    return tensor.rows(0, tensor.n_rows).reshape(tensor.shape)


@pytest.mark.parametrize("kind", ["modelopt", "ct"])
@pytest.mark.parametrize("name", MODELS)
def test_nvfp4_stays(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, kind: str) -> None:
    replace_vocabulary(monkeypatch, no_vocabulary)
    model = MODELS[name](nvfp4_of(kind))
    folder = write(tmp_path / name, model)
    paths = convert(folder, "BF16", "F32", "Q8_0", "Q4_K_M")
    (expected,) = convert(plain(folder, model), "F32")
    wanted = tensors(expected)
    first = tensors(paths[0])
    blocks = {key: tensor for key, tensor in first.items() if tensor.tensor_type == NVFP4}
    per_layer = 4 + 3
    assert len(blocks) == 2 * per_layer
    for path in paths[1:]:
        found = tensors(path)
        assert {key for key, tensor in found.items() if tensor.tensor_type == NVFP4} == set(blocks)
        for key, tensor in blocks.items():
            assert found[key].data.tobytes() == tensor.data.tobytes()
            name_of_scale = key.replace(".weight", ".scale")
            assert found[name_of_scale].tensor_type == gguf.GGMLQuantizationType.F32
            assert found[name_of_scale].data.tobytes() == first[name_of_scale].data.tobytes()
    for key, tensor in blocks.items():
        scale = first[key.replace(".weight", ".scale")].data
        floats = gguf.quants.dequantize(tensor.data, NVFP4)
        assert len(scale) == (1 if floats.ndim == 2 else len(floats))
        floats = floats * scale.reshape(-1, *[1] * (floats.ndim - 1))
        # the checkpoint's own are rounded to BF16
        np.testing.assert_allclose(floats, wanted[key].data, rtol=2**-8, atol=1e-7)
    reader = gguf.GGUFReader(paths[0])
    assert reader.fields["general.file_type"].contents() == 39


def test_the_engine_multiplies_by_the_scales(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In all architectures in whose files NVFP4 stays."""
    replace_vocabulary(monkeypatch, some_vocabulary)
    paths = []
    for name, make in MODELS.items():
        model = make(nvfp4_of("modelopt"))
        folder = write(tmp_path / name, model)
        paths += convert(folder, "F16") + convert(plain(folder, model), "F16", "Q8_0")
    computed = {name: np.array(found) for name, found in logits_of(paths).items()}
    for name in MODELS:
        exact, near = computed[f"{name}-plain.F16"], computed[f"{name}-plain.Q8_0"]
        size = np.abs(exact).max()
        # the activations are rounded to 8 bits, as they are for Q8_0
        assert np.abs(computed[f"{name}.F16"] - exact).max() < max(0.03 * size, 3 * np.abs(near - exact).max()), name


@pytest.mark.parametrize("kind", ["modelopt", "ct"])
def test_elsewhere_nvfp4_becomes_floats(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str) -> None:
    """llama.cpp's graph for Qwen 2 does not read the scales of its feed-forward layers."""
    replace_vocabulary(monkeypatch, no_vocabulary)
    model = whole("Qwen2ForCausalLM", nvfp4_of(kind))
    folder = write(tmp_path / "m", model)
    for path, other in zip(convert(folder, "F32", "Q8_0"), convert(plain(folder, model), "F32", "Q8_0"), strict=True):
        assert path.read_bytes() == other.read_bytes()


def test_a_bias_before_the_scale_makes_floats(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """llama.cpp would stop at an assertion."""
    replace_vocabulary(monkeypatch, no_vocabulary)
    model = whole("LlamaForCausalLM", nvfp4_of("modelopt"), mlp_bias=True, attention_bias=True)
    shapes = {name: sample.shape[0] for name, sample in model.modules.items()}
    biases = {name.replace(".weight", ".bias"): ("F16", np.ones(size, np.float16)) for name, size in shapes.items()}
    folder = write(tmp_path / "m", replace(model, plain={**model.plain, **biases}))
    kinds = {key: tensor.tensor_type for key, tensor in tensors(convert(folder, "BF16")[0]).items()}
    assert kinds["blk.0.attn_q.weight"] == NVFP4 and kinds["blk.0.ffn_up.weight"] == gguf.GGMLQuantizationType.BF16
    assert "blk.0.ffn_up.scale" not in kinds


def test_mxfp4_of_compressed_tensors_stays_in_every_family(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    replace_vocabulary(monkeypatch, no_vocabulary)
    for architecture in ("LlamaForCausalLM", "Qwen2ForCausalLM"):
        model = whole(architecture, mxfp4)
        folder = write(tmp_path / architecture, model)
        wanted = tensors(convert(plain(folder, model), "F32")[0])
        for path in convert(folder, "F16", "Q4_K_M"):
            found = tensors(path)
            kinds = {key: t for key, t in found.items() if t.tensor_type == gguf.GGMLQuantizationType.MXFP4}
            assert len(kinds) == 14
            for key, tensor in kinds.items():
                floats = gguf.quants.dequantize(tensor.data, gguf.GGMLQuantizationType.MXFP4)
                np.testing.assert_array_equal(floats, wanted[key].data)


def test_an_adapter_on_nvfp4_ends_with_advice(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """llama.cpp would stop at an assertion."""
    replace_vocabulary(monkeypatch, some_vocabulary)
    path = convert(write(tmp_path / "m", whole("LlamaForCausalLM", nvfp4_of("modelopt"))), "F16")[0]
    adapter = tmp_path / "adapter.gguf"
    writer = gguf.GGUFWriter(adapter, "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", 8.0)
    writer.add_tensor("blk.0.ffn_up.weight.lora_a", np.ones((4, 64), np.float32))
    writer.add_tensor("blk.0.ffn_up.weight.lora_b", np.ones((128, 4), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    command = [sys.executable, "-m", "ggufrun", "complete", str(path), "-p", "t1", "-n", "1", "--lora", str(adapter)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "in NVFP4; llama.cpp cannot add to that at run time; merge" in done.stderr.splitlines()[-1]
