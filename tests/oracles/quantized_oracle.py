"""What the methods' own libraries make of ``quantized_samples.SAMPLES``: ``python -m tests.oracles.quantized_oracle``.

Runs where torch, transformers, compressed-tensors, bitsandbytes, autoawq, gptqmodel, auto-gptq, auto-round and
nvidia-modelopt are installed, all for a CPU; writes ``golden/quantized.json``. Where a weight is computed in a narrow
type, the digest is of its values in F32.
"""

# mypy: ignore-errors
from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
from pathlib import Path

import numpy as np
import torch

from tests.oracles.quantized_samples import SAMPLES, WHOLES, Sample

GOLDEN = Path(__file__).parent.parent / "golden" / "quantized.json"

TYPES = {
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E8M0": torch.float8_e8m0fnu,
}
LIBRARIES = (
    *("torch", "transformers", "compressed-tensors", "bitsandbytes", "autoawq", "gptqmodel", "auto-gptq"),
    *("auto-round", "nvidia-modelopt"),
)


def tensors(sample: Sample) -> dict[str, torch.Tensor]:
    found = {}
    for ending, (dtype, array) in sample.tensors.items():
        tensor = torch.from_numpy(np.ascontiguousarray(array))
        found[ending] = tensor.view(TYPES[dtype]) if dtype in TYPES and dtype != "F16" else tensor
    return found


def gptq(sample: Sample) -> torch.Tensor:
    from gptqmodel.nn_modules.qlinear.torch import TorchLinear
    from gptqmodel.utils.model import convert_gptq_v1_to_v2_format_module

    parts, said = tensors(sample), sample.settings
    outputs, inputs = sample.shape
    module = TorchLinear(said["bits"], said["group_size"], False, said["desc_act"], inputs, outputs)
    for name in ("qweight", "qzeros", "scales", "g_idx"):
        setattr(module, name, parts[f".{name}"].clone())
    if said["checkpoint_format"] == "gptq":
        convert_gptq_v1_to_v2_format_module(module, said["bits"], torch.int32)
    weight = module.dequantize_weight().T
    check_auto_gptq(sample, weight)
    return weight


def check_auto_gptq(sample: Sample, weight: torch.Tensor) -> None:
    """AutoGPTQ, which wrote the first format, agrees in all columns whose stored zero points are not the last ones."""
    # the package as a whole does not load with today's transformers
    folder = Path(importlib.util.find_spec("auto_gptq").submodule_search_locations[0])
    spec = importlib.util.spec_from_file_location("qlinear_cuda", folder / "nn_modules/qlinear/qlinear_cuda.py")
    code = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(code)
    parts, said = tensors(sample), sample.settings
    if said["checkpoint_format"] != "gptq" or parts[".scales"].dtype != torch.float16:
        return
    outputs, inputs = sample.shape
    module = code.QuantLinear(said["bits"], said["group_size"], inputs, outputs, False)
    for name in ("qweight", "qzeros", "scales", "g_idx"):
        setattr(module, name, parts[f".{name}"])
    theirs = module(torch.eye(inputs, dtype=torch.float16)).T
    # a zero point of all ones and its neighbours are read in several ways
    same = (theirs == weight).all(dim=1)
    assert same.sum() >= outputs // 8, f"only {same.sum()} of {outputs} rows agree"
    module.qzeros = torch.zeros_like(module.qzeros)
    plain = Sample(said, sample.shape, sample.tensors | {".qzeros": ("I32", module.qzeros.numpy())}, sample.kind)
    assert (gptq_without_check(plain) == module(torch.eye(inputs, dtype=torch.float16)).T).all()


def gptq_without_check(sample: Sample) -> torch.Tensor:
    return gptq(Sample({**sample.settings, "checkpoint_format": "gptq_v2"}, sample.shape, with_ones(sample), "gptq"))


def with_ones(sample: Sample) -> dict:
    bits = sample.settings["bits"]
    one = sum(1 << (bits * index) for index in range(96 // bits)).to_bytes(12, "little")
    words = np.frombuffer(one, np.int32)
    zeros = sample.tensors[".qzeros"][1]
    assert not zeros.any()
    return sample.tensors | {".qzeros": ("I32", np.resize(words, zeros.shape[1])[None].repeat(len(zeros), 0))}


def awq_gemm(sample: Sample) -> torch.Tensor:
    from awq.utils.packing_utils import dequantize_gemm

    parts = tensors(sample)
    size = sample.shape[1] // len(parts[".scales"])
    return dequantize_gemm(parts[".qweight"], parts[".qzeros"], parts[".scales"], 4, size).T


def awq_gemv(sample: Sample) -> torch.Tensor:
    """No pure version exists: the packer of the library must make the same file of the weights that we found."""
    from awq.modules.linear.gemv import WQLinear_GEMV

    parts = tensors(sample)
    outputs, inputs = sample.shape
    size = inputs if sample.settings["group_size"] == -1 else sample.settings["group_size"]
    shifts = torch.arange(0, 32, 4, dtype=torch.int32)
    codes, zeros = (((parts[name][:, :, None] >> shifts) & 15).reshape(outputs, -1) for name in (".qweight", ".qzeros"))
    count = inputs // size
    zeros, scales = zeros[:, :count], parts[".scales"][:, :count]
    weight = (codes - zeros.repeat_interleave(size, 1)) * scales.repeat_interleave(size, 1)
    linear = torch.nn.Linear(inputs, outputs, bias=False)
    linear.weight.data = weight.float()
    packed = WQLinear_GEMV.from_linear(linear, 4, size, False, scales, zeros)
    assert (packed.qweight == parts[".qweight"]).float().mean() > 0.98
    assert (unpadded(packed.qzeros, count) == unpadded(parts[".qzeros"], count)).all()
    return weight


def unpadded(zeros: torch.Tensor, count: int) -> torch.Tensor:
    shifts = torch.arange(0, 32, 4, dtype=torch.int32)
    return ((zeros[:, :, None] >> shifts) & 15).reshape(len(zeros), -1)[:, :count]


def awq_gemv_fast(sample: Sample) -> torch.Tensor:
    """The place of each number comes from the library's own packer, given numbers that tell their places."""
    from awq.modules.linear.gemv_fast import pack_intweight

    parts = tensors(sample)
    outputs, inputs = sample.shape
    # the packer moves 4-bit numbers: follow the bits of each place through it
    places = np.arange(outputs * inputs)
    stored = np.zeros((outputs // 4, inputs, 4), np.int64)
    for start in range(0, 20, 4):
        nibbles = torch.from_numpy((places >> start & 15).reshape(outputs, inputs).astype(np.int32))
        moved = pack_intweight(nibbles, 4, 64).numpy().view(np.uint16)
        for index in range(4):
            stored[:, :, index] |= (moved >> (4 * index) & 15).astype(np.int64) << start
    values = sample.tensors[".qweight"][1].view(np.uint16)
    codes = np.zeros(outputs * inputs, np.int32)
    for index in range(4):
        codes[stored[:, :, index].reshape(-1)] = (values >> (4 * index) & 15).reshape(-1)
    codes = torch.from_numpy(codes.reshape(outputs, inputs))
    size = sample.settings["group_size"]
    count = inputs // size
    scales, zeros = (parts[name][:count].T.repeat_interleave(size, 1).float() for name in (".scales", ".qzeros"))
    # the kernel multiplies and adds in one step
    return (codes * scales + zeros).to(parts[".scales"].dtype)


def bnb4(sample: Sample) -> torch.Tensor:
    from bitsandbytes.functional import QuantState, dequantize_4bit

    parts = tensors(sample)
    weight = parts.pop("")
    state = QuantState.from_dict({name[1:]: part for name, part in parts.items()}, torch.device("cpu"))
    return dequantize_4bit(weight, state)


def bnb8(sample: Sample) -> torch.Tensor:
    from bitsandbytes.functional import int8_vectorwise_dequant

    parts = tensors(sample)
    return int8_vectorwise_dequant(parts[".weight"], parts[".SCB"])


def compressed(sample: Sample) -> torch.Tensor:
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

    group = sample.settings["config_groups"]["group_0"]
    scheme = QuantizationScheme(targets=["Linear"], weights=QuantizationArgs(**group["weights"]))
    parts = {f"weight{name}": part for name, part in tensors(sample).items()}
    compressor = BaseCompressor.get_value_from_registry(sample.settings["format"])
    return compressor.decompress(parts, scheme)["weight"]


def modelopt(sample: Sample) -> torch.Tensor:
    from modelopt.torch.quantization.qtensor.nvfp4_tensor import NVFP4QTensor

    parts = tensors(sample)
    weight = NVFP4QTensor(torch.Size(sample.shape), torch.bfloat16, parts[""])
    whole = (
        parts["_scale_2"].reshape(-1, *[1] * (len(sample.shape) - 1)) if parts["_scale_2"].ndim else parts["_scale_2"]
    )
    return weight.dequantize(scale=parts["_scale"], double_scale=whole, block_sizes={-1: 16})


def fp8(sample: Sample) -> torch.Tensor:
    from transformers.integrations.finegrained_fp8 import Fp8Dequantize

    parts = tensors(sample)
    return Fp8Dequantize(None)._dequantize_one(parts[""], parts["_scale_inv"], torch.float32)


def fused(sample: Sample) -> torch.Tensor:
    """transformers' own where it knows the scales, else the product that they are made for."""
    parts = tensors(sample)
    if "_scale_inv" in parts:
        return fp8(sample)
    scale = parts["_scale"]
    return parts[""].float() * (scale.reshape(-1, 1, 1) if scale.ndim == 1 else scale)


def chatglm(sample: Sample) -> torch.Tensor:
    """No library exists: what its kernels do, in whole numbers."""
    parts = tensors(sample)
    stored, scale = parts[""].int(), parts["_scale"]
    if sample.config["quantization_bit"] == 4:
        low = ((stored & 15) ^ 8) - 8
        stored = torch.stack([stored >> 4, low], dim=-1).reshape(sample.shape)
    return stored.to(scale.dtype) * scale[:, None]


def bitnet(sample: Sample) -> torch.Tensor:
    """The layer's answers to the unit vectors, without its rounding of what comes in."""
    from transformers.integrations.bitnet import unpack_weights

    parts = tensors(sample)
    unpack = getattr(unpack_weights, "_torchdynamo_orig_callable", unpack_weights)
    weight = unpack(parts[""], torch.float32)
    scale = parts["_scale"].float()
    return weight * scale if sample.settings.get("linear_class") == "autobitlinear" else weight / scale


KINDS = {
    "gptq": gptq,
    "awq-gemm": awq_gemm,
    "awq-gemv": awq_gemv,
    "awq-gemv_fast": awq_gemv_fast,
    "bnb4": bnb4,
    "bnb8": bnb8,
    "ct": compressed,
    "modelopt": modelopt,
    "fp8": fp8,
    "fused": fused,
    "chatglm": chatglm,
    "bitnet": bitnet,
}


def main() -> None:
    """Dequantize every sample, and write what came out."""
    found = {}
    for name, sample in SAMPLES.items():
        weight = KINDS[sample.kind](sample)
        assert tuple(weight.shape) == tuple(sample.shape), (name, weight.shape)
        # a zero has no sign: libraries differ in it from release to release
        values = weight.float().contiguous().numpy() + np.float32(0)
        found[name] = {
            "type": str(weight.dtype).removeprefix("torch."),
            "first": [float(value) for value in values.reshape(-1)[:4]],
            "sha256": hashlib.sha256(values.tobytes()).hexdigest(),
        }
    wholes = {}
    for name, model in WHOLES.items():
        digest = hashlib.sha256()
        for sample in model.modules.values():
            digest.update((KINDS[sample.kind](sample).float().contiguous().numpy() + np.float32(0)).tobytes())
        wholes[name] = digest.hexdigest()
    versions = {name: importlib.metadata.version(name) for name in LIBRARIES}
    golden = {
        "command": "python -m tests.oracles.quantized_oracle",
        "libraries": versions,
        "weights": found,
        "wholes": wholes,
    }
    text = json.dumps(golden, indent=1)
    GOLDEN.write_text(text + "\n")


if __name__ == "__main__":
    main()
