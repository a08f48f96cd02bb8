"""A LoRA adapter as a GGUF of its own, for ``--lora`` at run time.

llama.cpp adds ``alpha / rank * B A`` to a weight, so a file holds one alpha and the matrices ``a`` and ``b`` of every
changed weight, under the weight's GGUF name. What a family does to a weight's rows is done to the rows of B. Settings
that this cannot express (DoRA, whole tensors, rows of tokens, biases) are refused; a scale that is not ``alpha / rank``
(rsLoRA, patterns) goes into B. What an adapter changes besides the text's own layers (layers that predict further
tokens, eyes) is left out: llama.cpp would refuse the adapter for it, and the text is the same without.

Source: llama.cpp's ``convert_lora_to_gguf.py`` for names, order and types.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np

from ggufrun.checkpoint.adapters.adapter import Adapter, AdapterRequest, Delta, changed_twice, open_adapter
from ggufrun.checkpoint.adapters.merge import plain_scale
from ggufrun.checkpoint.gguf import file
from ggufrun.checkpoint.gguf.adapter import is_ignored
from ggufrun.checkpoint.open import open_checkpoint
from ggufrun.checkpoint.quantized import as_float32
from ggufrun.checkpoint.tensor import Rows, Tensor
from ggufrun.convert import arch, metadata
from ggufrun.convert.adapterexperts import MERGE, ExpertChanges, scaled_apart
from ggufrun.convert.arch.shared.family import Family, is_tied
from ggufrun.convert.arch.shared.layout import n_blocks, n_layers
from ggufrun.convert.config import Config, read_config
from ggufrun.convert.merging import some_of
from ggufrun.convert.plan import Plan
from ggufrun.convert.target import Model, make_target
from ggufrun.convert.transforms import take_columns
from ggufrun.errors import FormatError, UnsupportedError, UsageError
from ggufrun.quantize import ggml
from ggufrun.quantize.types import FILE_TYPES, FileType

TYPES = {"F32": ggml.F32, "F16": ggml.F16, "BF16": ggml.BF16}
NOWHERE = "to which llama.cpp adds nothing at run time"
EMBEDDING = "token_embd.weight"


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
    adapter = open_adapter(request)
    try:
        changes = _Changes(config, family, adapter)
        tensors = {tensor.name: tensor for tensor in changes.tensors()}
        if changes.left_out and not tensors:
            raise UnsupportedError(f"{adapter.path} changes only {changes.left_out[0]} and its like, {NOWHERE}", MERGE)
        logging.getLogger("gguf").setLevel(logging.ERROR)
        writer = gguf.GGUFWriter(None, family.gguf_arch)
        metadata.add_general(request.path, writer, tensors.values(), name, gguf.GGUFType.ADAPTER)
        writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, adapter.settings.alpha)
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        values = {key: file.encode(v.value, v.type, v.sub_type) for key, v in writer.kv_data[0].items()}
        kinds = [
            (key, ggml.F32 if len(tensor.shape) == 1 else TYPES[file_type.name]) for key, tensor in tensors.items()
        ]
        targets = (make_target(path, file_type, Model(values, tensors), kinds),)
        left_out = tuple(changes.left_out)
        notes = (f"left out are changes to {some_of(left_out)}, {NOWHERE}",) if left_out else ()
        return Plan(adapter.source, targets, left_out=left_out, notes=notes)
    except BaseException:
        adapter.source.close()
        raise


def _config(base: Path) -> Config:
    if (base / "config.json").is_file() or not (base / "params.json").is_file():
        return read_config(base)
    source = open_checkpoint(base)
    try:
        return read_config(base, source.overrides)
    finally:
        source.close()


class _Changes:
    """What an adapter does to a model of a family, as tensors of a GGUF adapter. ``left_out`` grows as it is read."""

    def __init__(self, config: Config, family: Family, adapter: Adapter) -> None:
        self.left_out: list[str] = []
        self._origins: dict[str, str] = {}
        self._config, self._family, self._adapter = config, family, adapter
        self._names = gguf.get_tensor_name_map(family.arch, n_blocks(config))
        self._expected = family.expected(config)
        self._experts = ExpertChanges(config, adapter, self._expected)

    def tensors(self) -> Iterator[Tensor]:
        """All of them; UnsupportedError for a change that llama.cpp cannot make at run time."""
        adapter, settings = self._adapter, self._adapter.settings
        if settings.fan_in_fan_out or settings.dora:
            kind = "DoRA adapter" if settings.dora else "adapter of transposed layers"
            raise UnsupportedError(f"{adapter.path} is a {kind}, which llama.cpp cannot add", MERGE)
        for module in adapter.tokens:
            raise UnsupportedError(
                f"{adapter.path} replaces rows of {module}, which llama.cpp cannot do at run time", MERGE
            )
        yield from self._whole()
        for module, deltas in adapter.deltas.items():
            if self._family.kept_name(self._config, f"{module}.weight") is None:
                if module == "lm_head":
                    raise self._no_such("lm_head.weight")
                self.left_out.append(module)
                continue
            if self._experts.add(module, deltas):
                continue
            yield from self._placed(module, [pair for delta in deltas for pair in self._pair(delta)])
        for module, pairs in self._experts.pairs():
            yield from self._placed(module, pairs)

    def _whole(self) -> Iterator[Tensor]:
        adapter, config = self._adapter, self._config
        for name, tensor in adapter.whole.items():
            if name in adapter.frozen and name.endswith(".weight") and tensor.shape[0] == config.integer("vocab_size"):
                # the base's own embedding
                continue
            if "_layernorm" not in name and ".norm" not in name:
                raise UnsupportedError(f"{adapter.path} replaces {name}, which llama.cpp cannot do at run time", MERGE)
            places = [replace(found, name=self._gguf_name(found)) for found in self._transformed(tensor, name)]
            yield from self._placed(name, places)

    def _placed(self, module: str, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
        """``tensors``, the changes of ``module``, where llama.cpp adds them; FormatError for a second change of one."""
        if not self._has_place(tensors):
            self.left_out.append(module)
            return ()
        for tensor in tensors:
            other = self._origins.setdefault(tensor.name, module)
            if other != module:
                weight = tensor.name.removesuffix(".lora_a").removesuffix(".lora_b")
                raise changed_twice(self._adapter.path, weight, other, module)
        return tensors

    def _transformed(self, tensor: Tensor, name: str) -> Iterable[Tensor]:
        """What the tensor of the base called ``name`` becomes; nothing of one that the GGUF does not have."""
        kept = self._family.kept(self._config, replace(tensor, name=name))
        return self._family.transform(self._config, kept) if kept else ()

    def _gguf_name(self, tensor: Tensor) -> str:
        name = tensor.name if tensor.name in self._expected else self._names.get_name(tensor.name, (".weight", ".bias"))
        if name is None or name not in self._expected or (name == "output.weight" and is_tied(self._config)):
            raise self._no_such(tensor.name)
        return name

    def _has_place(self, tensors: Sequence[Tensor]) -> bool:
        """Whether llama.cpp would add them: it has no other parts than the text's, and adds nothing to layers after
        the last, whose guesses the model itself checks."""
        numbers = (int(tensor.name.split(".")[1]) for tensor in tensors if tensor.name.startswith("blk."))
        return bool(tensors) and all(number < n_layers(self._config) for number in numbers)

    def _no_such(self, name: str) -> FormatError:
        return FormatError(f"the base has no {name}, which {self._adapter.path} changes", "name the base it is for")

    def _pair(self, delta: Delta) -> Iterator[Tensor]:
        adapter, config = self._adapter, self._config
        if delta.b_bias is not None:
            raise UnsupportedError(
                f"{adapter.path} changes the bias of {delta.module}, which llama.cpp cannot add", MERGE
            )
        scale, a, rank = plain_scale(adapter, delta), delta.a, delta.a.shape[0]
        weight = f"{delta.module}.weight"
        if (columns := self._family.columns(config, weight)) is not None:
            a = take_columns(a, columns)
        scaled = times(delta.b, scale * rank / adapter.settings.alpha)
        for changed in self._transformed(scaled, weight):
            name = self._gguf_name(changed)
            if is_ignored(self._family.gguf_arch, name):
                raise UnsupportedError(
                    f"{adapter.path} changes {delta.module}, and llama.cpp ignores adapters of {name} at run time",
                    MERGE,
                )
            if name.removesuffix(".weight") + ".scale" in self._expected:
                raise scaled_apart(adapter.path, delta.module)
            if len(changed.shape) != 2 or changed.shape[1] != rank:
                raise UnsupportedError(f"{name} is stored in another shape than {delta.module} has", MERGE)
            if name == EMBEDDING and is_tied(config):
                raise UnsupportedError(
                    f"{adapter.path} changes the embedding of a model whose output is the same matrix, which "
                    "llama.cpp cannot do at run time",
                    MERGE,
                )
            yield replace(_transposed(a) if name == EMBEDDING else a, name=f"{name}.lora_a")
            yield replace(changed, name=f"{name}.lora_b")


def times(tensor: Tensor, factor: float) -> Tensor:
    """A tensor times a factor; the tensor itself for one."""
    if abs(factor - 1) < 1e-12:
        return tensor

    def rows(start: int, stop: int) -> Rows:
        values: Rows = as_float32(tensor.dtype, tensor.rows(start, stop)) * np.float32(factor)
        return values

    return Tensor(tensor.name, "F32", tensor.shape, rows, tensor.precision or tensor.dtype)


def _transposed(tensor: Tensor) -> Tensor:
    """llama.cpp looks rows of the embedding up, so its ``a`` has one row a token; few columns, read whole."""

    def rows(start: int, stop: int) -> Rows:
        return np.ascontiguousarray(tensor.rows(0, tensor.shape[0])[:, start:stop].T)

    return replace(tensor, shape=(tensor.shape[1], tensor.shape[0]), rows=rows)
