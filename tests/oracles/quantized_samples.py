"""Quantized weights of all methods that are read, from seeds: the same bits wherever they are made.

``quantized_oracle.py`` has the methods' own libraries dequantize them; the tests compare with what it recorded. Nothing
here computes a weight.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Stored = dict[str, tuple[str, Array]]
"""Name -> (type, array), as safetensors files have them."""


@dataclass(frozen=True)
class Sample:
    """A quantized weight: ``settings`` are quantization_config, ``tensors`` its parts by their endings.

    ``weight`` is the ending of the name of the weight itself. ``shape`` is (outputs, inputs).
    """

    settings: Mapping[str, Any]
    shape: tuple[int, ...]
    tensors: Stored
    kind: str
    weight: str = ".weight"
    config: Mapping[str, Any] = field(default_factory=dict)


def bfloat16(values: Array) -> Array:
    """Cut off after 16 bits, which is as good as rounding for random numbers."""
    return (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)


ENCODERS: dict[str, Callable[[Array], Array]] = {
    "F16": lambda values: values.astype(np.float16),
    "BF16": bfloat16,
    "F32": lambda values: values.astype(np.float32),
}


def floats(chance: np.random.Generator, dtype: str, *shape: int, low: float = 1e-3, high: float = 3e-2) -> Array:
    """Scales as real ones are, and a few so small that products with them leave F16's normal range."""
    values = chance.uniform(low, high, shape)
    values.reshape(-1)[:: 7 * 13] /= 5000
    return ENCODERS[dtype](values)


def words(chance: np.random.Generator, *shape: int) -> Array:
    return chance.integers(-(1 << 31), 1 << 31, shape, np.int64).astype(np.int32)


def octets(chance: np.random.Generator, *shape: int) -> Array:
    return chance.integers(0, 256, shape, np.uint8)


def gptq(
    seed: int,
    shape: tuple[int, int],
    bits: int,
    group: int,
    v2: bool = False,
    act_order: bool = False,
    dtype: str = "F16",
    **settings: Any,
) -> Sample:
    chance = np.random.default_rng(seed)
    outputs, inputs = shape
    size = inputs if group == -1 else group
    count = -(-inputs // size)
    order = np.arange(inputs) // size
    if act_order:
        order = chance.permutation(order)
    tensors: Stored = {
        ".qweight": ("I32", words(chance, inputs * bits // 32, outputs)),
        ".qzeros": ("I32", words(chance, count, outputs * bits // 32)),
        ".scales": (dtype, floats(chance, dtype, count, outputs)),
        ".g_idx": ("I32", order.astype(np.int32)),
    }
    said = {
        "quant_method": "gptq",
        "bits": bits,
        "group_size": group,
        "desc_act": act_order,
        "sym": False,
        "checkpoint_format": "gptq_v2" if v2 else "gptq",
    }
    return Sample(said | settings, shape, tensors, "gptq")


def awq(seed: int, shape: tuple[int, int], group: int, version: str = "gemm", dtype: str = "F16") -> Sample:
    chance = np.random.default_rng(seed)
    outputs, inputs = shape
    size = inputs if group == -1 else group
    count = inputs // size
    # AutoAWQ fills up the words of zero points, and more for small groups
    multiple = {64: 2, 32: 4}.get(size, 1)
    width = -(-count // (8 * multiple)) * multiple
    tensors: Stored
    if version == "gemm":
        tensors = {
            ".qweight": ("I32", words(chance, inputs, outputs // 8)),
            ".qzeros": ("I32", words(chance, count, outputs // 8)),
            ".scales": (dtype, floats(chance, dtype, count, outputs)),
        }
    elif version == "gemv":
        tensors = {
            ".qweight": ("I32", words(chance, outputs, inputs // 8)),
            ".qzeros": ("I32", words(chance, outputs, width)),
            ".scales": (dtype, floats(chance, dtype, outputs, width * 8)),
        }
    else:
        tensors = {
            ".qweight": ("I16", words(chance, outputs // 4, inputs).astype(np.int16)),
            ".qzeros": (dtype, floats(chance, dtype, width * 8, outputs)),
            ".scales": (dtype, floats(chance, dtype, width * 8, outputs)),
        }
    said = {"quant_method": "awq", "bits": 4, "group_size": group, "zero_point": True, "version": version}
    return Sample(said, shape, tensors, f"awq-{version}")


def bnb4(
    seed: int, shape: tuple[int, ...], kind: str, block: int = 64, nested: int = 0, dtype: str = "bfloat16"
) -> Sample:
    chance = np.random.default_rng(seed)
    count = int(np.prod(shape))
    blocks = -(-count // block)
    state: dict[str, Any] = {"quant_type": kind, "blocksize": block, "dtype": dtype, "shape": list(shape)}
    tensors: Stored = {"": ("U8", octets(chance, (count + 1) // 2, 1))}
    if nested:
        state |= {"nested_blocksize": nested, "nested_dtype": "float32", "nested_offset": 0.04321}
        tensors |= {
            ".absmax": ("U8", octets(chance, blocks)),
            ".nested_absmax": ("F32", floats(chance, "F32", -(-blocks // nested))),
            ".nested_quant_map": ("F32", np.sort(chance.uniform(-1, 1, 256)).astype(np.float32)),
        }
    else:
        tensors[".absmax"] = ("F32", floats(chance, "F32", blocks))
    tensors[".quant_map"] = ("F32", np.zeros(16, np.float32))
    text = np.frombuffer(json.dumps(state).encode(), np.uint8)
    tensors[f".quant_state.bitsandbytes__{kind}"] = ("U8", text)
    said = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": kind}
    return Sample(said, shape, tensors, "bnb4", "")


def bnb8(seed: int, shape: tuple[int, int]) -> Sample:
    chance = np.random.default_rng(seed)
    tensors: Stored = {
        ".weight": ("I8", octets(chance, *shape).view(np.int8)),
        ".SCB": ("F32", floats(chance, "F32", shape[0], low=0.1, high=3)),
        ".weight_format": ("U8", np.zeros((), np.uint8)),
    }
    said = {"quant_method": "bitsandbytes", "load_in_8bit": True}
    return Sample(said, shape, tensors, "bnb8")


def scheme(bits: int, strategy: str, form: str, kind: str = "int", **more: Any) -> dict[str, Any]:
    """quantization_config of compressed-tensors with one group."""
    weights = {"num_bits": bits, "type": kind, "strategy": strategy, "symmetric": True, **more}
    return {
        "quant_method": "compressed-tensors",
        "format": form,
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}},
        "ignore": ["lm_head"],
    }


def ct_packed(
    seed: int,
    shape: tuple[int, int],
    bits: int,
    group: int | None,
    symmetric: bool = True,
    dtype: str = "BF16",
    tensor: bool = False,
    old: bool = False,
    act_order: bool = False,
) -> Sample:
    chance = np.random.default_rng(seed)
    outputs, inputs = shape

    def width(count: int) -> int:
        return -(-count // (32 // bits)) if old else -(-count * bits // 32)

    count = inputs // group if group else 1
    tensors: Stored = {
        "_packed": ("I32", words(chance, outputs, width(inputs))),
        "_shape": ("I64", np.array(shape, np.int64)),
        "_scale": (dtype, floats(chance, dtype, *((1,) if tensor else (outputs, count)))),
    }
    if not symmetric:
        tensors["_zero_point"] = ("I32", words(chance, width(outputs), count))
    more: dict[str, Any] = {"group_size": group, "symmetric": symmetric}
    if act_order:
        assert group is not None
        tensors["_g_idx"] = ("I32", chance.permutation(np.arange(inputs) // group).astype(np.int32))
        more["actorder"] = "group"
    strategy = "group" if group else "tensor" if tensor else "channel"
    return Sample(scheme(bits, strategy, "pack-quantized", **more), shape, tensors, "ct", "")


def ct_naive(
    seed: int,
    shape: tuple[int, int],
    stored: str,
    scales: tuple[int, ...],
    strategy: str,
    zero: bool = False,
    **more: Any,
) -> Sample:
    chance = np.random.default_rng(seed)
    dtype = more.pop("dtype", "BF16")
    values = octets(chance, *shape)
    if stored == "F8_E4M3":
        values[(values & 127) == 127] = 1
    tensors: Stored = {
        "": (stored, values.view(np.int8) if stored == "I8" else values),
        "_scale": (dtype, floats(chance, dtype, *scales)),
    }
    if zero:
        tensors["_zero_point"] = ("I8", octets(chance, *scales).view(np.int8))
        more["symmetric"] = False
    kind = "int" if stored == "I8" else "float"
    return Sample(scheme(8, strategy, f"{kind}-quantized", kind, **more), shape, tensors, "ct", "")


def e4m3(chance: np.random.Generator, *shape: int) -> Array:
    """Positive numbers of FP8."""
    return chance.integers(1, 0x7F, shape, np.uint8)


def nvfp4(seed: int, shape: tuple[int, int], kind: str) -> Sample:
    chance = np.random.default_rng(seed)
    outputs, inputs = shape
    packed, scale = octets(chance, outputs, inputs // 2), e4m3(chance, outputs, inputs // 16)
    if kind == "modelopt":
        tensors: Stored = {
            "": ("U8", packed),
            "_scale": ("F8_E4M3", scale),
            "_scale_2": ("F32", np.float32(3.2e-5).reshape(())),
        }
        said = {"quant_method": "modelopt", "quant_algo": "NVFP4", "exclude_modules": ["lm_head"]}
        return Sample(said, shape, tensors, "modelopt", "", {"torch_dtype": "bfloat16"})
    tensors = {
        "_packed": ("U8", packed),
        "_scale": ("F8_E4M3", scale),
        "_global_scale": ("F32", np.array([31234.5], np.float32)),
    }
    return Sample(scheme(4, "tensor_group", "nvfp4-pack-quantized", "float", group_size=16), shape, tensors, "ct", "")


def nvfp4_of(kind: str) -> Callable[[int, tuple[int, int]], Sample]:
    """Weights with scales of their own, so that a mix-up would be seen."""

    def make(seed: int, shape: tuple[int, int]) -> Sample:
        found = nvfp4(seed, shape, kind)
        ending = "_scale_2" if kind == "modelopt" else "_global_scale"
        dtype, values = found.tensors[ending]
        changed = (values * (1 + seed % 7 / 7)).astype(np.float32)
        return Sample(found.settings, shape, found.tensors | {ending: (dtype, changed)}, found.kind, "", found.config)

    return make


def mxfp4(seed: int, shape: tuple[int, int]) -> Sample:
    chance = np.random.default_rng(seed)
    outputs, inputs = shape
    tensors: Stored = {
        "_packed": ("U8", octets(chance, outputs, inputs // 2)),
        "_scale": ("U8", chance.integers(110, 135, (outputs, inputs // 32), np.uint8)),
    }
    said = scheme(4, "group", "mxfp4-pack-quantized", "float", group_size=32)
    return Sample(said, shape, tensors, "ct", "")


def mxfp8(seed: int, shape: tuple[int, int]) -> Sample:
    found = ct_naive(seed, shape, "F8_E4M3", (shape[0], shape[1] // 32), "group", group_size=32)
    exponents = np.random.default_rng(seed).integers(110, 135, (shape[0], shape[1] // 32), np.uint8)
    said = scheme(8, "group", "mxfp8-quantized", "float", group_size=32, scale_dtype="torch.uint8")
    return Sample(said, shape, found.tensors | {"_scale": ("U8", exponents)}, "ct", "")


def fp8(seed: int, shape: tuple[int, int], block: tuple[int, int], dtype: str = "F32") -> Sample:
    chance = np.random.default_rng(seed)
    values = octets(chance, *shape)
    values[(values & 127) == 127] = 1
    sizes = shape[0] // block[0], shape[1] // block[1]
    tensors: Stored = {"": ("F8_E4M3", values), "_scale_inv": (dtype, floats(chance, dtype, *sizes))}
    said = {"quant_method": "fp8", "weight_block_size": list(block)}
    return Sample(said, shape, tensors, "fp8", "")


def bitnet(seed: int, shape: tuple[int, int], auto: bool) -> Sample:
    chance = np.random.default_rng(seed)
    codes = chance.integers(0, 3, (4, shape[0] // 4, shape[1]), np.uint8)
    packed = codes[0] | codes[1] << 2 | codes[2] << 4 | codes[3] << 6
    tensors: Stored = {
        "": ("U8", packed),
        "_scale": ("BF16", bfloat16(np.array([1.234]) if auto else np.array([0.37]))),
    }
    said: dict[str, Any] = {"quant_method": "bitnet"}
    if auto:
        said |= {"linear_class": "autobitlinear", "quantization_mode": "offline"}
    return Sample(said, shape, tensors, "bitnet", "")


def chatglm(seed: int, shape: tuple[int, int], bits: int) -> Sample:
    chance = np.random.default_rng(seed)
    tensors: Stored = {
        "": ("I8", octets(chance, shape[0], shape[1] * bits // 8).view(np.int8)),
        "_scale": ("F16", floats(chance, "F16", shape[0])),
    }
    return Sample({}, shape, tensors, "chatglm", "", {"model_type": "chatglm", "quantization_bit": bits})


def fused(seed: int, shape: tuple[int, int, int], scales: tuple[int, ...], method: str) -> Sample:
    """The matrices of experts in one tensor of FP8."""
    chance = np.random.default_rng(seed)
    values = octets(chance, *shape)
    values[(values & 127) == 127] = 1
    ending = "_scale_inv" if method == "fp8" else "_scale"
    tensors: Stored = {"": ("F8_E4M3", values), ending: ("F32", floats(chance, "F32", *scales))}
    return Sample({"quant_method": method}, shape, tensors, "fused", "")


def nvfp4_fused(seed: int, shape: tuple[int, int, int]) -> Sample:
    chance = np.random.default_rng(seed)
    count, outputs, inputs = shape
    tensors: Stored = {
        "": ("U8", octets(chance, count, outputs, inputs // 2)),
        "_scale": ("F8_E4M3", e4m3(chance, count, outputs, inputs // 16)),
        "_scale_2": ("F32", floats(chance, "F32", count)),
    }
    return Sample({"quant_method": "modelopt", "quant_algo": "NVFP4"}, shape, tensors, "modelopt", "")


SAMPLES: dict[str, Sample] = {
    **{
        f"gptq-{bits}bit-{'v2' if v2 else 'v1'}{'-order' if order else ''}": gptq(bits, (64, 96), bits, 32, v2, order)
        for bits in (2, 3, 4, 8)
        for v2 in (False, True)
        for order in (False, True)
    },
    "gptq-one-group": gptq(11, (96, 64), 4, -1),
    "gptq-bf16": gptq(12, (32, 128), 4, 64, dtype="BF16"),
    "gptq-8bit-bf16": gptq(13, (64, 64), 8, 16, dtype="BF16"),
    "gptq-short-last-group": gptq(14, (32, 96), 4, 64),
    "awq-gemm": awq(21, (64, 128), 32),
    "awq-gemm-one-group": awq(22, (32, 64), -1),
    "awq-gemm-bf16": awq(23, (64, 64), 32, dtype="BF16"),
    "awq-gemv": awq(24, (64, 128), 64, "gemv"),
    "awq-gemv-one-group": awq(25, (32, 128), -1, "gemv"),
    "awq-gemv-fast": awq(26, (64, 256), 128, "gemv_fast"),
    "bnb-nf4": bnb4(31, (48, 64), "nf4"),
    "bnb-nf4-f16": bnb4(32, (48, 64), "nf4", dtype="float16"),
    "bnb-nf4-nested": bnb4(33, (96, 96), "nf4", nested=256),
    "bnb-nf4-nested-small": bnb4(34, (96, 64), "nf4", block=32, nested=64, dtype="float32"),
    "bnb-nf4-crooked": bnb4(35, (33, 39), "nf4", block=128),
    "bnb-fp4": bnb4(36, (32, 64), "fp4"),
    "bnb-fp4-nested-f16": bnb4(37, (40, 100), "fp4", block=256, nested=256, dtype="float16"),
    "bnb-8bit": bnb8(38, (48, 32)),
    **{
        f"ct-{bits}bit-{'sym' if symmetric else 'asym'}": ct_packed(40 + bits, (48, 64), bits, 32, symmetric)
        for bits in (2, 3, 4, 5, 8)
        for symmetric in (True, False)
    },
    "ct-4bit-f16": ct_packed(51, (40, 64), 4, 16, dtype="F16"),
    "ct-4bit-channel": ct_packed(52, (40, 56), 4, None),
    "ct-4bit-channel-asym": ct_packed(53, (40, 56), 4, None, symmetric=False),
    "ct-8bit-tensor": ct_packed(54, (24, 40), 8, None, tensor=True),
    "ct-4bit-odd": ct_packed(55, (33, 44), 4, None, symmetric=False),
    "ct-int8-channel": ct_naive(61, (48, 40), "I8", (48, 1), "channel"),
    "ct-int8-asym": ct_naive(62, (48, 40), "I8", (48, 1), "channel", zero=True),
    "ct-int8-tensor": ct_naive(63, (48, 40), "I8", (1,), "tensor", dtype="F32"),
    "ct-int8-group": ct_naive(64, (48, 64), "I8", (48, 4), "group", group_size=16),
    "ct-fp8-channel": ct_naive(65, (48, 40), "F8_E4M3", (48, 1), "channel"),
    "ct-fp8-channel-f16": ct_naive(66, (48, 40), "F8_E4M3", (48, 1), "channel", dtype="F16"),
    "ct-fp8-tensor": ct_naive(67, (48, 40), "F8_E4M3", (1,), "tensor"),
    "ct-fp8-block": ct_naive(68, (40, 72), "F8_E4M3", (3, 5), "block", block_structure=[16, 16]),
    "ct-nvfp4": nvfp4(71, (32, 128), "ct"),
    "ct-mxfp4": mxfp4(72, (32, 128)),
    "ct-mxfp8": mxfp8(73, (32, 128)),
    "modelopt-nvfp4": nvfp4(74, (32, 128), "modelopt"),
    "fp8-block": fp8(81, (64, 96), (32, 32)),
    "fp8-block-bf16": fp8(82, (64, 96), (32, 16), "BF16"),
    "fp8-experts": fused(83, (3, 64, 96), (3, 2, 3), "fp8"),
    "fp8-experts-columns": fused(84, (3, 40, 24), (3, 1, 24), "fbgemm_fp8"),
    "fp8-experts-rows": fused(85, (3, 40, 24), (3, 40, 1), "fbgemm_fp8"),
    "fp8-experts-one-each": fused(86, (3, 40, 24), (3,), "modelopt"),
    "modelopt-nvfp4-experts": nvfp4_fused(87, (3, 16, 128)),
    "modelopt-nvfp4-short-blocks": nvfp4(88, (16, 80), "modelopt"),
    "chatglm-4bit": chatglm(95, (48, 64), 4),
    "chatglm-8bit": chatglm(96, (48, 64), 8),
    "bitnet": bitnet(91, (64, 48), False),
    "bitnet-auto": bitnet(92, (64, 48), True),
}


@dataclass(frozen=True)
class Whole:
    """A tiny checkpoint: ``plain`` are its tensors that are not quantized, ``modules`` the others, by weight name."""

    config: dict[str, Any]
    plain: Stored
    modules: Mapping[str, Sample]

    def stored(self) -> Stored:
        """All tensors, as the file has them."""
        found = dict(self.plain)
        for name, sample in self.modules.items():
            found |= {stem_of(name, sample) + ending: part for ending, part in sample.tensors.items()}
        return found


def stem_of(weight: str, sample: Sample) -> str:
    """What the names of the parts begin with."""
    return weight.removesuffix(sample.weight) if sample.weight else weight


WIDTH, INNER, VOCABULARY, EXPERTS = 64, 128, 320, 4


def whole(architecture: str, make: Callable[[int, tuple[int, int]], Sample], **config: Any) -> Whole:
    """A model of two layers whose linear layers are quantized, all but the output."""
    found: dict[str, Any] = {
        "architectures": [architecture],
        "model_type": architecture.removesuffix("ForCausalLM").lower(),
        "hidden_size": WIDTH,
        "intermediate_size": INNER,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "vocab_size": VOCABULARY,
        "tie_word_embeddings": False,
        "torch_dtype": "float16",
        **config,
    }
    linear = {"self_attn.q_proj": (64, 64), "self_attn.k_proj": (32, 64), "self_attn.v_proj": (32, 64)}
    linear |= {"self_attn.o_proj": (64, 64)}
    plain: dict[str, tuple[int, ...]] = {"input_layernorm": (WIDTH,), "post_attention_layernorm": (WIDTH,)}
    mlp = {"gate_proj": (INNER, WIDTH), "up_proj": (INNER, WIDTH), "down_proj": (WIDTH, INNER)}
    if "num_local_experts" in config:
        names = {"w1": (INNER, WIDTH), "w3": (INNER, WIDTH), "w2": (WIDTH, INNER)}
        linear |= {f"block_sparse_moe.experts.{n}.{key}": shape for n in range(EXPERTS) for key, shape in names.items()}
        plain["block_sparse_moe.gate"] = (EXPERTS, WIDTH)
    elif "num_experts" in config:
        linear |= {f"mlp.experts.{n}.{key}": shape for n in range(EXPERTS) for key, shape in mlp.items()}
        plain["mlp.gate"] = (EXPERTS, WIDTH)
    else:
        linear |= {f"mlp.{key}": shape for key, shape in mlp.items()}
    if architecture.startswith("Qwen3"):
        plain |= {"self_attn.q_norm": (WIDTH // 4,), "self_attn.k_norm": (WIDTH // 4,)}
    chance = np.random.default_rng(5)
    stored: Stored = {}
    modules = {}

    def add(name: str, *shape: int) -> None:
        stored[name] = ("F16", (chance.standard_normal(shape) * 0.02 + ("norm" in name)).astype(np.float16))

    add("model.embed_tokens.weight", VOCABULARY, WIDTH)
    for layer in range(2):
        for name, shape in plain.items():
            add(f"model.layers.{layer}.{name}.weight", *shape)
        for number, (name, size) in enumerate(linear.items()):
            modules[f"model.layers.{layer}.{name}.weight"] = make(1000 * layer + number, size)
            if architecture == "Qwen2ForCausalLM" and name.endswith(("q_proj", "k_proj", "v_proj")):
                add(f"model.layers.{layer}.{name}.bias", size[0])
    add("model.norm.weight", WIDTH)
    if not found["tie_word_embeddings"]:
        add("lm_head.weight", VOCABULARY, WIDTH)
    found["quantization_config"] = next(iter(modules.values())).settings
    return Whole(found, stored, modules)


QWEN3_MOE = {
    "model_type": "qwen3_moe",
    "num_experts": EXPERTS,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": INNER,
    "norm_topk_prob": True,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "head_dim": 16,
}
MIXTRAL = {"num_local_experts": EXPERTS, "num_experts_per_tok": 2}

WHOLES: dict[str, Whole] = {
    "llama-gptq": whole("LlamaForCausalLM", lambda seed, shape: gptq(seed, shape, 4, 32, act_order=True)),
    "llama-gptq-8bit-v2": whole("LlamaForCausalLM", lambda seed, shape: gptq(seed, shape, 8, -1, v2=True)),
    "mixtral-gptq-3bit": whole("MixtralForCausalLM", lambda seed, shape: gptq(seed, shape, 3, 32), **MIXTRAL),
    "qwen2-awq": whole("Qwen2ForCausalLM", lambda seed, shape: awq(seed, shape, 32), tie_word_embeddings=True),
    "qwen2-nf4": whole(
        "Qwen2ForCausalLM", lambda seed, shape: bnb4(seed, shape, "nf4", nested=256), torch_dtype="bfloat16"
    ),
    "llama-8bit": whole("LlamaForCausalLM", bnb8),
    "mixtral-ct-4bit": whole("MixtralForCausalLM", lambda seed, shape: ct_packed(seed, shape, 4, 32, False), **MIXTRAL),
    "llama-ct-int8": whole(
        "LlamaForCausalLM", lambda seed, shape: ct_naive(seed, shape, "I8", (shape[0], 1), "channel")
    ),
    "qwen2-ct-fp8": whole(
        "Qwen2ForCausalLM", lambda seed, shape: ct_naive(seed, shape, "F8_E4M3", (shape[0], 1), "channel")
    ),
    "mixtral-fp8": whole("MixtralForCausalLM", lambda seed, shape: fp8(seed, shape, (32, 32)), **MIXTRAL),
    "llama-bitnet": whole("LlamaForCausalLM", lambda seed, shape: bitnet(seed, shape, False)),
}
