"""Methods that are not read: each is refused by its name, over its own settings and the tensors that it stores.

The settings are those that transformers 5.24 writes (``to_dict`` of each of its configurations), or, where it cannot
make one without the method's own package, those of a published checkpoint; the tensors are those of the method's layer.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ggufrun.checkpoint.open import open_checkpoint
from ggufrun.checkpoint.quantized.blocks import widened
from ggufrun.checkpoint.tensor import STORAGE
from ggufrun.errors import UnsupportedError
from tests.oracles.quantized_samples import SAMPLES, stem_of
from tests.support.checkpoints import safetensors_bytes

Stored = dict[str, tuple[str, tuple[int, ...]]]
"""What a name ends in, and the type and shape of the tensor."""

MODULE = "model.layers.0.mlp.up_proj"

QUARK = {
    "quant_method": "quark",
    "global_quant_config": {
        "input_tensors": None,
        "weight": {
            "dtype": "uint4",
            "qscheme": "per_group",
            "group_size": 128,
            "is_dynamic": False,
            "symmetric": False,
        },
    },
    "export": {"pack_method": "reorder", "weight_format": "real_quantized"},
    "quant_mode": "eager_mode",
}

CASES: dict[str, tuple[dict[str, Any], Stored, str]] = {
    "aqlm": (
        {"quant_method": "aqlm", "in_group_size": 8, "num_codebooks": 1, "nbits_per_codebook": 16, "out_group_size": 1},
        {".codes": ("I16", (64, 8, 1)), ".codebooks": ("F16", (1, 65536, 1, 8)), ".scales": ("F16", (64, 1, 1, 1))},
        "AQLM",
    ),
    "eetq": (
        {"quant_method": "eetq", "weights": "int8", "modules_to_not_convert": None},
        {".weight": ("I8", (64, 64)), ".weight_scales": ("F16", (64,))},
        "EETQ",
    ),
    "exl2": (
        {"quant_method": "exl2", "version": "0.1.5", "bits": 4.0, "head_bits": 6},
        {
            ".q_weight": ("I32", (8, 64)),
            ".q_scale": ("I32", (2, 8)),
            ".q_scale_max": ("F16", (2,)),
            ".q_groups": ("I16", (4,)),
            ".q_invperm": ("I32", (64,)),
        },
        "EXL2",
    ),
    "exl3": (
        {"quant_method": "exl3", "version": "0.0.1", "bits": 4.0, "head_bits": 6},
        {".trellis": ("I16", (4, 4, 64)), ".suh": ("F16", (64,)), ".svh": ("F16", (64,))},
        "EXL3",
    ),
    "fouroversix": (
        {"quant_method": "fouroversix", "dtype": "nvfp4", "output_dtype": "bfloat16", "scale_rule": "mse"},
        {
            ".quantized_weight_values": ("U8", (64, 32)),
            ".quantized_weight_scale_factors": ("F8_E4M3", (64, 4)),
            ".quantized_weight_amax": ("F32", (1,)),
        },
        "Four Over Six",
    ),
    "fp_quant": (
        {
            "quant_method": "fp_quant",
            "forward_dtype": "nvfp4",
            "forward_method": "abs_max",
            "hadamard_group_size": 16,
            "transform_init": "hadamard",
        },
        {
            ".qweight": ("U8", (64, 32)),
            ".scales": ("U8", (64, 4)),
            ".weight_global_scale": ("F32", (1,)),
            ".act_global_scale": ("F32", (1,)),
            ".forward_hadamard_matrix": ("BF16", (16, 16)),
        },
        "FP-Quant",
    ),
    "higgs": (
        {"quant_method": "higgs", "bits": 4, "p": 2, "hadamard_size": 512, "group_size": 256, "tune_metadata": {}},
        {
            ".weight": ("I16", (16, 64)),
            ".scales": ("F16", (64, 1)),
            ".tables": ("F16", (16,)),
            ".tables2": ("F16", (16, 16, 2)),
        },
        "HIGGS",
    ),
    "hqq": (
        {"quant_method": "hqq", "quant_config": {"weight_quant_params": {"nbits": 4, "group_size": 64, "axis": 1}}},
        {
            ".W_q": ("U8", (32, 64)),
            ".scale": ("F16", (64, 1)),
            ".zero": ("F16", (64, 1)),
            ".nbits": ("I32", (1,)),
            ".group_size": ("I32", (1,)),
        },
        "HQQ",
    ),
    "marlin": (
        {"quant_method": "marlin", "group_size": 128},
        {".B": ("I32", (4, 128)), ".s": ("F16", (1, 64))},
        "Marlin",
    ),
    "metal": (
        {"quant_method": "metal", "bits": 4, "group_size": 64, "modules_to_not_convert": None},
        {".weight": ("U32", (64, 8)), ".scales": ("F32", (64, 1)), ".qbiases": ("F32", (64, 1))},
        "metal",
    ),
    "mlx": (
        {"group_size": 64, "bits": 4, "mode": "affine"},
        {".weight": ("U32", (64, 8)), ".scales": ("BF16", (64, 1)), ".biases": ("BF16", (64, 1))},
        "MLX",
    ),
    "quanto": (
        {"quant_method": "quanto", "weights": "int8", "activations": None, "modules_to_not_convert": None},
        {".weight._data": ("I8", (64, 64)), ".weight._scale": ("BF16", (64, 1))},
        "quanto",
    ),
    "quark": (
        QUARK,
        {
            ".weight": ("I32", (64, 8)),
            ".weight_scale": ("F32", (64, 1)),
            ".weight_zero_point": ("I32", (64, 1)),
        },
        "Quark",
    ),
    "quip": (
        {"quant_method": "quip", "codebook": "E8P12", "codesz": 8, "lora_rank": 0, "rescale_WH": False},
        {".Qidxs": ("I64", (64, 8)), ".SU": ("F16", (64,)), ".SV": ("F16", (64,)), ".Wscale": ("F32", ())},
        "QuIP#",
    ),
    "sinq": (
        {"quant_method": "sinq", "nbits": 4, "group_size": 64, "tiling_mode": "1D", "method": "sinq"},
        {".W_q": ("U8", (32, 64)), ".scale": ("F16", (64, 1)), ".zero": ("F16", (64, 1)), ".scale2": ("F16", (64,))},
        "SINQ",
    ),
    "spqr": (
        {"quant_method": "spqr", "bits": 3, "beta1": 16, "beta2": 16, "shapes": {}},
        {
            ".dense_weights": ("I64", (4, 4)),
            ".row_offsets": ("I32", (65,)),
            ".col_vals": ("I32", (10,)),
            ".in_perm": ("I16", (64,)),
        },
        "SpQR",
    ),
    "torchao": (
        {
            "quant_method": "torchao",
            "quant_type": {"default": {"_type": "Int4WeightOnlyConfig", "_version": 2, "_data": {"group_size": 128}}},
        },
        {".weight_qdata": ("U8", (64, 32)), ".weight_scale_and_zero": ("BF16", (1, 64, 2))},
        "torchao",
    ),
    "torchao-int8": (
        {
            "quant_method": "torchao",
            "quant_type": {"default": {"_type": "Int8WeightOnlyConfig", "_version": 1, "_data": {}}},
        },
        {".weight_qdata": ("I8", (64, 64)), ".weight_scale": ("BF16", (64, 1))},
        "torchao",
    ),
    "vptq": (
        {"quant_method": "vptq", "enable_proxy_error": False, "config_for_layers": {}, "shared_layer_config": {}},
        {".indices": ("I16", (1, 8, 64)), ".centroids.weight": ("F16", (1, 2048)), ".weight_scale": ("F16", (64,))},
        "VPTQ",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_other_methods_are_refused_by_name(tmp_path: Path, case: str) -> None:
    settings, stored, name = CASES[case]
    folder = tmp_path / "m"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "quantization_config": settings}))
    tensors = {
        f"{MODULE}{ending}": (dtype, np.zeros(shape, STORAGE[dtype])) for ending, (dtype, shape) in stored.items()
    }
    tensors["model.norm.weight"] = ("F16", np.ones(64, np.float16))
    (folder / "model.safetensors").write_bytes(safetensors_bytes(tensors))
    with pytest.raises(UnsupportedError) as caught:
        open_checkpoint(folder)
    assert name in caught.value.what and "original" in caught.value.todo, str(caught.value)


@pytest.mark.parametrize("sample", ["ct-mxfp4", "ct-fp8-channel"])
def test_quark_in_the_forms_of_others(tmp_path: Path, sample: str) -> None:
    """Its FP8 and MXFP4 are stored as those of compressed-tensors, which rounds to BF16."""
    rows = []
    for settings in (SAMPLES[sample].settings, {**QUARK, "export": {"pack_method": "order"}}):
        folder = tmp_path / str(settings["quant_method"])
        folder.mkdir()
        stem = stem_of(f"{MODULE}.weight", SAMPLES[sample])
        packed = "" if settings["quant_method"] == "quark" else "_packed"
        tensors = {(stem + ending).replace("_packed", packed): part for ending, part in SAMPLES[sample].tensors.items()}
        (folder / "config.json").write_text(json.dumps({"model_type": "llama", "quantization_config": settings}))
        (folder / "model.safetensors").write_bytes(safetensors_bytes(tensors))
        source = open_checkpoint(folder)
        tensor = widened(source.tensors[f"{MODULE}.weight"])
        rows.append(tensor.rows(0, tensor.n_rows))
        source.close()
    np.testing.assert_allclose(rows[0], rows[1], rtol=2**-8)
