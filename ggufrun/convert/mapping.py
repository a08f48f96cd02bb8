"""A checkpoint's tensors become those of a GGUF: names, shapes, order, and the types of a file without blocks."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace

import gguf

from ggufrun.checkpoint.gguf import file
from ggufrun.checkpoint.quantized.blocks import BLOCKS
from ggufrun.checkpoint.tensor import Source, Tensor
from ggufrun.convert.arch.shared.family import Family, Stack
from ggufrun.convert.arch.shared.layout import n_blocks
from ggufrun.convert.config import Config
from ggufrun.convert.kept import with_scales
from ggufrun.convert.stacks import stacked
from ggufrun.convert.transforms import take_columns, zeros
from ggufrun.errors import FormatError, NotFoundError, UnsupportedError
from ggufrun.quantize import ggml
from ggufrun.quantize.types import FILE_TYPES, FileType

NOT_WEIGHTS = (
    "rotary_emb.inv_freq",
    "rotary_emb.cos_cached",
    "rotary_emb.sin_cached",
    ".attention.bias",
    ".attention.masked_bias",
    "._extra_state",
)
"""Tables that old checkpoints carry and llama.cpp computes, and what training frameworks note beside the weights."""

EMBEDDING = "token_embd.weight"
EMBEDDINGS = ("embed_tokens.weight", "tok_embeddings.weight", "wte.weight", "word_embeddings.weight", "embed_in.weight")
"""Endings of the names that checkpoints give it."""

ALWAYS_F32 = (
    gguf.MODEL_TENSOR.FFN_GATE_INP,
    gguf.MODEL_TENSOR.FFN_GATE_INP_SHEXP,
    gguf.MODEL_TENSOR.POS_EMBD,
    gguf.MODEL_TENSOR.TOKEN_TYPES,
    gguf.MODEL_TENSOR.SSM_CONV1D,
    gguf.MODEL_TENSOR.SSM_CONV1D_Q,
    gguf.MODEL_TENSOR.SSM_CONV1D_K,
    gguf.MODEL_TENSOR.SSM_CONV1D_V,
    gguf.MODEL_TENSOR.SHORTCONV_CONV,
    gguf.MODEL_TENSOR.INDEXER_PROJ,
    gguf.MODEL_TENSOR.ALTUP_CORRECT_COEF,
    gguf.MODEL_TENSOR.ALTUP_PREDICT_COEF,
)
"""Tensors that llama.cpp's converter keeps in F32 whatever the file type."""

FLOATS = {"F32": ggml.F32, "F16": ggml.F16, "BF16": ggml.BF16, "F64": ggml.F32}
"""The ggml type that holds a checkpoint's values without loss that matters (F64 is rounded)."""


def mapped(config: Config, family: Family, source: Source) -> dict[str, Tensor]:
    """The checkpoint's tensors under their GGUF names, in the converter's order; refuses what does not fit."""
    names = gguf.get_tensor_name_map(family.arch, n_blocks(config))
    expected = family.expected(config)
    found = {tensor.name: tensor for tensor in family.extra(config)}
    for tensor in _stacked(config, family, _transformed(config, family, source)):
        name = tensor.name if tensor.name in expected else names.get_name(tensor.name, (".weight", ".bias"))
        if name is None or name not in expected:
            raise UnsupportedError(
                f"no place in a {family.gguf_arch} GGUF for {tensor.name}",
                "config.json may name another kind of model than this is; --converter upstream may know the tensor",
            )
        if name in found:
            raise FormatError(f"two tensors of {source.path} would be {name}", "remove the stray file")
        found[name] = replace(tensor, name=name)
    for name, wanted in expected.items():
        if name not in found:
            if family.never_used(config, name):
                found[name] = zeros(name, wanted.shape)
            elif wanted.required:
                raise NotFoundError(f"the checkpoint has no {name}", "download the missing files")
        elif found[name].shape != wanted.shape:
            raise FormatError(
                f"{name} has the shape {found[name].shape}, config.json says {wanted.shape}",
                "config.json does not belong to these weights",
            )
    return with_scales(family.arch, found)


def with_true_vocabulary(config: Config, family: Family, source: Source) -> tuple[Config, tuple[str, ...]]:
    """``config`` with the size of the vocabulary that the token embedding has, and a note where it said another: the
    embedding is enlarged for new tokens, and config.json is left behind."""
    names = gguf.get_tensor_name_map(family.arch, 0)
    for tensor in source.tensors.values():
        if not tensor.name.endswith(EMBEDDINGS) or len(tensor.shape) != 2:
            continue
        kept = family.kept(config, tensor)
        if kept is None or names.get_name(kept.name, (".weight",)) != EMBEDDING:
            continue
        sizes = family.sizes(config)
        made = family.transform(config, kept)
        rows, width = next(each.shape for each in made if names.get_name(each.name, (".weight",)) == EMBEDDING)
        if rows == sizes["vocabulary"] or width != sizes["width"]:
            break
        sized = {key: rows for key in ("vocab_size", "padded_vocab_size") if config.has(key)}
        note = f"the vocabulary has the {rows} tokens of the embedding, not the {sizes['vocabulary']} of config.json"
        return Config(config.path, {**config.values, **sized}), (note,)
    return config, ()


def _transformed(config: Config, family: Family, source: Source) -> Iterator[Tensor]:
    for tensor in source.tensors.values():
        kept = None if tensor.name.endswith(NOT_WEIGHTS) else family.kept(config, tensor)
        if kept is None:
            continue
        if kept.dtype not in (*FLOATS, *BLOCKS):
            raise UnsupportedError(f"{kept.name} holds {kept.dtype} values", "convert an unquantized checkpoint")
        if kept.n_values == 0 or len(kept.shape) > file.MAX_DIMENSIONS or not kept.shape:
            raise FormatError(
                f"{kept.name} has the shape {kept.shape}, which no weight of this model has", "download it again"
            )
        columns = family.columns(config, kept.name)
        yield from family.transform(config, kept if columns is None else take_columns(kept, columns))


def _stacked(config: Config, family: Family, tensors: Iterator[Tensor]) -> Iterator[Tensor]:
    """Put the family's stacks together, each layer's where its last tensor stands."""
    waiting: dict[tuple[int, str], dict[tuple[int, str], Tensor]] = {}
    patterns = [re.compile(stack.pattern) for stack in family.stacks]
    for tensor in tensors:
        index, match = next(
            ((index, match) for index, pattern in enumerate(patterns) if (match := pattern.fullmatch(tensor.name))),
            (0, None),
        )
        if match is None:
            yield tensor
            continue
        stack, layer = family.stacks[index], match["layer"]
        held = waiting.setdefault((index, layer), {})
        held[int(match["number"]), match["part"]] = tensor
        if len(held) == stack.count(config) * len(stack.parts):
            yield from _layer_stacks(config, stack, layer, waiting.pop((index, layer)))
    for (index, layer), held in waiting.items():
        stack = family.stacks[index]
        raise NotFoundError(
            f"layer {layer} has {len(held)} of {stack.count(config) * len(stack.parts)} expert tensors",
            "download the missing files",
        )


def _layer_stacks(config: Config, stack: Stack, layer: str, held: Mapping[tuple[int, str], Tensor]) -> Iterator[Tensor]:
    for part in stack.parts:
        tensors = [held.get((number, part)) for number in range(stack.count(config))]
        if None in tensors:
            raise NotFoundError(
                f"layer {layer} has no {part} of expert {tensors.index(None)}", "download the missing files"
            )
        name = stack.name.format(layer=layer, part=part)
        yield stacked(name, [tensor for tensor in tensors if tensor is not None])


def own_precision(tensors: Mapping[str, Tensor]) -> FileType:
    """The plain file type that holds the checkpoint as it is: that of its first matrix."""
    first = next((tensor for tensor in tensors.values() if len(tensor.shape) > 1 and tensor.dtype not in BLOCKS), None)
    dtype = "F32" if first is None else first.precision or first.dtype
    return FILE_TYPES["F32" if dtype == "F64" else dtype]


def plain_type(model_arch: gguf.MODEL_ARCH, tensor: Tensor, file_type: FileType) -> int:
    """The ggml type of a tensor in a file without quantization: vectors, norms and a few tables stay F32."""
    name = tensor.name
    if tensor.dtype in BLOCKS:
        return ggml.block_types()[tensor.dtype.lower()].id
    if len(tensor.shape) <= 1 or name.endswith("_norm.weight") or not name.endswith(".weight"):
        return ggml.F32
    stem = ".".join(part for part in name.removesuffix(".weight").split(".") if not part.isdecimal())
    always = {
        gguf.TENSOR_NAMES[key].replace(".{bid}", "") for key in ALWAYS_F32 if key in gguf.MODEL_TENSORS[model_arch]
    }
    return ggml.F32 if stem in always else FLOATS[file_type.name]
