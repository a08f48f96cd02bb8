"""The predictions of a reference in a file, as ``llama-perplexity --save-all-logits`` writes and reads it.

``_logits_``, the tokens of a chunk (uint32), the size of the vocabulary and the number of chunks (int32), all tokens
(int32), then for each scored token of each chunk a row of uint16: two float32 (a scale and the smallest logarithm of a
probability), and the logarithms in steps of that scale. Source: ``tools/perplexity/perplexity.cpp`` of llama.cpp.
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ggufrun import regularfile
from ggufrun.engine.chunks import Floats
from ggufrun.engine.model import Model
from ggufrun.errors import FormatError, TargetError, UsageError
from ggufrun.evaluate.text import Text

MAGIC = b"_logits_"
HEAD = struct.Struct("<8sIii")
RANGE = 16.0
"""What is less probable than the best token by more than e to this power is cut off."""

AGAIN = "write it again with --save-logits"


def is_logits_file(path: Path) -> bool:
    """Whether a file begins like one."""
    if not path.is_file():
        return False
    return regularfile.read_start(path, len(MAGIC)) == MAGIC


def _row_size(vocabulary: int) -> int:
    """Numbers of 16 bits a row."""
    return 2 * ((vocabulary + 1) // 2) + 4


def _scored(length: int) -> int:
    """Rows a chunk: its second half, but for the last token, which predicts the next chunk's first."""
    return length - 1 - length // 2


class LogitsFile:
    """The predictions in a file. Raises FormatError for one that is damaged or cut."""

    def __init__(self, path: Path) -> None:
        self.path = path
        size = path.stat().st_size
        with regularfile.open_regular(path, AGAIN) as file:
            head = file.read(HEAD.size)
            if len(head) < HEAD.size:
                raise FormatError(f"{path.name} is cut short", AGAIN)
            magic, self.length, self.vocabulary, self.chunks = HEAD.unpack(head)
            counts = self.length * self.chunks
            if magic != MAGIC or not (1 < self.length < 1 << 24 and 0 < self.vocabulary < 1 << 24 and self.chunks > 0):
                raise FormatError(f"{path.name} does not hold saved logits", AGAIN)
            rows = self.chunks * _scored(self.length)
            expected = HEAD.size + 4 * counts + 2 * rows * _row_size(self.vocabulary)
            if size < expected:
                raise FormatError(f"{path.name} is cut short: {size} bytes of {expected}", AGAIN)
            self.tokens = np.frombuffer(file.read(4 * counts), "<i4").reshape(self.chunks, self.length)
        if self.tokens.min() < 0 or self.tokens.max() >= self.vocabulary:
            raise FormatError(f"{path.name} holds tokens outside its vocabulary", AGAIN)
        shape = (self.chunks, _scored(self.length), _row_size(self.vocabulary))
        self._rows = np.memmap(path, "<u2", "r", HEAD.size + 4 * counts, shape)

    def text(self, model: Model, limit: int | None = None) -> Text:
        """The chunks that were measured, for ``model``. UsageError for another vocabulary."""
        if model.vocab.size != self.vocabulary:
            raise UsageError(
                f"{model.path.name} has {model.vocab.size} tokens, {self.path.name} {self.vocabulary}",
                "a reference must have the same vocabulary: take the file that this one was quantized from",
            )
        targets = self.tokens[:limit].astype(np.int32)
        chunks = targets.copy()
        if model.vocab.add_bos:
            chunks[:, 0] = model.vocab.bos
        return Text(chunks, targets)

    def rows(self, chunk: int, start: int, count: int) -> Floats:
        """Logarithms of probabilities, float32 of shape (count, vocabulary), from token ``start`` of a chunk on."""
        first = start - self.length // 2
        raw = np.ascontiguousarray(self._rows[chunk, first : first + count])
        head = raw[:, :4].copy().view("<f4")
        if not np.isfinite(head).all():
            raise FormatError(f"{self.path.name} holds predictions that are not numbers", AGAIN)
        values: Floats = head[:, :1] * raw[:, 4 : 4 + self.vocabulary].astype(np.float32) + head[:, 1:2]
        return values


class LogitsWriter:
    """A file of predictions in the making. TargetError for one that is there."""

    def __init__(self, path: Path, text: Text, vocabulary: int, force: bool = False) -> None:
        if path.exists() and not force:
            raise TargetError(f"{path} exists", "pass --force to replace it")
        self.path, self._vocabulary, self._length = path, vocabulary, text.length
        self._part = path.with_name(f".{path.name}.part")
        shape = (len(text), _scored(text.length), _row_size(vocabulary))
        start = HEAD.size + 4 * text.targets.size
        with self._part.open("wb") as file:
            file.write(HEAD.pack(MAGIC, text.length, vocabulary, len(text)))
            file.write(text.targets.astype("<i4").tobytes())
            file.truncate(start + 2 * int(np.prod(shape)))
        self._rows = np.memmap(self._part, "<u2", "r+", start, shape)

    def write(self, chunk: int, start: int, logits: Floats) -> None:
        """Keep the predictions of a chunk from token ``start`` on: logits, float32 of shape (tokens, vocabulary)."""
        first = start - self._length // 2
        for number, row in enumerate(logits):
            self._rows[chunk, first + number] = packed(row)

    def commit(self) -> None:
        """Give the file its name."""
        self._rows.flush()
        self._part.replace(self.path)

    def abort(self) -> None:
        """Leave nothing behind; after `commit` a no-op."""
        self._part.unlink(missing_ok=True)


def packed(logits: Floats) -> npt.NDArray[np.uint16]:
    """A row of the file, as llama-perplexity rounds it."""
    most = logits.max()
    least = np.float32(max(logits.min(), most - np.float32(RANGE)))
    total = np.float32(np.log(np.exp(logits - most, dtype=np.float32).sum(dtype=np.float64)))
    scale = np.float32((most - least) / np.float32(65535))
    row = np.zeros(_row_size(len(logits)), "<u2")
    row[:4] = np.array([scale, least - most - total], "<f4").view("<u2")
    if scale:
        steps = np.rint((np.float32(1) / scale) * (logits - least))
        row[4 : 4 + len(logits)] = np.where(logits > least, steps, 0).astype("<u2")
    return row
