"""Quantized checkpoints in the company that they keep: adapters, plain layers, files of other formats and settings."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ggufrun.checkpoint.adapters.adapter import AdapterRequest
from ggufrun.checkpoint.open import open_checkpoint
from ggufrun.checkpoint.quantized.blocks import widened
from ggufrun.convert import pipeline
from ggufrun.convert.plan import Wishes, plan_convert
from ggufrun.quantize.types import FILE_TYPES
from tests.families.family import no_vocabulary, replace_vocabulary
from tests.oracles.quantized_samples import SAMPLES, WHOLES, Stored, Whole, mxfp4, nvfp4_of, whole
from tests.support import torch_writer
from tests.support.checkpoints import safetensors_bytes
from tests.test_checkpoint_dequantized import GOLDEN, NAME, digest, write_whole


@pytest.fixture(autouse=True)
def without_a_tokenizer(monkeypatch: pytest.MonkeyPatch) -> None:
    replace_vocabulary(monkeypatch, no_vocabulary)


def converted(folder: Path, *adapters: Path, kind: str = "F32") -> bytes:
    out = folder.with_suffix(f".{len(adapters)}.{kind}.gguf")
    requests = [AdapterRequest(path, 1.0) for path in adapters]
    planned = plan_convert(folder, [FILE_TYPES[kind]], lambda _: out, wishes=Wishes(name="x"), adapters=requests)
    pipeline.run(planned, threads=2)
    planned.close()
    return out.read_bytes()


def plain(folder: Path, model: Whole) -> Path:
    """The same checkpoint with what the weights stand for, in F32."""
    source = open_checkpoint(folder)
    weights = {}
    for name in model.modules:
        tensor = widened(source.tensors[name])
        weights[name] = ("F32", tensor.rows(0, tensor.n_rows).reshape(tensor.shape))
    source.close()
    config = {**model.config, "quantization_config": None}
    return write_whole(folder.with_name(f"{folder.name}-plain"), Whole(config, model.plain | weights, {}))


def write_adapter(folder: Path) -> Path:
    """A LoRA adapter such as QLoRA leaves it: trained on a quantized base."""
    folder.mkdir()
    settings = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "up_proj"], "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    chance = np.random.default_rng(3)
    stored = {}
    for name, outputs in (("self_attn.q_proj", 64), ("mlp.up_proj", 128)):
        for part, shape in (("lora_A", (4, 64)), ("lora_B", (outputs, 4))):
            values = (chance.standard_normal(shape) * 0.05).astype(np.float32)
            stored[f"base_model.model.model.layers.0.{name}.{part}.weight"] = ("F32", values)
    (folder / "adapter_model.safetensors").write_bytes(safetensors_bytes(stored))
    return folder


@pytest.mark.parametrize("name", ["llama-gptq", "llama-8bit", "llama-ct-int8", "mxfp4", "nvfp4"])
def test_an_adapter_is_merged_into_what_the_weights_stand_for(tmp_path: Path, name: str) -> None:
    blocks = {"mxfp4": mxfp4, "nvfp4": nvfp4_of("modelopt")}
    model = whole("LlamaForCausalLM", blocks[name]) if name in blocks else WHOLES[name]
    folder, adapter = write_whole(tmp_path / "m", model), write_adapter(tmp_path / "adapter")
    if name not in blocks:
        assert converted(folder, adapter) == converted(plain(folder, model), adapter)
        return
    bases = [open_checkpoint(path, [AdapterRequest(adapter, 1.0)]) for path in (folder, plain(folder, model))]
    for key in model.modules:
        mine, other = (base.tensors[key] for base in bases)
        changed = ".layers.0." in key and key.endswith(("q_proj.weight", "up_proj.weight"))
        assert (mine.dtype == "F32") == changed
        np.testing.assert_array_equal(widened(mine).rows(0, mine.n_rows), other.rows(0, mine.n_rows))
    for base in bases:
        base.close()


def test_experts_of_which_some_are_not_quantized(tmp_path: Path) -> None:
    """As modules_to_not_convert, or a mixture by importance, leaves them."""
    model = WHOLES["mixtral-ct-4bit"]
    names = [f"model.layers.0.block_sparse_moe.experts.2.{name}.weight" for name in ("w1", "w2", "w3")]
    chance = np.random.default_rng(4)
    rest: Stored = {
        name: ("F16", (chance.standard_normal(model.modules[name].shape) * 0.02).astype(np.float16)) for name in names
    }
    some = {name: sample for name, sample in model.modules.items() if name not in names}
    mixed = replace(model, plain=model.plain | rest, modules=some)
    folder = write_whole(tmp_path / "m", mixed)
    other = plain(folder, mixed)
    for kind in ("F16", "F32", "Q8_0"):
        assert converted(folder, kind=kind) == converted(other, kind=kind)


def test_several_methods_in_one_checkpoint(tmp_path: Path) -> None:
    """compressed-tensors' groups, of other bits and forms; the settings name only one format."""
    fp8, packed = SAMPLES["ct-fp8-channel"], SAMPLES["ct-8bit-asym"]
    groups = {
        "group_0": fp8.settings["config_groups"]["group_0"],
        "group_1": packed.settings["config_groups"]["group_0"],
        "group_2": SAMPLES["ct-4bit-asym"].settings["config_groups"]["group_0"],
    }
    settings = {"quant_method": "compressed-tensors", "format": "mixed-precision", "config_groups": groups}
    model = Whole(
        {"quantization_config": settings},
        {"model.norm.weight": ("BF16", np.ones(8, np.uint16))},
        {"a.weight": fp8, "b.weight": packed, "c.weight": SAMPLES["ct-4bit-asym"]},
    )
    source = open_checkpoint(write_whole(tmp_path / "m", model))
    for name, sample in zip(model.modules, ("ct-fp8-channel", "ct-8bit-asym", "ct-4bit-asym"), strict=True):
        rows = source.tensors[name].rows(0, source.tensors[name].n_rows)
        assert digest([rows]) == GOLDEN["weights"][sample]["sha256"]
    assert len(source.notes) == 1 and "(compressed-tensors, FP8)" in source.notes[0]
    source.close()


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("name", ["pytorch_model.bin", "gptq_model-4bit-128g.bin"])
def test_files_of_pytorch(tmp_path: Path, name: str, legacy: bool) -> None:
    """As AutoGPTQ wrote Llama2-Chinese-13b-Chat-4bit."""
    model = WHOLES["llama-gptq"]
    data = (torch_writer.torch_legacy if legacy else torch_writer.torch_zip)(model.stored())
    said = {key: value for key, value in model.config["quantization_config"].items() if key != "quant_method"}
    config = {key: value for key, value in model.config.items() if key != "quantization_config"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "quantize_config.json").write_text(json.dumps(said))
    (tmp_path / name).write_bytes(data)
    source = open_checkpoint(tmp_path)
    weights = [source.tensors[key].rows(0, source.tensors[key].n_rows) for key in model.modules]
    source.close()
    assert digest(weights) == GOLDEN["wholes"]["llama-gptq"]


SETTINGS: list[tuple[str, dict[str, Any], dict[str, Any], str]] = [
    # AutoAWQ's file, with its older names
    ("quant_config.json", {"zero_point": True, "q_group_size": 64, "w_bit": 4, "version": "GEMV"}, {}, "awq-gemv"),
    # AutoGPTQ's, without a format: the first
    ("quantize_config.json", {"bits": 4, "group_size": 32, "desc_act": False}, {}, "gptq-4bit-v1"),
    ("quantize_config.json", {"bits": 4, "group_size": 32, "checkpoint_format": "gptq_v2"}, {}, "gptq-4bit-v2"),
    # config.json counts for more than a file next to it
    (
        "quantize_config.json",
        {"bits": 4, "checkpoint_format": "gptq"},
        {"quantization_config": {"quant_method": "gptq", "bits": 4, "checkpoint_format": "gptq_v2"}},
        "gptq-4bit-v2",
    ),
    # Model Optimizer's, one level deeper
    (
        "hf_quant_config.json",
        {"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "NVFP4", "group_size": 16}},
        {},
        "modelopt-nvfp4",
    ),
    # compressed-tensors' older key, and the text model of something larger
    ("x.json", {}, {"compression_config": SAMPLES["ct-fp8-channel"].settings}, "ct-fp8-channel"),
    ("x.json", {}, {"text_config": {"quantization_config": SAMPLES["ct-fp8-block"].settings}}, "ct-fp8-block"),
]


@pytest.mark.parametrize(("name", "values", "config", "sample"), SETTINGS)
def test_places_of_settings(
    tmp_path: Path, name: str, values: dict[str, Any], config: dict[str, Any], sample: str
) -> None:
    (tmp_path / name).write_text(json.dumps(values))
    write_whole(tmp_path, Whole({"model_type": "llama", **config}, {}, {NAME + ".weight": SAMPLES[sample]}))
    source = open_checkpoint(tmp_path)
    tensor = widened(source.tensors[NAME + ".weight"])
    assert digest([tensor.rows(0, tensor.n_rows)]) == GOLDEN["weights"][sample]["sha256"]
    source.close()
