"""Merging LoRA adapters into a checkpoint while it is read.

A merged checkpoint is a Source like any other: each tensor that an adapter touches becomes a record whose rows are
computed in float32 when they are asked for, W + scale * B A row by row, so that nothing but the adapter's small
matrices stays in memory. Adapters are applied in the order given, each to the result of the one before.

Formulas: LoRA (arXiv 2106.09685), rsLoRA (2312.03732), DoRA (2402.09353), as peft's ``merge_and_unload`` computes them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from ggufrun.checkpoint.adapters import parameters
from ggufrun.checkpoint.adapters.adapter import (
    FLOATS,
    Adapter,
    AdapterRequest,
    Delta,
    TokenRows,
    changed_twice,
    open_adapter,
)
from ggufrun.checkpoint.adapters.config import ends_with_any
from ggufrun.checkpoint.adapters.matrices import Matrices, as_floats, read_floats
from ggufrun.checkpoint.adapters.model_names import BaseNames, canonical
from ggufrun.checkpoint.adapters.tying import (
    EMBEDDINGS,
    HEAD,
    HEADS,
    Edit,
    find_name,
    separate_head,
    text_values,
    with_text_values,
)
from ggufrun.checkpoint.jsonfile import read_object
from ggufrun.checkpoint.quantized import Floats
from ggufrun.checkpoint.tensor import Checkpoint, Rows, Tensor
from ggufrun.errors import FormatError, NotFoundError, UnsupportedError

NORM_CHUNK = 1 << 20
"""Values read at once to measure columns."""

IsText = Callable[[str], bool]
"""Whether a tensor of this name belongs to the text part of its model."""


class MergedSource:
    """A checkpoint with adapters merged into it.

    ``left_out`` names what the adapters change besides the text part, ``changed`` the tensors of the base that they
    change, ``untied_by`` the adapter that made the output another matrix than the embedding.
    """

    def __init__(self, base: Checkpoint, adapters: Sequence[Adapter], is_text: IsText) -> None:
        self.path, self.tokenizer = base.path, base.tokenizer
        self.files = (
            *base.files,
            *(path for adapter in adapters for path in (*adapter.source.files, adapter.path / "adapter_config.json")),
        )
        self._sources = [base, *(adapter.source for adapter in adapters)]
        config = _config(base)
        merge = _Merge(base.tensors, text_values(config), is_text)
        grown: Path | None = None
        for adapter in adapters:
            grown = adapter.path if merge.apply(adapter) else grown
            if adapter.has_tokenizer:
                self.tokenizer, grown = adapter.path, None
        if grown is not None:
            raise NotFoundError(
                f"{grown} enlarges the vocabulary, but brings no tokenizer",
                "copy the tokenizer files that it was trained with there",
            )
        self.tensors: Mapping[str, Tensor] = merge.tensors
        self.left_out, self.changed = tuple(merge.left_out), tuple(merge.changed)
        self.untied_by = merge.untied_by
        size = _vocabulary(base.tensors, merge.tensors)
        change: dict[str, Any] = {} if size is None else {"vocab_size": size}
        if size is not None and "padded_vocab_size" in config:
            change["padded_vocab_size"] = size
        if merge.untied_by is not None:
            change["tie_word_embeddings"] = False
        self.overrides: Mapping[str, Any] = {**base.overrides, **with_text_values(config, change)} if change else {}
        self.overrides = self.overrides or base.overrides
        self.least_tokens, self.notes = base.least_tokens, base.notes
        if size is not None:
            self.least_tokens = 1 + max(base.tensors[name].shape[0] for name in _vocabulary_names(base.tensors))
        # rows are computed in the caller's threads: BLAS threads below each of them would only wait for one another,
        # and do so busily (six times the processor time, measured on two cores)
        self._one_thread = threadpool_limits(limits=1, user_api="blas")

    def close(self) -> None:
        """Close the files of the base and of the adapters."""
        self._one_thread.restore_original_limits()
        for source in self._sources:
            source.close()


def merged(base: Checkpoint, requests: Sequence[AdapterRequest], is_text: IsText = lambda name: True) -> Checkpoint:
    """``base`` with the adapters merged into it in their order; ``base`` itself if there are none.

    What they change of parts for which ``is_text`` is false is left out, and told in ``left_out``.
    """
    if not requests:
        return base
    adapters: list[Adapter] = []
    try:
        for request in requests:
            adapters.append(open_adapter(request))
        return MergedSource(base, adapters, is_text)
    except BaseException:
        for adapter in adapters:
            adapter.source.close()
        raise


def _config(base: Checkpoint) -> Mapping[str, Any]:
    path = base.path / "config.json"
    if "architectures" in base.overrides or not path.is_file():
        return base.overrides
    return {**read_object(path), **base.overrides}


class _Merge:
    """The tensors of a base, changed by one adapter after the other."""

    def __init__(self, base: Mapping[str, Tensor], config: Mapping[str, Any], is_text: IsText) -> None:
        self.tensors = dict(base)
        self.left_out: list[str] = []
        self.changed: dict[str, None] = {}
        self.untied_by: Path | None = None
        self._is_text, self._cache = is_text, Matrices()
        self._model_type = str(config.get("model_type"))
        self._has_embedding = find_name(base, EMBEDDINGS) is not None
        self._tied = find_name(base, HEADS) is None or config.get("tie_word_embeddings") is True

    def apply(self, adapter: Adapter) -> bool:
        """Change the tensors as one adapter says; whether it enlarged the vocabulary."""
        names = BaseNames(self.tensors)
        edits, found = self._edits(adapter, names)
        self._tie_or_untie(adapter, edits)
        grown = False
        for name, edit in edits.items():
            grown |= self._edit(adapter, name, edit)
        for parameter in found:
            for name, tensor in parameters.changed(adapter, parameter, self._model_type, self._cache):
                self.tensors[name] = tensor
                self.changed[name] = None
        return grown

    def _edits(self, adapter: Adapter, names: BaseNames) -> tuple[dict[str, Edit], list[parameters.Parameter]]:
        edits: dict[str, Edit] = {}
        found: list[parameters.Parameter] = []
        lost: list[str] = []
        spelled: dict[str, str] = {}

        def claim(known: str, name: str) -> None:
            """The tensor ``known`` is what the adapter calls ``name``, and nothing else of the adapter is."""
            other = spelled.setdefault(known, name)
            if other != name:
                raise changed_twice(adapter.path, known, other, name)

        def edit(name: str) -> Edit | None:
            """That of the tensor ``name``; None where nothing comes of it."""
            known = names.find(name)
            if not self._is_text(known or name):
                module = name.rpartition(".")[0]
                if module not in self.left_out:
                    self.left_out.append(module)
                return None
            if known is None and canonical(name) in HEADS and self._tied and self._has_embedding:
                known = HEAD
            if known is None:
                lost.append(name)
                return None
            claim(known, name)
            return edits.setdefault(known, Edit())

        for name, tensor in adapter.whole.items():
            if change := edit(name):
                change.whole, change.original = tensor, adapter.originals.get(name)
                module = name.rpartition(".")[0]
                change.trained = name not in adapter.frozen and adapter.settings.saves(module)
        for module, rows in adapter.tokens.items():
            if change := edit(f"{module}.weight"):
                change.tokens = rows
        for module, deltas in adapter.deltas.items():
            if self._is_plain(names, module, deltas):
                (delta,) = deltas
                if change := edit(f"{module}.weight"):
                    change.delta, change.scale = delta, plain_scale(adapter, delta)
                    if delta.b_bias is not None and (bias := edit(f"{module}.bias")):
                        bias.addend, bias.scale = delta.b_bias, change.scale
            else:
                for parameter in parameters.find_parameters(adapter, names, self.tensors, module, self._model_type):
                    for known in parameter.place.names:
                        claim(known, parameter.name)
                    found.append(parameter)
        if lost:
            raise FormatError(
                f"the base has no {lost[0]}, which {adapter.path} changes ({len(lost)} such)",
                "name the base that it was trained on",
            )
        return edits, found

    def _is_plain(self, names: BaseNames, module: str, deltas: Sequence[Delta]) -> bool:
        """Whether this is the change of an ordinary layer, not of parameters of a module, such as experts."""
        known = names.find(f"{module}.weight")
        if len(deltas) > 1 or deltas[0].depth:
            return False
        if known is not None:
            return len(self.tensors[known].shape) != 3 or not self._is_text(known)
        return not any(names.find(f"{module}.{name}") or names.experts(module, name) for name in parameters.NAMES)

    def _tie_or_untie(self, adapter: Adapter, edits: dict[str, Edit]) -> None:
        embedding = find_name(self.tensors, EMBEDDINGS)
        if not self._tied or embedding is None:
            return
        stored = find_name(self.tensors, HEADS)
        head = edits.pop(stored or HEAD, None)
        if head is not None and head.untouched is not None:
            # what the output was is what both were
            both = edits.setdefault(embedding, Edit())
            both.whole = both.whole or head.untouched
        change = edits.get(embedding)
        if head is None and change is None:
            return
        start = separate_head(self.tensors[embedding], change or Edit(), head or Edit())
        if start is None:
            if stored is not None:
                # whole as well, for those who read it
                edits[stored] = replace(change) if change else Edit()
                self.tensors[stored] = replace(self.tensors[embedding], name=stored)
            return
        self._tied, self.untied_by = False, adapter.path
        name = stored or HEAD
        self.tensors[name] = replace(start, name=name)
        if head is not None:
            edits[name] = head

    def _edit(self, adapter: Adapter, name: str, edit: Edit) -> bool:
        old = self.tensors[name]
        new = old
        grown = False
        if edit.whole is not None:
            if edit.whole.shape != old.shape:
                _check_growth(adapter.path, name, old, edit.whole)
                grown = True
            new = _in_place_of(old, edit.whole)
        if edit.tokens is not None:
            new = _with_rows(adapter.path, new, edit.tokens)
        if edit.delta is not None:
            new = _changed(adapter.path, new, edit.delta, edit.scale, self._cache)
        if edit.addend is not None:
            new = _added(adapter.path, new, edit.addend, edit.scale)
        self.tensors[name] = new
        self.changed[name] = None
        return grown


def plain_scale(adapter: Adapter, delta: Delta) -> float:
    """The factor on the change of an ordinary layer, which may have been named as a module or as its parameter."""
    if len(delta.a.shape) != 2 or len(delta.b.shape) != 2:
        raise UnsupportedError(
            f"{delta.module} is a convolution, or has experts in a layout that is not peft's", "merge it with peft"
        )
    if delta.a.shape[0] != delta.b.shape[1]:
        raise FormatError(
            f"{delta.module} has ranks {delta.a.shape[0]} and {delta.b.shape[1]} in {adapter.path}", "download it again"
        )
    weight = f"{delta.module}.weight"
    name = weight if ends_with_any(weight, adapter.settings.parameters) else delta.module
    return adapter.scale(name, delta.a.shape[0])


def _check_growth(folder: Path, name: str, old: Tensor, new: Tensor) -> None:
    fits = (
        canonical(name) in EMBEDDINGS | HEADS and len(new.shape) == len(old.shape) == 2 and new.shape[1] == old.shape[1]
    )
    if not fits:
        raise FormatError(f"{name} is {new.shape} in {folder}, {old.shape} in the base", "they do not belong together")
    if new.shape[0] < old.shape[0]:
        raise FormatError(
            f"{folder} has a vocabulary of {new.shape[0]}, what it is merged into {old.shape[0]}",
            "give the adapters in the order in which they were trained",
        )


def _vocabulary_names(tensors: Mapping[str, Tensor]) -> list[str]:
    """The embedding and the output, where there is one."""
    return [name for kinds in (EMBEDDINGS, HEADS) if (name := find_name(tensors, kinds)) is not None]


def _vocabulary(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> int | None:
    """The size of the vocabulary, if it has changed."""
    sizes = {name: after[name].shape[0] for name in _vocabulary_names(after)}
    if all(before[name].shape[0] == size for name, size in sizes.items() if name in before):
        return None
    if len(set(sizes.values())) > 1:
        (one, first), (other, second) = sorted(sizes.items(), key=lambda item: item[1])[:: len(sizes) - 1]
        raise FormatError(f"{one} has {first} rows, {other} {second}", "the adapter enlarges only one of them")
    return next(iter(sizes.values()))


def _in_place_of(old: Tensor, whole: Tensor) -> Tensor:
    """A whole tensor of an adapter under the base's name; trained in float32, it is still of the base's precision."""
    precision = old.precision or old.dtype
    return replace(whole, name=old.name, precision=precision if whole.dtype == "F32" and precision in FLOATS else "")


def _with_rows(folder: Path, base: Tensor, tokens: TokenRows) -> Tensor:
    """``base`` with other rows for some tokens."""
    base = as_floats(base)
    if len(base.shape) != 2 or tokens.rows.shape[1] != base.shape[1]:
        raise FormatError(
            f"rows of {tokens.module} are {tokens.rows.shape[1]} wide in {folder}, {base.name} is {base.shape}",
            "it is another model's",
        )
    if max(tokens.tokens) >= base.shape[0]:
        raise FormatError(
            f"{folder} has a row for token {max(tokens.tokens)}, the base {base.shape[0]} tokens",
            "name the base that it was trained on, with its vocabulary",
        )
    # the last one counts where a token is there twice
    places = {token: place for place, token in enumerate(tokens.tokens)}

    def rows(start: int, stop: int) -> Rows:
        result: Floats = read_floats(base, start, stop).copy()
        for token, place in places.items():
            if start <= token < stop:
                result[token - start] = read_floats(tokens.rows, place, place + 1)[0]
        return result

    return Tensor(base.name, "F32", base.shape, rows, base.precision or base.dtype)


def _changed(folder: Path, base: Tensor, delta: Delta, scale: float, cache: Matrices) -> Tensor:
    """``base`` with a low-rank change, and with DoRA's lengths where it has them."""
    a, b, base = delta.a, delta.b, as_floats(base)
    shape = (a.shape[1], b.shape[0]) if delta.transposed else (b.shape[0], a.shape[1])
    if base.shape != shape:
        raise FormatError(f"{delta.module} is {shape} in {folder}, {base.shape} in the base", "it is another model's")

    def rows(start: int, stop: int) -> Floats:
        if delta.transposed:
            left, right = cache.read(a)[:, start:stop].T, cache.read(b).T
        else:
            left, right = read_floats(b, start, stop), cache.read(a)
        result: Floats = (left * np.float32(scale)) @ right
        result += read_floats(base, start, stop)
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
    return read_floats(tensor, 0, tensor.n_rows).reshape(-1)


def _added(folder: Path, base: Tensor, bias: Tensor, scale: float) -> Tensor:
    if base.shape != bias.shape or base.dtype not in FLOATS:
        raise FormatError(f"{base.name} is {base.shape}, {bias.shape} in {folder}", "it is another model's")

    def rows(start: int, stop: int) -> Rows:
        total: Rows = read_floats(base, start, stop) + np.float32(scale) * read_floats(bias, start, stop)
        return total

    return Tensor(base.name, "F32", base.shape, rows, base.precision or base.dtype)
