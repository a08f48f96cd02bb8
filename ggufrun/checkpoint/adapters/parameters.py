"""Changes of parameters (``target_parameters``), as peft stores them of a mixture's experts.

peft wraps a parameter of shape (experts, rows, columns) as a whole: the ``a`` of all experts lie over one another,
(experts * r, columns), and of ``b``, (rows, r * experts), column ``k * experts + e`` is column k of expert e. Several
parameters of one module are wrapped one around the other, the first that the module has innermost, and the names of the
tensors tell nothing but the depth. Experts are changed one by one: no more than one's change is ever in memory.

Source: peft's ``ParamWrapper``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from ggufrun.checkpoint.adapters.adapter import Adapter, Delta
from ggufrun.checkpoint.adapters.config import ends_with_any
from ggufrun.checkpoint.adapters.matrices import Matrices, as_floats, read_floats
from ggufrun.checkpoint.adapters.model_names import HALVES, BaseNames
from ggufrun.checkpoint.quantized import Floats
from ggufrun.checkpoint.quantized.blocks import MXFP4
from ggufrun.checkpoint.tensor import Rows, Tensor
from ggufrun.errors import FormatError, UnsupportedError

NAMES = (*HALVES, "weight")
"""Parameters in the order in which modules have them."""

SWAPPED_FROM, WRONG_IN = (0, 19, 1), (0, 19, 0)
"""Releases of peft. From the first on, ``a`` belongs to a parameter's columns, except in models that keep it (in, out);
before, to its rows, whatever the model; the release between had it the wrong way round."""

TRANSPOSED_MODELS = ("gpt_oss",)
"""``model_type`` of those whose experts peft knows to be (in, out) in the running model."""


@dataclass(frozen=True)
class Place:
    """Where a parameter of ``shape`` (experts, rows, columns) lies in the files: in ``whole``, or ``apart``, for each
    expert in the tensors that lie over one another."""

    shape: tuple[int, int, int]
    whole: Tensor | None = None
    apart: tuple[tuple[Tensor, ...], ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The tensors that it lies in."""
        whole = () if self.whole is None else (self.whole.name,)
        return (*whole, *(tensor.name for halves in self.apart for tensor in halves))


@dataclass(frozen=True)
class Parameter:
    """A parameter, by its name in the running model, and its change."""

    name: str
    delta: Delta
    place: Place


def find_parameters(
    adapter: Adapter, names: BaseNames, tensors: Mapping[str, Tensor], module: str, model_type: str
) -> list[Parameter]:
    """The parameters that the changes of ``module`` belong to; FormatError where that cannot be told."""
    deltas = sorted(adapter.deltas[module], key=lambda delta: -delta.depth)
    places = {name: _place(names, tensors, module, name, model_type) for name in NAMES}
    present = {name: place for name, place in places.items() if place is not None}
    targets = adapter.settings.parameters
    chosen = [name for name in present if ends_with_any(f"{module}.{name}", targets)] or list(present)
    if not chosen:
        raise FormatError(f"the base has no {module}, which {adapter.path} changes", "name the base it was trained on")
    if len(chosen) != len(deltas) or [delta.depth for delta in deltas] != list(range(len(deltas)))[::-1]:
        raise FormatError(
            f"{adapter.path} changes {len(deltas)} parameters of {module}, where its settings and the base have "
            f"{' and '.join(chosen)}",
            "name the base it was trained on",
        )
    return [Parameter(f"{module}.{name}", delta, present[name]) for name, delta in zip(chosen, deltas, strict=True)]


def _place(
    names: BaseNames, tensors: Mapping[str, Tensor], module: str, parameter: str, model_type: str
) -> Place | None:
    found = names.find(f"{module}.{parameter}")
    if found is not None:
        tensor = tensors[found]
        if tensor.dtype == MXFP4 and model_type in TRANSPOSED_MODELS and len(tensor.shape) == 3:
            # published as (out, in), unlike the floats of the running model
            tensor = _turned(as_floats(tensor))
        shape = tensor.shape
        return Place((shape[0], shape[1], shape[2]), whole=tensor) if len(shape) == 3 else None
    apart = tuple(tuple(tensors[name] for name in halves) for halves in names.experts(module, parameter))
    if not apart:
        return None
    first = apart[0]
    for halves in apart:
        for tensor, one in zip(halves, first, strict=True):
            if len(tensor.shape) != 2 or tensor.shape != one.shape or one.shape[1] != first[0].shape[1]:
                raise FormatError(
                    f"{tensor.name} is {tensor.shape}, {first[0].name} {first[0].shape}", "download them again"
                )
    return Place((len(apart), sum(tensor.shape[0] for tensor in first), first[0].shape[1]), apart=apart)


class Factors:
    """``a`` and ``b`` of a parameter's change, expert by expert, as what makes up its rows and columns.

    Raises FormatError where the matrices do not fit a parameter of ``shape``. ``transposed`` says that peft knows the
    running model to keep the parameter (in, out), ``swapped`` that ``shape`` has rows and columns the other way round
    than the running model.
    """

    def __init__(
        self,
        adapter: Adapter,
        parameter: str,
        delta: Delta,
        shape: tuple[int, int, int],
        transposed: bool,
        swapped: bool = False,
    ) -> None:
        self.experts, rows, columns = shape
        a, b = delta.a, delta.b
        if len(a.shape) != 2 or len(b.shape) != 2:
            raise UnsupportedError(f"the change of {parameter} is not two matrices", "merge it with peft")
        if a.shape[0] != b.shape[1] or not self.experts or a.shape[0] % self.experts:
            raise FormatError(
                f"{parameter} has {self.experts} experts, its change in {adapter.path} matrices of {a.shape[0]} rows "
                f"and {b.shape[1]} columns",
                "it is another model's",
            )
        self.rank = a.shape[0] // self.experts
        straight = (b.shape[0], a.shape[1]) == (rows, columns)
        turned = (a.shape[1], b.shape[0]) == (rows, columns)
        if not straight and not turned:
            raise FormatError(
                f"{parameter} is {(b.shape[0], a.shape[1])} in {adapter.path}, {(rows, columns)} in the base",
                "it is another model's",
            )
        if straight and turned:
            # as many rows as columns: who wrote it tells
            version = adapter.settings.version
            straight = transposed if version == WRONG_IN else version >= SWAPPED_FROM and not transposed
            straight = straight != swapped
        self._straight, self._a, self._b = straight, a, b

    def rows(self, cache: Matrices, expert: int, start: int, stop: int) -> Floats:
        """Rows ``start`` to ``stop`` of the left matrix of one expert, (stop - start, r)."""
        if self._straight:
            chosen: Floats = cache.expert(self._b, self.experts, expert)[start:stop]
        else:
            chosen = self._first(expert)[:, start:stop].T
        return chosen

    def columns(self, cache: Matrices, expert: int) -> Floats:
        """The right matrix of one expert, (r, columns)."""
        return self._first(expert) if self._straight else cache.expert(self._b, self.experts, expert).T

    def _first(self, expert: int) -> Floats:
        return read_floats(self._a, expert * self.rank, (expert + 1) * self.rank)


def changed(adapter: Adapter, parameter: Parameter, model_type: str, cache: Matrices) -> Iterator[tuple[str, Tensor]]:
    """The tensors of the base that a parameter lies in, by name, with its change."""
    place, delta = parameter.place, parameter.delta
    if delta.b_bias is not None or delta.magnitude is not None:
        raise UnsupportedError(f"{adapter.path} changes {parameter.name} by more than a product", "merge it with peft")
    factors = Factors(adapter, parameter.name, delta, place.shape, model_type in TRANSPOSED_MODELS)
    scale = np.float32(adapter.scale(parameter.name, factors.rank))
    if place.whole is not None:
        yield place.whole.name, _whole(place.whole, factors, scale, cache)
    for expert, halves in enumerate(place.apart):
        first = 0
        for tensor in halves:
            yield tensor.name, _apart(tensor, factors, scale, cache, expert, first)
            first += tensor.shape[0]


def _whole(base: Tensor, factors: Factors, scale: np.float32, cache: Matrices) -> Tensor:
    base = as_floats(base)
    height = base.shape[1]

    def rows(start: int, stop: int) -> Rows:
        result: Floats = read_floats(base, start, stop).copy()
        for expert in range(start // height, -(-stop // height)):
            first, last = max(start, expert * height), min(stop, (expert + 1) * height)
            left = factors.rows(cache, expert, first - expert * height, last - expert * height)
            result[first - start : last - start] += (left * scale) @ factors.columns(cache, expert)
        return result

    return Tensor(base.name, "F32", base.shape, rows, base.precision or base.dtype)


def _apart(base: Tensor, factors: Factors, scale: np.float32, cache: Matrices, expert: int, first: int) -> Tensor:
    base = as_floats(base)

    def rows(start: int, stop: int) -> Rows:
        left = factors.rows(cache, expert, first + start, first + stop)
        result: Floats = (left * scale) @ factors.columns(cache, expert)
        result += read_floats(base, start, stop)
        return result

    return Tensor(base.name, "F32", base.shape, rows, base.precision or base.dtype)


def _turned(tensor: Tensor) -> Tensor:
    """Matrices (experts, rows, columns) as (experts, columns, rows); one is read whole for any row of it."""
    experts, height, width = tensor.shape

    def rows(start: int, stop: int) -> Rows:
        parts = [np.empty((0, height), np.float32)]
        for expert in range(start // width, -(-stop // width)):
            matrix = read_floats(tensor, expert * height, (expert + 1) * height)
            parts.append(matrix.T[max(start - expert * width, 0) : min(stop - expert * width, width)])
        return np.concatenate(parts)

    return Tensor(tensor.name, "F32", (experts, width, height), rows, tensor.precision or tensor.dtype)
