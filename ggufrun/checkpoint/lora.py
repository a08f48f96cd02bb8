"""Merging LoRA adapters into a checkpoint while it is read.

A merged checkpoint is a Source like any other: each tensor that an adapter touches becomes a record whose rows are
computed in float32 when they are asked for, W + scale * B A row by row, so that nothing but the adapter's small
matrices stays in memory. Adapters are applied in the order given, each to the result of the one before.

Formulas: LoRA (arXiv 2106.09685), rsLoRA (2312.03732), DoRA (2402.09353), as peft's ``merge_and_unload`` computes them.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from ggufrun.checkpoint.adapter import FLOATS, Adapter, AdapterRequest, Delta, check_names, open_adapter
from ggufrun.checkpoint.quantized import Floats, as_float32
from ggufrun.checkpoint.tensor import Checkpoint, Rows, Tensor
from ggufrun.errors import FormatError, NotFoundError, UnsupportedError

VOCABULARY_ROWS = (
    "model.embed_tokens.weight",
    "lm_head.weight",
    "model.tok_embeddings.weight",
    "output.weight",
    "transformer.wte.weight",
    "transformer.embedding.word_embeddings.weight",
    "transformer.output_layer.weight",
    "transformer.word_embeddings.weight",
    "gpt_neox.embed_in.weight",
    "embed_out.weight",
)
"""Tensors with one row a token, which an adapter for a larger vocabulary brings whole."""

KEPT = 6
"""Small matrices held as float32: the workers are inside two or three tensors at any time."""
NORM_CHUNK = 1 << 20
"""Values read at once to measure columns."""


class MergedSource:
    """A checkpoint with adapters merged into it."""

    def __init__(self, base: Checkpoint, adapters: Sequence[Adapter]) -> None:
        self.path, self.tokenizer = base.path, base.tokenizer
        self.files = (
            *base.files,
            *(path for adapter in adapters for path in (*adapter.source.files, adapter.path / "adapter_config.json")),
        )
        self._sources = [base, *(adapter.source for adapter in adapters)]
        tensors = dict(base.tensors)
        grown: Path | None = None
        cache = _Matrices()
        for adapter in adapters:
            grown = _apply(adapter, tensors, cache) or grown
            if adapter.has_tokenizer:
                self.tokenizer, grown = adapter.path, None
        if grown is not None:
            raise NotFoundError(
                f"{grown} enlarges the vocabulary, but brings no tokenizer",
                "copy the tokenizer.model that it was trained with there",
            )
        self.tensors: Mapping[str, Tensor] = tensors
        change = _vocabulary(base.tensors, tensors)
        self.overrides: Mapping[str, Any] = {**base.overrides, **change}
        self.least_tokens, self.notes = base.least_tokens, base.notes
        if change:
            self.least_tokens = 1 + max(base.tensors[name].shape[0] for name in VOCABULARY_ROWS if name in base.tensors)
        # rows are computed in the caller's threads: BLAS threads below each of them would only wait for one another,
        # and do so busily (six times the processor time, measured on two cores)
        self._one_thread = threadpool_limits(limits=1, user_api="blas")

    def close(self) -> None:
        """Close the files of the base and of the adapters."""
        self._one_thread.restore_original_limits()
        for source in self._sources:
            source.close()


def merged(base: Checkpoint, requests: Sequence[AdapterRequest]) -> Checkpoint:
    """``base`` with the adapters merged into it in their order; ``base`` itself if there are none."""
    if not requests:
        return base
    adapters: list[Adapter] = []
    try:
        for request in requests:
            adapters.append(open_adapter(request)[0])
        return MergedSource(base, adapters)
    except BaseException:
        for adapter in adapters:
            adapter.source.close()
        raise


class _Matrices:
    """The adapter matrices in use as float32, read once for all rows of a tensor."""

    def __init__(self) -> None:
        self._kept: OrderedDict[int, tuple[Tensor, Floats]] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, tensor: Tensor) -> Floats:
        """The whole of a small tensor."""
        with self._lock:
            found = self._kept.get(id(tensor))
            if found is None:
                # the tensor is kept too: an id is only unique while its object lives
                found = (tensor, _floats(tensor, 0, tensor.n_rows))
                self._kept[id(tensor)] = found
                if len(self._kept) > KEPT:
                    self._kept.popitem(last=False)
            self._kept.move_to_end(id(tensor))
            return found[1]


def _floats(tensor: Tensor, start: int, stop: int) -> Floats:
    return as_float32(tensor.dtype, tensor.rows(start, stop))


def _apply(adapter: Adapter, tensors: dict[str, Tensor], cache: _Matrices) -> Path | None:
    """Change ``tensors`` as one adapter says; returns its folder if it enlarged the vocabulary."""
    grown = None
    check_names(adapter.path, [*adapter.whole, *(f"{module}.weight" for module in adapter.deltas)], tensors)
    for name, whole in adapter.whole.items():
        old = tensors[name]
        if whole.shape != old.shape:
            _check_growth(adapter.path, name, old, whole)
            grown = adapter.path
        tensors[name] = replace(whole, name=name)
    for module, delta in adapter.deltas.items():
        name, bias = f"{module}.weight", f"{module}.bias"
        tensors[name] = _changed(adapter.path, tensors[name], delta, cache)
        if delta.b_bias is not None:
            check_names(adapter.path, [bias], tensors)
            tensors[bias] = _added(adapter.path, tensors[bias], delta.b_bias, delta.scale)
    return grown


def _check_growth(folder: Path, name: str, old: Tensor, new: Tensor) -> None:
    fits = name in VOCABULARY_ROWS and len(new.shape) == len(old.shape) == 2 and new.shape[1] == old.shape[1]
    if not fits:
        raise FormatError(f"{name} is {new.shape} in {folder}, {old.shape} in the base", "they do not belong together")
    if new.shape[0] < old.shape[0]:
        raise FormatError(
            f"{folder} has a vocabulary of {new.shape[0]}, what it is merged into {old.shape[0]}",
            "give the adapters in the order in which they were trained",
        )


def _vocabulary(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> dict[str, int]:
    """The size of the vocabulary, if it has changed."""
    sizes = {name: after[name].shape[0] for name in VOCABULARY_ROWS if name in after}
    if all(before[name].shape[0] == size for name, size in sizes.items()):
        return {}
    if len(set(sizes.values())) > 1:
        (one, first), (other, second) = sorted(sizes.items(), key=lambda item: item[1])[:: len(sizes) - 1]
        raise FormatError(f"{one} has {first} rows, {other} {second}", "the adapter enlarges only one of them")
    return {"vocab_size": next(iter(sizes.values()))}


def _changed(folder: Path, base: Tensor, delta: Delta, cache: _Matrices) -> Tensor:
    """``base`` with a low-rank change, and with DoRA's lengths where it has them."""
    a, b = delta.a, delta.b
    assert a is not None and b is not None
    if base.dtype not in FLOATS:
        raise UnsupportedError(f"{base.name} holds {base.dtype} values", "merge into an unquantized checkpoint")
    shape = (a.shape[1], b.shape[0]) if delta.transposed else (b.shape[0], a.shape[1])
    if base.shape != shape:
        raise FormatError(f"{delta.module} is {shape} in {folder}, {base.shape} in the base", "it is another model's")

    def rows(start: int, stop: int) -> Floats:
        if delta.transposed:
            left, right = cache.read(a)[:, start:stop].T, cache.read(b).T
        else:
            left, right = _floats(b, start, stop), cache.read(a)
        result: Floats = (left * np.float32(delta.scale)) @ right
        result += _floats(base, start, stop)
        return result

    final: Callable[[int, int], Rows] = rows
    if delta.magnitude is not None:
        final = _with_lengths(folder, delta, delta.magnitude, shape, rows)
    return Tensor(base.name, "F32", base.shape, final, base.precision or base.dtype)


def _with_lengths(
    folder: Path, delta: Delta, magnitude: Tensor, shape: tuple[int, int], rows: Callable[[int, int], Floats]
) -> Callable[[int, int], Floats]:
    """Each output (a row, or a column if ``delta`` is transposed) stretched to the length that DoRA learnt."""
    n_outputs = shape[1] if delta.transposed else shape[0]
    if magnitude.n_values != n_outputs:
        raise FormatError(
            f"{delta.module} has {magnitude.n_values} lengths in {folder}, {n_outputs} outputs", "download it again"
        )
    lock = threading.Lock()
    kept: list[Floats] = []

    def factors() -> Floats:
        """Of all columns: the whole tensor is read for them, once."""
        with lock:
            if not kept:
                squares = np.zeros(shape[1], np.float64)
                step = max(1, NORM_CHUNK // shape[1])
                for start in range(0, shape[0], step):
                    part = rows(start, min(start + step, shape[0]))
                    squares += np.einsum("ij,ij->j", part, part, dtype=np.float64)
                kept.append((_vector(magnitude) / np.sqrt(squares)).astype(np.float32))
            return kept[0]

    def stretched(start: int, stop: int) -> Floats:
        values = rows(start, stop)
        if delta.transposed:
            values *= factors()
        else:
            lengths = np.linalg.norm(values, axis=1)
            values *= (_vector(magnitude)[start:stop] / lengths)[:, None]
        return values

    return stretched


def _vector(tensor: Tensor) -> Floats:
    return _floats(tensor, 0, tensor.n_rows).reshape(-1)


def _added(folder: Path, base: Tensor, bias: Tensor, scale: float) -> Tensor:
    if base.shape != bias.shape or base.dtype not in FLOATS:
        raise FormatError(f"{base.name} is {base.shape}, {bias.shape} in {folder}", "it is another model's")

    def rows(start: int, stop: int) -> Rows:
        total: Rows = _floats(base, start, stop) + np.float32(scale) * _floats(bias, start, stop)
        return total

    return Tensor(base.name, "F32", base.shape, rows, base.precision or base.dtype)
