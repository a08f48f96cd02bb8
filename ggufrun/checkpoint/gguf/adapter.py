"""GGUF adapters that would end llama.cpp's process, or that it would ignore in part, are refused before it sees them.

llama.cpp checks the outermost sizes of an adapter's matrices and multiplies whatever there is: matrices for fewer
experts than the model has are read past their end, other sizes end the process.

Source: ``llama_adapter_lora_init_impl``, ``build_lora_mm`` and ``build_inp_embd`` in llama.cpp.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from ggufrun.checkpoint.gguf.file import Header, TensorInfo
from ggufrun.checkpoint.gguf.tensor_types import TensorType
from ggufrun.checkpoint.gguf.uses import UNMULTIPLIED
from ggufrun.errors import FormatError, UnsupportedError

LATENT = r"attn_(q|q_a|q_b|kv_a_mqa|kv_b|k_b|v_b)|indexer\..*"
IGNORED: Mapping[str, str] = {
    "deepseek2": LATENT,
    "deepseek32": LATENT,
    "gemma3n": "per_layer_model_proj|altup_router",
    "gemma4": "per_layer_model_proj",
    "glm-dsa": LATENT,
    "gpt2": "position_embd",
    "kimi-linear": rf"{LATENT}|attn_(k|v|output)|ssm_.*",
    "minicpm3": LATENT,
}
"""By architecture, the weights that llama.cpp multiplies without looking at adapters, which it ignores there: names
without layer and ending. Seen in the logits of all families' tiny models."""

A, B = ".lora_a", ".lora_b"
EMBEDDING, OUTPUT, OUTPUT_NORM = "token_embd.weight", "output.weight", "output_norm.weight"
MERGE = "merge the adapter: ggufrun convert BASE --lora ADAPTER"
THIS_MODEL = "give the adapter of this very model, as GGUF (ggufrun convert --lora-out)"


def check_adapter(path: Path, header: Header, model: Path, tensors: Sequence[TensorInfo]) -> None:
    """FormatError for an adapter with matrices that do not fit the ``tensors`` of the GGUF ``model``, UnsupportedError
    for one that llama.cpp cannot apply. What it refuses by itself is left to it.
    """
    found = {tensor.name: tensor for tensor in header.tensors}
    known = {tensor.name: tensor for tensor in tensors}
    for name, first in found.items():
        if not name.endswith((A, B)):
            continue
        if first.type in UNMULTIPLIED:
            raise FormatError(f"{name} of {path.name} holds {first.type.name} values, which no adapter has", THIS_MODEL)
        weight = name.removesuffix(A)
        second, changed = found.get(weight + B), known.get(weight)
        if name.endswith(B) or second is None or changed is None or len(changed.shape) < 2:
            continue
        if (
            changed.type == TensorType.NVFP4
            and ".ffn_" in weight
            and f"{weight.removesuffix('.weight')}.scale" in known
        ):
            raise UnsupportedError(
                f"{path.name} changes {weight}, which {model.name} has in NVFP4; llama.cpp cannot add to that at run "
                "time",
                MERGE,
            )
        rank = second.shape[-1]
        *outer, height, width = _inner(changed.shape)
        expected: tuple[tuple[int, ...], tuple[int, ...]] = (*outer, rank, width), (*outer, height, rank)
        if weight == EMBEDDING:
            _check_embedding(path, model, known)
            expected = (height, rank), (width, rank)
        if (_inner(first.shape), _inner(second.shape)) != expected:
            raise FormatError(
                f"{weight} is {changed.shape} in {model.name}, its matrices in {path.name} are {first.shape} and "
                f"{second.shape}",
                THIS_MODEL,
            )


def is_ignored(arch: str, name: str) -> bool:
    """Whether llama.cpp computes with the weight ``name`` as if no adapter changed it."""
    stem = re.sub(r"^blk\.\d+\.|\.(weight|bias)$", "", name)
    return re.fullmatch(IGNORED.get(arch, ""), stem) is not None


def ignored_weights(header: Header) -> list[str]:
    """The weights that an adapter changes and that llama.cpp takes as they are."""
    changed = [tensor.name.removesuffix(A) for tensor in header.tensors if tensor.name.endswith(A)]
    return [name for name in changed if is_ignored(header.architecture, name)]


def _check_embedding(path: Path, model: Path, known: Mapping[str, TensorInfo]) -> None:
    if OUTPUT not in known and OUTPUT_NORM in known:
        raise UnsupportedError(
            f"{path.name} changes the embedding of {model.name}, which is its output, too; llama.cpp cannot do that at "
            "run time",
            MERGE,
        )


def _inner(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape without outer dimensions of size one, which are none to ggml."""
    while len(shape) > 2 and shape[0] == 1:
        shape = shape[1:]
    return shape
