"""How two models differ: metadata by key, tensors by shape, type and value.

Values of tensors are compared as floats, whatever types they are stored in: the relative error is the root of the
summed squares of the differences over that of the first model's values.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ggufrun.checkpoint.gguf.file import Value
from ggufrun.checkpoint.gguf.source import GGUFSource
from ggufrun.checkpoint.tensor import Rows, Tensor
from ggufrun.convert.pipeline import CHUNK, default_threads
from ggufrun.convert.plan import plan_convert, stored_bytes
from ggufrun.convert.target import Model
from ggufrun.quantize import ggml

SHORT = 60
"""Characters of a value that are shown."""


@dataclass(frozen=True)
class KeyDifference:
    """A key of the metadata; None on the side that does not have it."""

    key: str
    left: str | None
    right: str | None


@dataclass(frozen=True)
class TensorDifference:
    """A tensor that is not the same on both sides: its type and shape there, None where it is missing.

    ``error`` is the relative error of its values, NaN if some are not finite, None where shapes differ.
    """

    name: str
    left: tuple[str, tuple[int, ...]] | None
    right: tuple[str, tuple[int, ...]] | None
    error: float | None = None


@dataclass(frozen=True)
class Difference:
    """``same_keys`` and ``same_tensors`` are equal on both sides, tensors to the last bit."""

    keys: tuple[KeyDifference, ...]
    tensors: tuple[TensorDifference, ...]
    same_keys: int
    same_tensors: int

    @property
    def none(self) -> bool:
        """Do the two hold the same?"""
        return not self.keys and not self.tensors


@contextmanager
def opened(path: Path) -> Iterator[Model]:
    """The model in a GGUF, or the one that a checkpoint folder would become in its own precision."""
    if path.is_dir():
        plan = plan_convert(path, (), lambda kind: path / "unused.gguf")
        try:
            target = plan.targets[0]
            yield Model(target.header.metadata, {placed.name: placed.tensor for placed in target.tensors})
        finally:
            plan.close()
        return
    source = GGUFSource(path)
    try:
        metadata = {key: value for key, value in source.header.metadata.items() if not key.startswith("split.")}
        yield Model(metadata, source.tensors)
    finally:
        source.close()


def bytes_to_read(left: Model, right: Model) -> int:
    """Bytes of tensor data that ``compare`` reads, of both sides together."""
    shared = [name for name in left.tensors if _comparable(left, right, name)]
    return sum(stored_bytes(model.tensors[name]) for name in shared for model in (left, right))


def compare(
    left: Model,
    right: Model,
    threads: int | None = None,
    on_progress: Callable[[int], None] = lambda n_bytes: None,
) -> Difference:
    """Compare two open models. ``on_progress`` gets the bytes read since it was last called."""
    keys = _keys(left.metadata, right.metadata)
    tensors: list[TensorDifference] = []
    same = 0
    with ThreadPoolExecutor(threads or default_threads()) as pool:
        for name in [*left.tensors, *(name for name in right.tensors if name not in left.tensors)]:
            found = TensorDifference(name, _sort(left, name), _sort(right, name))
            if _comparable(left, right, name):
                error = _error(left.tensors[name], right.tensors[name], pool, on_progress)
                if error is None:
                    same += 1
                    continue
                found = TensorDifference(name, found.left, found.right, error)
            tensors.append(found)
    total = len({*left.metadata, *right.metadata})
    return Difference(tuple(keys), tuple(tensors), total - len(keys), same)


def _keys(left: Mapping[str, Value], right: Mapping[str, Value]) -> list[KeyDifference]:
    found = []
    for key in [*left, *(key for key in right if key not in left)]:
        one, two = left.get(key), right.get(key)
        if one is None or two is None or (one.kind, one.raw) != (two.kind, two.raw):
            shown = [None if value is None else _text(value) for value in (one, two)]
            if one and two and shown[0] == shown[1]:
                shown = [f"{shown[0]} ({value.kind.name.lower()})" for value in (one, two)]
            found.append(KeyDifference(key, *shown))
    return found


def _text(value: Value) -> str:
    if len(value) > 8:
        return f"{len(value)} values"
    text = str(value.decode()).replace("\n", "\\n")
    return text if len(text) <= SHORT else f"{text[: SHORT - 1]}… ({len(text)} characters)"


def _sort(model: Model, name: str) -> tuple[str, tuple[int, ...]] | None:
    tensor = model.tensors.get(name)
    return None if tensor is None else (tensor.precision or tensor.dtype, tensor.shape)


def _comparable(left: Model, right: Model, name: str) -> bool:
    one, two = left.tensors.get(name), right.tensors.get(name)
    return one is not None and two is not None and one.shape == two.shape


def _error(one: Tensor, two: Tensor, pool: ThreadPoolExecutor, on_progress: Callable[[int], None]) -> float | None:
    """The relative error, or None where the bytes are the same."""
    step = max(1, CHUNK // one.n_per_row)
    row_bytes = (stored_bytes(one) + stored_bytes(two)) // one.n_rows

    def rows_of(tensor: Tensor, start: int) -> Rows:
        return tensor.rows(start, min(start + step, tensor.n_rows))

    def change(start: int) -> tuple[float, float] | None:
        """Squared lengths of the difference and of the first side; None where the rows are the same."""
        rows = rows_of(one, start), rows_of(two, start)
        if one.dtype == two.dtype and np.array_equal(rows[0].view(np.uint8), rows[1].view(np.uint8)):
            return None
        left, right = _floats(one, rows[0]), _floats(two, rows[1])
        size = float(np.vdot(left, left))
        left -= right
        return float(np.vdot(left, left)), size

    starts = range(0, one.n_rows, step)
    squares, size, equal = 0.0, 0.0, []
    for start, found in zip(starts, pool.map(change, starts), strict=True):
        on_progress(row_bytes * (min(start + step, one.n_rows) - start))
        if found is None:
            equal.append(start)
        else:
            squares, size = squares + found[0], size + found[1]
    if len(equal) == len(starts):
        return None
    for values in pool.map(lambda start: _floats(one, rows_of(one, start)), equal):
        size += float(np.vdot(values, values))
    return math.sqrt(squares / size) if size else math.inf if squares else 0.0


def _floats(tensor: Tensor, rows: Rows) -> ggml.Floats:
    if tensor.dtype == "F64":
        return rows.astype(np.float32).reshape(-1)
    kind = ggml.block_types()[tensor.dtype.lower()]
    values = np.empty(rows.shape[0] * tensor.n_per_row, np.float32)
    ggml.to_float(kind.id, rows.reshape(-1).view(np.uint8), values)
    return values
