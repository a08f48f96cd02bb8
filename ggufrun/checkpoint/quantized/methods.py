"""The forms in which a quantized weight is stored, each known by the name of one tensor that it always has.

What a tensor's name and type say counts; the settings add what tensors do not tell. So a checkpoint may mix forms, and
one whose settings are lost is read where its tensors are enough.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ggufrun.checkpoint.quantized import awq, bitnet, bitsandbytes, chatglm, fp4, gptq, mxfp4, packed, scaled
from ggufrun.checkpoint.quantized.module import Module
from ggufrun.checkpoint.tensor import Tensor
from ggufrun.errors import FormatError, UnsupportedError


@dataclass(frozen=True)
class Form:
    """One form. The tensor whose name ends in ``anchor`` shows that a module is in it.

    ``endings`` are those of all its tensors, ``weight`` of the weight that they stand for. ``read`` returns the weight
    and the name of the method, or None where the tensors are not quantized after all.
    """

    anchor: str
    endings: tuple[str, ...]
    weight: str
    read: Callable[[Module], tuple[str, Tensor] | None]


def _words(module: Module) -> tuple[str, Tensor]:
    """``qweight``: GPTQ or AWQ, as the settings say, or told apart by which side is packed."""
    said = module.settings.method
    if said not in ("", *READ_METHODS) and module.parts[".qweight"].dtype not in ("I32", "I16"):
        raise refuse(said)
    if "awq" in module.settings.text("packing_format", "backend") or said == "awq":
        return "AWQ", awq.read(module)
    if said in ("gptq", "auto-round") or gptq.is_gptq(module):
        return "GPTQ", gptq.read(module)
    if awq.is_awq(module):
        return "AWQ", awq.read(module)
    weight, scales = module.part(".qweight", "I32", "I16"), module.part(".scales", "F16", "BF16", "F32")
    raise FormatError(
        f"{weight.name} has the shape {weight.shape}, {scales.name} {scales.shape}: neither GPTQ nor AWQ",
        "download the checkpoint again, or convert the original one",
    )


def _packed(module: Module) -> tuple[str, Tensor]:
    """``weight_packed``: whole numbers or floats of 4 bits, by its type."""
    weight = module.part("_packed", "I32", "U8")
    if weight.dtype == "I32":
        return "compressed-tensors", packed.read(module)
    if module.part("_scale", "F8_E4M3", "U8", "F8_E8M0").dtype == "F8_E4M3":
        return "NVFP4", fp4.read_nvfp4(module, weight, "_global_scale")
    return "MXFP4", fp4.read_mxfp4(module, weight)


def _scale(module: Module) -> tuple[str, Tensor] | None:
    """``weight_scale``: what it scales shows in the type of the weight."""
    weight = module.parts.get("")
    ending = next(ending for ending in ("_scale_inv", "_scale") if ending in module.parts)
    if weight is None or weight.dtype not in (*scaled.STORED, "U8"):
        return None
    if module.settings.method == chatglm.METHOD and weight.dtype == "I8":
        four = module.settings.whole("bits") == 4
        return "ChatGLM", chatglm.read(module) if four else scaled.read(module, ending)
    if weight.dtype != "U8":
        name = "FP8" if weight.dtype in scaled.FP8 else "8 bits"
        return name, scaled.read(module, ending)
    if module.parts[ending].dtype == "F8_E4M3":
        return "NVFP4", fp4.read_nvfp4(module, weight, "_scale_2")
    if module.parts[ending].dtype in scaled.EXPONENTS:
        return "MXFP4", fp4.read_mxfp4(module, weight)
    return ("BitNet", bitnet.read(module)) if module.parts[ending].n_values == 1 else None


def _bits4(kind: str) -> Form:
    endings = ("", ".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map", f"{bitsandbytes.STATE}{kind}")
    return Form(endings[-1], endings, "", lambda module: ("bitsandbytes", bitsandbytes.read_4bit(module, kind)))


FORMS = (
    Form("_blocks", ("_blocks", "_scales"), "", lambda module: ("MXFP4", mxfp4.read(module))),
    Form(".qweight", (".qweight", ".qzeros", ".scales", ".g_idx"), ".weight", _words),
    _bits4("nf4"),
    _bits4("fp4"),
    Form(
        ".SCB",
        (".weight", ".SCB", ".weight_format"),
        ".weight",
        lambda module: ("bitsandbytes", bitsandbytes.read_8bit(module)),
    ),
    Form("_packed", ("_packed", "_scale", "_shape", "_zero_point", "_g_idx", "_global_scale"), "", _packed),
    Form("_scale_inv", ("", "_scale_inv"), "", _scale),
    Form("_scale", ("", "_scale", "_scale_2", "_zero_point"), "", _scale),
)

PARTS = (
    *(".qweight", ".qzeros", ".g_idx", ".absmax", ".nested_absmax", ".quant_map", ".nested_quant_map"),
    *(".weight_packed", ".weight_shape", ".weight_zero_point", ".weight_g_idx", ".weight_global_scale"),
    *(".weight_scale_2", ".weight_scale_inv"),
)
"""Endings that only parts of quantized weights have."""

NOT_WEIGHTS = (
    *(".input_scale", ".activation_scale", ".input_scale_ub", ".input_zero_point", ".input_global_scale"),
    *("_input_scale", "_activation_scale", "_input_global_scale", ".output_scale", ".output_zero_point"),
    *(".k_scale", ".v_scale", ".q_scale", ".prob_output_scale", ".k_zero_point", ".v_zero_point"),
)
"""Endings of scales of activations and of the cache: for kernels that compute in few bits."""

READ_METHODS = (
    *("gptq", "awq", "auto-round", "bitsandbytes", "compressed-tensors", "modelopt", "bitnet"),
    chatglm.METHOD,
    *("fp8", "fbgemm-fp8", "mxfp4", "nvfp4", "mxfp8"),
)
"""Values of ``quant_method`` whose forms are read, with - in place of _."""

OTHERS = {
    ".pre_quant_scale": "AWQ by Model Optimizer",
    ".weight._data": "quanto",
    ".W_q": "HQQ",
    ".codebooks": "AQLM",
    ".Qidxs": "QuIP#",
    ".centroids": "VPTQ",
    ".weight_scales": "EETQ",
    ".bitmask": "compressed-tensors, sparse-24-bitmask",
    ".B_24": "Marlin 2:4",
    ".trellis": "EXL3",
    ".q_scale_max": "EXL2",
    ".dense_weights": "SpQR",
}
"""Endings of tensors that only methods have which ggufrun does not read."""


NAMES = {
    "aqlm": "AQLM",
    "eetq": "EETQ",
    "exl2": "EXL2",
    "exl3": "EXL3",
    "fouroversix": "Four Over Six",
    "fp-quant": "FP-Quant",
    "higgs": "HIGGS",
    "hqq": "HQQ",
    "marlin": "Marlin",
    "metal": "MLX's affine blocks (metal)",
    "mlx": "MLX's affine blocks",
    "quark": "Quark",
    "quip": "QuIP#",
    "sinq": "SINQ",
    "spqr": "SpQR",
    "vptq": "VPTQ",
}
"""What people call methods, by their ``quant_method``, where they write it otherwise."""


def refuse(method: str) -> UnsupportedError:
    """What to raise for a method that is not read, by its name."""
    return UnsupportedError(
        f"the checkpoint is quantized with {NAMES.get(method, method[:60])}, which ggufrun does not read",
        "download and convert the original one",
    )
