"""Collect an importance matrix: sums of squared activations for every column of every weight matrix, over a text.

The sums are those of llama.cpp's ``tools/imatrix``, kept in float64 so that long texts lose nothing; activations that
several matrices share (queries, keys and values) are squared once.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from ggufrun.engine.chunks import ChunkContext, ChunkParams
from ggufrun.engine.model import Model
from ggufrun.engine.observe import Observer, Product
from ggufrun.errors import FormatError
from ggufrun.evaluate.text import Text
from ggufrun.quantize.imatrix import Imatrix, ImatrixEntry

OUTPUT = "output.weight"
LEGACY_CHUNK = 512
"""Tokens a chunk that llama.cpp takes for granted in the older format, which does not say."""

Sums = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]


@dataclass
class _Totals:
    """``sums`` (matrices, columns) and ``counts`` (matrices,), or one count for all."""

    sums: Sums
    counts: Counts

    def add(self, other: _Totals) -> None:
        self.sums += other.sums
        self.counts += other.counts


@dataclass
class Collector:
    """What is known so far. `run` goes on; `result` may be asked for at any time."""

    process_output: bool = False
    # totals and chunks in one: an interrupt finds both before a batch, or both after it
    _known: tuple[dict[str, _Totals], int] = field(default_factory=lambda: ({}, 0))
    _batch: dict[str, _Totals] = field(default_factory=dict)
    _last: _Totals | None = None

    def run(self, model: Model, params: ChunkParams, text: Text, start: int = 0) -> Generator[int, None, None]:
        """Collect over ``text`` from chunk ``start`` on; yields the number of chunks done after every batch.

        Raises EngineError, FormatError for activations that are not finite, or KeyboardInterrupt: what was complete
        before stays.
        """
        observer = Observer(self._wants, self._sees, self._repeats)
        # the logits of every token are asked for: else the last layer sees only the tokens that have some
        with ChunkContext(model, params, params.length, observer) as context:
            for first in range(start, len(text), params.at_once):
                batch = text.chunks[first : first + params.at_once]
                self._batch, self._last = {}, None
                for _ in context.decode(batch, 0):
                    pass
                self._add(self._batch, len(batch))
                yield first + len(batch)

    @property
    def chunks(self) -> int:
        """Chunks behind the sums, those of `take` included."""
        return self._known[1]

    def take(self, known: Imatrix) -> None:
        """Go on from ``known``. FormatError when it is another model's."""
        totals = {
            name: _Totals(entry.sums.astype(np.float64), entry.counts.copy()) for name, entry in known.entries.items()
        }
        self._add(totals, known.chunk_count)

    def settle(self) -> None:
        """Round the sums to what a file holds of them. Done whenever one is saved on the way, it lets a run that goes
        on from that file end in the same bytes as one that was never cut off.
        """
        known, chunks = self._known
        rounded = {
            name: replace(totals, sums=totals.sums.astype(np.float32).astype(np.float64))
            for name, totals in known.items()
        }
        self._known = rounded, chunks

    def result(self, datasets: Sequence[str], chunk_size: int) -> Imatrix:
        """What was collected so far, by name."""
        entries = {
            name: ImatrixEntry(totals.sums.astype(np.float32), totals.counts)
            for name, totals in sorted(self._known[0].items())
        }
        return Imatrix(entries, tuple(datasets), _chunk_count(entries, chunk_size), chunk_size)

    def _add(self, new: Mapping[str, _Totals], chunks: int) -> None:
        known, before = self._known
        both = dict(known)
        for name, totals in new.items():
            old = known.get(name)
            both[name] = totals if old is None else _sum(name, old, totals)
        self._known = both, before + chunks

    def _wants(self, weight: str) -> bool:
        return weight.startswith("blk.") or (self.process_output and weight == OUTPUT)

    def _sees(self, product: Product) -> None:
        experts = product.experts()
        inputs = product.inputs()
        totals = (
            _plain(inputs, product.matrices) if experts is None else _mixture(inputs[0], experts, product.matrices[1])
        )
        if not np.isfinite(totals.sums).all():
            raise FormatError(f"{product.weight} is multiplied with values that are not finite", "check the model")
        self._last = totals
        self._repeats(product.weight)

    def _repeats(self, weight: str) -> None:
        assert self._last is not None
        known = self._batch.get(weight)
        if known is None:
            self._batch[weight] = replace(self._last, sums=self._last.sums.copy(), counts=self._last.counts.copy())
        else:
            known.add(self._last)


def _sum(name: str, known: _Totals, new: _Totals) -> _Totals:
    if known.sums.size != new.sums.size:
        raise FormatError(
            f"{name} has {new.sums.size} columns in this model, {known.sums.size} in the importance matrix",
            "it was measured on another model; start again without it",
        )
    # the older format has one count for all experts
    counts = known.counts + new.counts
    return _Totals((known.sums.reshape(-1) + new.sums.reshape(-1)).reshape(len(counts), -1), counts)


def _plain(inputs: npt.NDArray[np.float32], matrices: tuple[int, int]) -> _Totals:
    """``inputs`` (ne3, ne2, rows, columns); a weight of several matrices takes them in turn."""
    outer, inner, rows, columns = inputs.shape
    if matrices == (1, 1):
        flat = inputs.reshape(-1, columns)
        return _Totals(_squares(flat)[None], np.array([len(flat)], np.int64))
    sums = np.zeros((matrices[0] * matrices[1], columns))
    for i in range(outer):
        for j in range(inner):
            sums[i % matrices[0] * matrices[1] + j % matrices[1]] += _squares(inputs[i, j])
    return _Totals(sums.reshape(1, -1), np.array([outer * inner * rows // len(sums)], np.int64))


def _mixture(inputs: npt.NDArray[np.float32], experts: npt.NDArray[np.int32], n_experts: int) -> _Totals:
    """``inputs`` (tokens, slots or 1, columns), ``experts`` (tokens, slots): to each expert its own tokens."""
    n_tokens, n_slots = experts.shape
    chosen = experts.reshape(-1)
    if len(chosen) and not 0 <= int(chosen.min()) <= int(chosen.max()) < n_experts:
        raise FormatError(f"a token is sent to an expert that does not exist, of {n_experts}", "check the model")
    # row of the inputs behind each (token, slot)
    slots = np.arange(n_slots) % inputs.shape[1]
    rows = (np.arange(n_tokens)[:, None] * inputs.shape[1] + slots).reshape(-1)
    flat = inputs.reshape(-1, inputs.shape[-1])
    order = np.argsort(chosen, kind="stable")
    counts = np.bincount(chosen, minlength=n_experts).astype(np.int64)
    sums = np.zeros((n_experts, flat.shape[1]))
    start = 0
    for expert, count in enumerate(counts):
        if count:
            sums[expert] = _squares(flat[rows[order[start : start + count]]])
        start += count
    return _Totals(sums, counts)


def _squares(rows: npt.NDArray[np.float32]) -> Sums:
    """Sums of squares of the columns, without an array of squares in between."""
    sums: Sums = np.einsum("ij,ij->j", rows, rows).astype(np.float64)
    return sums


def merge(parts: Sequence[Imatrix]) -> Imatrix:
    """The sum of several matrices of one model. FormatError names what does not fit."""
    first = parts[0]
    chunk_size = next((part.chunk_size for part in parts if part.chunk_size), LEGACY_CHUNK)
    collector = Collector()
    for part in parts:
        _check_same_model(first, part)
        collector.take(part if part.chunk_size else _scaled(part, chunk_size))
    return collector.result([name for part in parts for name in part.datasets], chunk_size)


def _scaled(legacy: Imatrix, chunk_size: int) -> Imatrix:
    """The older format counts chunks, not tokens."""
    entries = {
        name: ImatrixEntry(entry.sums * np.float32(chunk_size), entry.counts * chunk_size)
        for name, entry in legacy.entries.items()
    }
    return replace(legacy, entries=entries)


def _check_same_model(first: Imatrix, other: Imatrix) -> None:
    for name in sorted((first.entries.keys() ^ other.entries.keys()) - {OUTPUT}):
        # the older format leaves out what has no data
        lacking, having = (first, other) if name in other.entries else (other, first)
        if lacking.chunk_size:
            raise FormatError(
                f"{having.path or 'one importance matrix'} has {name}, {lacking.path or 'the other'} has not",
                "merge only matrices of one model",
            )
    for name in first.entries.keys() & other.entries.keys():
        mine, theirs = first.entries[name].sums.size, other.entries[name].sums.size
        if mine != theirs:
            raise FormatError(
                f"{name} has {mine} columns in {first.path or 'one matrix'}, {theirs} in {other.path or 'the other'}",
                "merge only matrices of one model",
            )


def _chunk_count(entries: Mapping[str, ImatrixEntry], chunk_size: int) -> int:
    """Chunks behind the entry that saw most, as llama.cpp counts them."""
    most = max((int(entry.counts.max()) for entry in entries.values() if entry.counts.size), default=0)
    return most // chunk_size if chunk_size else 0
