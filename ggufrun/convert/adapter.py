"""A LoRA adapter as a GGUF of its own, for ``--lora`` at run time.

llama.cpp adds ``alpha / rank * B A`` to a weight, so a file holds one alpha and the matrices ``a`` and ``b`` of every
changed weight, under the weight's GGUF name. What a family does to a weight's rows is done to the rows of B. Settings
that this cannot tell (DoRA, whole tensors, biases) are refused; a scale that is not ``alpha / rank`` (rsLoRA, patterns)
goes into B. What an adapter changes beside the text's own layers (layers that predict further tokens, eyes) is left
out: llama.cpp would refuse the adapter for it, and the text is the same without.

Source: llama.cpp's ``convert_lora_to_gguf.py`` for names, order and types.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np

from ggufrun.checkpoint import gguffile
from ggufrun.checkpoint.adapter import Adapter, AdapterRequest, Delta, Settings, open_adapter
from ggufrun.checkpoint.open import open_checkpoint
from ggufrun.checkpoint.quantized import as_float32
from ggufrun.checkpoint.tensor import Rows, Tensor
from ggufrun.convert import arch, metadata
from ggufrun.convert.arch.shared.family import Family, is_tied
from ggufrun.convert.arch.shared.layout import n_blocks, n_layers
from ggufrun.convert.config import Config, read_config
from ggufrun.convert.plan import Plan
from ggufrun.convert.target import Model, make_target
from ggufrun.convert.transforms import take_columns
from ggufrun.errors import FormatError, UnsupportedError, UsageError
from ggufrun.quantize import ggml
from ggufrun.quantize.types import FILE_TYPES, FileType

TYPES = {"F32": ggml.F32, "F16": ggml.F16, "BF16": ggml.BF16}
MERGE = "merge it instead: leave --lora-out away"
NOWHERE = "to which llama.cpp adds nothing at run time"


def plan_adapter(
    base: Path, request: AdapterRequest, path: Path, file_types: Sequence[FileType] = (), name: str | None = None
) -> Plan:
    """Plan the GGUF at ``path`` of an adapter for the model in ``base``, of which only config.json is read.

    ``file_types`` holds F32, F16 or BF16, or nothing, which is F32. A scale in ``request`` goes into the matrices.
    """
    file_type = file_types[0] if file_types else FILE_TYPES["F32"]
    if file_type.name not in TYPES:
        raise UsageError(f"an adapter cannot be written as {file_type.name}", f"choose {', '.join(TYPES)}")
    config = _config(base)
    family = arch.find(config)
    config = family.complete(config)
    family.check_config(config)
    adapter, settings = open_adapter(request)
    try:
        left_out: list[str] = []
        tensors = {tensor.name: tensor for tensor in _tensors(config, family, adapter, settings, left_out)}
        if left_out and not tensors:
            raise UnsupportedError(f"{adapter.path} changes only {left_out[0]} and its like, {NOWHERE}", MERGE)
        logging.getLogger("gguf").setLevel(logging.ERROR)
        writer = gguf.GGUFWriter(None, family.gguf_arch)
        metadata.add_general(request.path, writer, tensors.values(), name, gguf.GGUFType.ADAPTER)
        writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, settings.alpha)
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        values = {key: gguffile.encode(v.value, v.type, v.sub_type) for key, v in writer.kv_data[0].items()}
        kinds = [
            (key, ggml.F32 if len(tensor.shape) == 1 else TYPES[file_type.name]) for key, tensor in tensors.items()
        ]
        targets = (make_target(path, file_type, Model(values, tensors), kinds),)
        notes = (f"left out are changes to {_some(left_out)}, {NOWHERE}",) if left_out else ()
        return Plan(adapter.source, targets, left_out=tuple(left_out), notes=notes)
    except BaseException:
        adapter.source.close()
        raise


def _some(names: Sequence[str]) -> str:
    """A few of them, and how many more there are."""
    return ", ".join(names[:2]) + (f" and {len(names) - 2} more" if len(names) > 2 else "")


def _config(base: Path) -> Config:
    if (base / "config.json").is_file() or not (base / "params.json").is_file():
        return read_config(base)
    source = open_checkpoint(base)
    try:
        return read_config(base, source.overrides)
    finally:
        source.close()


def _tensors(
    config: Config, family: Family, adapter: Adapter, settings: Settings, left_out: list[str]
) -> Iterator[Tensor]:
    names = gguf.get_tensor_name_map(family.arch, n_blocks(config))
    expected = family.expected(config)

    def gguf_name(tensor: Tensor) -> str:
        name = tensor.name if tensor.name in expected else names.get_name(tensor.name, (".weight", ".bias"))
        if name is None or name not in expected or (name == "output.weight" and is_tied(config)):
            raise _no_such(adapter, tensor.name)
        return name

    if settings.fan_in_fan_out or settings.dora:
        kind = "DoRA adapter" if settings.dora else "adapter of transposed layers"
        raise UnsupportedError(f"{adapter.path} is a {kind}, which llama.cpp cannot add", MERGE)
    for name, tensor in adapter.whole.items():
        if name in adapter.frozen and name.endswith(".weight") and tensor.shape[0] == config.integer("vocab_size"):
            # the base's own embedding
            continue
        if "_layernorm" not in name and ".norm" not in name:
            raise UnsupportedError(f"{adapter.path} replaces {name}, which llama.cpp cannot do at run time", MERGE)
        kept = family.kept(config, replace(tensor, name=name))
        places = [replace(found, name=gguf_name(found)) for found in family.transform(config, kept)] if kept else []
        if _has_place(config, places):
            yield from places
        else:
            left_out.append(name)
    for delta in adapter.deltas.values():
        pairs = list(_pair(config, family, adapter, settings, delta, gguf_name))
        if _has_place(config, pairs):
            yield from pairs
        elif delta.module == "lm_head":
            raise _no_such(adapter, "lm_head.weight")
        else:
            left_out.append(delta.module)


def _has_place(config: Config, tensors: Sequence[Tensor]) -> bool:
    """Whether llama.cpp would add them: it has no other parts than the text's, and adds nothing to layers after the
    last, whose guesses the model itself checks."""
    numbers = (int(tensor.name.split(".")[1]) for tensor in tensors if tensor.name.startswith("blk."))
    return bool(tensors) and all(number < n_layers(config) for number in numbers)


def _no_such(adapter: Adapter, name: str) -> FormatError:
    return FormatError(f"the base has no {name}, which {adapter.path} changes", "name the base it is for")


def _pair(
    config: Config,
    family: Family,
    adapter: Adapter,
    settings: Settings,
    delta: Delta,
    gguf_name: Callable[[Tensor], str],
) -> Iterator[Tensor]:
    a, b = delta.a, delta.b
    assert a is not None and b is not None
    if delta.b_bias is not None:
        raise UnsupportedError(f"{adapter.path} changes the bias of {delta.module}, which llama.cpp cannot add", MERGE)
    rank = a.shape[0]
    if (columns := family.columns(config, f"{delta.module}.weight")) is not None:
        a = take_columns(a, columns)
    factor = delta.scale * rank / settings.alpha
    scaled = b if abs(factor - 1) < 1e-12 else _times(b, factor)
    kept = family.kept(config, replace(scaled, name=f"{delta.module}.weight"))
    for changed in family.transform(config, kept) if kept else ():
        name = gguf_name(changed)
        if len(changed.shape) != 2 or changed.shape[1] != rank:
            raise UnsupportedError(f"{name} is stored in another shape than {delta.module} has", MERGE)
        yield replace(_transposed(a) if name == "token_embd.weight" else a, name=f"{name}.lora_a")
        yield replace(changed, name=f"{name}.lora_b")


def _times(tensor: Tensor, factor: float) -> Tensor:
    def rows(start: int, stop: int) -> Rows:
        values: Rows = as_float32(tensor.dtype, tensor.rows(start, stop)) * np.float32(factor)
        return values

    return Tensor(tensor.name, "F32", tensor.shape, rows, tensor.precision or tensor.dtype)


def _transposed(tensor: Tensor) -> Tensor:
    """llama.cpp looks rows of the embedding up, so its ``a`` has one row a token; few columns, read whole."""

    def rows(start: int, stop: int) -> Rows:
        return np.ascontiguousarray(tensor.rows(0, tensor.shape[0])[:, start:stop].T)

    return replace(tensor, shape=(tensor.shape[1], tensor.shape[0]), rows=rows)
