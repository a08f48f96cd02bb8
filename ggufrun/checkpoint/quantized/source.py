"""A checkpoint that is stored in fewer bits as one of floats, computed as they are read."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ggufrun.checkpoint.quantized.floats import FLOATS, as_float32
from ggufrun.checkpoint.quantized.methods import FORMS, NOT_WEIGHTS, OTHERS, PARTS, READ_METHODS, refuse
from ggufrun.checkpoint.quantized.module import Module, read_vector
from ggufrun.checkpoint.quantized.panels import Panels, turned
from ggufrun.checkpoint.quantized.scaled import FP8
from ggufrun.checkpoint.quantized.settings import OWN_FILES, Settings, read_settings
from ggufrun.checkpoint.tensor import Checkpoint, Rows, Tensor
from ggufrun.errors import FormatError, UnsupportedError

PACKED = ("I8", "U8", "I16", "U16", "I32", "U32")
"""Types that no plain weight of two dimensions has."""

NATIVE = ("MXFP4", "BitNet", "FP8")
"""Forms in which models are trained and published: nothing need have been lost."""
AFTERWARDS = ("compressed-tensors", "modelopt", "fbgemm-fp8")
"""Methods that quantize what was trained in floats, to FP8 too."""

INPUTS_FIRST = ("gpt2",)
"""Values of ``model_type`` whose plain weights are (inputs, outputs); quantized, they are the other way round."""

LAYER_NUMBER = re.compile(r"\.\d+\.")


class DequantizedSource:
    """A checkpoint whose quantized weights have become F32 ones, or are in ggml's blocks.

    ``notes`` are sentences for the user about what that means.
    """

    def __init__(self, source: Checkpoint, tensors: Mapping[str, Tensor], notes: tuple[str, ...] = ()) -> None:
        self.path, self.tokenizer, self.overrides = source.path, source.tokenizer, source.overrides
        self.least_tokens = source.least_tokens
        self.tensors = tensors
        self.notes = (*source.notes, *notes)
        names = ("config.json", *OWN_FILES)
        self.files = (*source.files, *(source.path / name for name in names if (source.path / name).is_file()))
        self._source = source

    def close(self) -> None:
        """Close the files."""
        self._source.close()


@dataclass(frozen=True)
class Found:
    """The weights that were quantized, by the name of the tensor in whose place they come.

    ``used`` are the names of all tensors that they are read from, ``methods`` those of the methods.
    """

    weights: Mapping[str, Tensor]
    used: frozenset[str]
    methods: tuple[str, ...]


def dequantized(source: Checkpoint) -> Checkpoint:
    """The checkpoint as plain floats, or blocks of ggml; the source itself where nothing is quantized.

    FormatError where parts of a weight do not fit each other, UnsupportedError for methods that are not read.
    """
    settings = read_settings(source.path, "architectures" not in source.overrides)
    found = _read_all(source.tensors, settings)
    rest = [tensor for name, tensor in source.tensors.items() if name not in found.used]
    if not found.weights and not settings.values and any(tensor.dtype in FP8 for tensor in rest):
        # cast, not scaled
        return DequantizedSource(source, {name: _plain_floats(tensor) for name, tensor in source.tensors.items()})
    _check_rest(settings, found, [tensor for tensor in rest if not tensor.name.endswith(NOT_WEIGHTS)])
    if found.weights:
        tensors = _without_empty_biases(found, _in_order(source.tensors, found))
        return DequantizedSource(source, tensors, _notes(found, settings))
    return _leftover(source, settings) if settings.values else source


def _leftover(source: Checkpoint, settings: Settings) -> Checkpoint:
    """All weights are plain floats, whatever the settings say."""
    if settings.method == "bitnet" and settings.text("quantization_mode") == "online":
        raise UnsupportedError(
            "the checkpoint is made ternary (BitNet, online) while the model runs, which ggufrun does not do",
            "convert the packed release of the same model, or use --converter upstream",
        )
    note = (
        f"{settings.file.name} speaks of quantization ({settings.method or 'no method'}), but the weights are plain "
        "floats; they are converted as they are"
    )
    return DequantizedSource(source, source.tensors, (note,))


def _notes(found: Found, settings: Settings) -> tuple[str, ...]:
    afterwards = settings.method in AFTERWARDS
    lossy = [method for method in found.methods if method not in NATIVE or (method == "FP8" and afterwards)]
    if not lossy:
        return ()
    return (
        f"the checkpoint was quantized before ({', '.join(lossy)}), and what that lost stays lost; "
        "the original one, if you can get it, makes a better file",
    )


def _read_all(tensors: Mapping[str, Tensor], settings: Settings) -> Found:
    panels, turning = Panels(), Panels()
    weights: dict[str, Tensor] = {}
    names: set[str] = set()
    used: set[str] = set()
    methods: dict[str, None] = {}
    for form in FORMS:
        for stem in [name.removesuffix(form.anchor) for name in tensors if name.endswith(form.anchor)]:
            parts = {ending: tensors[stem + ending] for ending in form.endings if stem + ending in tensors}
            own = {tensor.name for tensor in parts.values()}
            if own & used:
                continue
            result = form.read(Module(stem, stem + form.weight, parts, settings, panels))
            if result is None:
                continue
            method, weight = result
            if settings.model_type in INPUTS_FIRST and len(weight.shape) == 2:
                weight = turned(weight, turning)
            if weight.name in names or (weight.name in tensors and weight.name not in own):
                raise FormatError(f"{weight.name} is there twice, quantized and as it is", "remove the stray file")
            weights[weight.name if weight.name in own else stem + form.anchor] = weight
            names.add(weight.name)
            used |= own
            methods[method] = None
    return Found(weights, frozenset(used), tuple(methods))


def _check_rest(settings: Settings, found: Found, rest: Sequence[Tensor]) -> None:
    """Refuse what is quantized in a way that no form knows."""
    unknown = settings.method if settings.method not in READ_METHODS else ""
    for tensor in rest:
        method = next((name for ending, name in OTHERS.items() if tensor.name.endswith(ending)), None)
        if method is not None:
            raise refuse(unknown or method)
        if unknown and _is_packed(tensor):
            raise refuse(unknown)
        if tensor.dtype == "U32" and tensor.name.endswith(".weight"):
            raise refuse("mlx")
    for tensor in rest:
        if tensor.name.endswith(PARTS):
            raise FormatError(
                f"{tensor.name} is a part of a quantized weight whose other parts are missing",
                "download the missing files",
            )
    for tensor in rest:
        packed = _is_packed(tensor)
        if settings.values and settings.method not in READ_METHODS and (packed or tensor.dtype in FP8):
            raise refuse(settings.method or "a method that it does not name")
        if tensor.dtype in FP8 and (found.weights or settings.values):
            raise UnsupportedError(f"{tensor.name} is FP8 without a scale", "convert the original checkpoint")
        if settings.values and packed:
            raise FormatError(
                f"{tensor.name} holds {tensor.dtype} values, and the checkpoint lacks the scales that "
                f"{settings.method} stores with them",
                "download the missing files, or convert the original checkpoint",
            )


def _is_packed(tensor: Tensor) -> bool:
    return tensor.dtype in PACKED and len(tensor.shape) > 1


def _in_order(tensors: Mapping[str, Tensor], found: Found) -> dict[str, Tensor]:
    """MXFP4 first, as in llama.cpp's converter, then the order of the files; without what is not for llama.cpp."""
    result = {weight.name: weight for weight in found.weights.values() if weight.dtype == "MXFP4"}
    for name, tensor in tensors.items():
        weight = found.weights.get(name)
        if weight is not None:
            result.setdefault(weight.name, weight)
        elif name not in found.used and not name.endswith(NOT_WEIGHTS):
            result[name] = tensor
    return result


def _without_empty_biases(found: Found, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without the biases of zeros that AutoGPTQ's first releases gave every layer, also of models that have none.

    A bias of zeros is one of them where every quantized weight has a bias, and it is zero in all layers.
    """
    biases = {name.removesuffix(".qweight") + ".bias" for name in found.weights if name.endswith(".qweight")}
    if not biases or not all(name in tensors and tensors[name].dtype in FLOATS for name in biases):
        return dict(tensors)
    kinds: dict[str, bool] = {}
    for name in biases:
        kind = LAYER_NUMBER.sub(".", name)
        kinds[kind] = kinds.get(kind, True) and not read_vector(tensors[name]).any()
    return {
        name: tensor for name, tensor in tensors.items() if name not in biases or not kinds[LAYER_NUMBER.sub(".", name)]
    }


def _plain_floats(tensor: Tensor) -> Tensor:
    """An FP8 tensor without a scale as the values that it has."""
    if tensor.dtype not in FP8:
        return tensor

    def rows(start: int, stop: int) -> Rows:
        return as_float32(tensor.dtype, tensor.rows(start, stop))

    return replace(tensor, dtype="F32", rows=rows, precision="BF16")
