"""How well a model predicts a text, and how far its predictions lie from those of a reference.

The rules are those of llama.cpp's ``tools/perplexity``: chunks of equal length, of which only the second half is
scored, so that every prediction has something to go on. A reference runs side by side with the model, chunk by chunk;
no file of logits, and none of the rounding to 16 bits that such a file brings.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from ggufrun.engine.chunks import ChunkContext, ChunkParams, Floats
from ggufrun.engine.model import Model
from ggufrun.engine.token_batch import Tokens
from ggufrun.errors import EngineError, UsageError
from ggufrun.evaluate.logits_file import LogitsFile, LogitsWriter
from ggufrun.evaluate.text import Text

Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Scores:
    """One number a token: ``nll`` is the negative logarithm of the probability that the model gave to what really came.

    With a reference also its ``nll_base``, the divergence ``kld`` of the model's prediction from the reference's, in
    nats, and ``same_top``: do both hold the same token for the most probable?
    """

    nll: Doubles
    nll_base: Doubles
    kld: Doubles
    same_top: npt.NDArray[np.bool_]

    @staticmethod
    def join(parts: Sequence[Scores]) -> Scores:
        """All tokens of several."""
        return Scores(
            np.concatenate([part.nll for part in parts]),
            np.concatenate([part.nll_base for part in parts]),
            np.concatenate([part.kld for part in parts]),
            np.concatenate([part.same_top for part in parts]),
        )


def score(
    model: Model, params: ChunkParams, text: Text, kept: LogitsWriter | None = None
) -> Generator[Scores, None, None]:
    """The scores of every chunk of ``text``, without a reference; ``kept`` takes the predictions. Raises EngineError or
    KeyboardInterrupt.
    """
    for scores in score_all(None, [model], params, text, kept=kept):
        yield scores[0]


def score_against_file(
    saved: LogitsFile, model: Model, params: ChunkParams, text: Text
) -> Generator[list[Scores], None, None]:
    """For every chunk of ``text``, which is the file's own, the scores compared with the predictions in a file."""
    yield from score_all(None, [model], params, text, saved)


def score_against(
    reference: Model, models: Sequence[Model], params: ChunkParams, text: Text, whole_text: str
) -> Generator[list[Scores], None, None]:
    """For every chunk of ``text``, cut from ``whole_text``, the scores of each of ``models`` beside ``reference``.

    UsageError for models whose vocabulary is another one. All models are held in memory at once.
    """
    for model in models:
        check_vocabulary(reference, model, whole_text)
    yield from score_all(reference, models, params, text)


def check_vocabulary(reference: Model, model: Model, text: str) -> None:
    """UsageError unless both cut ``text`` into the same tokens of the same vocabulary."""
    mine, theirs = model.vocab, reference.vocab
    if mine.size != theirs.size:
        raise UsageError(
            f"{model.path.name} has {mine.size} tokens, {reference.path.name} has {theirs.size}",
            "a reference must have the same vocabulary: take the file that this one was quantized from",
        )
    if mine.tokenize(text, special=False, bos=True) != theirs.tokenize(text, special=False, bos=True):
        raise UsageError(
            f"{model.path.name} and {reference.path.name} cut the text into different tokens",
            "a reference must have the same vocabulary: take the file that this one was quantized from",
        )


def score_all(
    reference: Model | None,
    models: Sequence[Model],
    params: ChunkParams,
    text: Text,
    saved: LogitsFile | None = None,
    kept: LogitsWriter | None = None,
) -> Generator[list[Scores], None, None]:
    """The loop behind `score` and `score_against`."""
    first = text.length // 2
    with ExitStack() as stack:
        opened = ([reference] if reference else []) + list(models)
        contexts = [stack.enter_context(ChunkContext(model, params, text.length - first)) for model in opened]
        threads = contexts[0].threads
        pool = stack.enter_context(ThreadPoolExecutor(threads))
        for start in range(0, len(text), params.at_once):
            batch = text.chunks[start : start + params.at_once]
            targets = text.targets[start : start + params.at_once]
            found: list[list[list[Scores]]] = [[[] for _ in models] for _ in batch]
            for pieces in zip(*(context.decode(batch, first) for context in contexts), strict=True):
                begin = pieces[0].start
                # the last position predicts the next chunk's first token, which is not scored
                n_rows = min(pieces[0].logits.shape[1], text.length - 1 - begin)
                for number, chunk_targets in enumerate(targets):
                    wanted = chunk_targets[begin + 1 : begin + 1 + n_rows]
                    rows = [piece.logits[number, :n_rows] for piece in pieces]
                    base = rows[0] if reference else None
                    if saved is not None:
                        base = saved.rows(start + number, begin, n_rows)
                    if kept is not None:
                        kept.write(start + number, begin, rows[0])
                    for index, logits in enumerate(rows[1:] if reference else rows):
                        found[number][index].append(_score_rows(pool, threads, logits, base, wanted, saved is not None))
            for parts in found:
                scores = [Scores.join(part) for part in parts]
                for model, one in zip(models, scores, strict=True):
                    if np.isnan(one.nll).any() or np.isnan(one.kld).any():
                        raise EngineError(f"{model.path.name} or its reference predicts NaN", "convert it again")
                yield scores


def _score_rows(
    pool: ThreadPoolExecutor, threads: int, logits: Floats, base: Floats | None, targets: Tokens, is_saved: bool
) -> Scores:
    work = score_saved_rows if is_saved else score_rows
    cuts = [len(targets) * number // threads for number in range(threads + 1)]
    parts = [
        pool.submit(work, logits[start:stop], None if base is None else base[start:stop], targets[start:stop])
        for start, stop in pairwise(cuts)
    ]
    return Scores.join([part.result() for part in parts])


def score_rows(logits: Floats, base: Floats | None, targets: Tokens) -> Scores:
    """Score rows of logits, float32 of shape (tokens, vocabulary), against the tokens that came."""
    count, vocabulary = logits.shape
    found = Scores(np.zeros(count), np.zeros(count), np.zeros(count), np.zeros(count, np.bool_))
    mine, theirs = _Softmax(vocabulary), None if base is None else _Softmax(vocabulary)
    for row, target in enumerate(targets):
        mine.fill(logits[row])
        found.nll[row] = mine.nll(target)
        if base is not None and theirs is not None:
            theirs.fill(base[row])
            found.nll_base[row] = theirs.nll(target)
            found.kld[row] = theirs.divergence(mine)
            found.same_top[row] = logits[row].argmax() == base[row].argmax()
    return found


def score_saved_rows(logits: Floats, base: Floats | None, targets: Tokens) -> Scores:
    """As `score_rows`, with logarithms of probabilities from a file for ``base``.

    llama-perplexity's rule: what is less probable than e^-16 counts for nothing, as the file does not say by how much.
    """
    count, vocabulary = logits.shape
    found = Scores(np.zeros(count), np.zeros(count), np.zeros(count), np.zeros(count, np.bool_))
    if base is None:
        return found
    mine = _Softmax(vocabulary)
    for row, target in enumerate(targets):
        mine.fill(logits[row])
        found.nll[row] = mine.nll(target)
        found.nll_base[row] = -float(base[row][target])
        probable = np.flatnonzero(base[row] > -LEAST_SAVED)
        theirs = base[row][probable].astype(np.float64)
        own = mine.below[probable] - np.log(mine.weights.sum())
        found.kld[row] = float((np.exp(theirs) * (theirs - own)).sum())
        found.same_top[row] = logits[row].argmax() == base[row].argmax()
    return found


LEAST_SAVED = 16.0
"""The negative logarithm of the smallest probability that counts."""


class _Softmax:
    """One row's logits below their maximum, and their exponentials, in arrays that serve for the next row again: the
    page faults of fresh ones take eight times as long as the arithmetic.

    The difference is rounded to float32 as llama.cpp has it. So are, for ``nll``, its exponentials, which matters in
    the tenth digit of a perplexity; numpy's float32 exp would be off by more than one unit, so it is the float64 one
    that is rounded.
    """

    def __init__(self, vocabulary: int) -> None:
        self.below: Floats = np.empty(vocabulary, np.float32)
        self.weights: Doubles = np.empty(vocabulary)
        self._rounded: Floats = np.empty(vocabulary, np.float32)
        self._terms: Doubles = np.empty(vocabulary)

    def fill(self, logits: Floats) -> None:
        """Take another row, float32 of shape (vocabulary,)."""
        np.subtract(logits, logits.max(), out=self.below)
        np.exp(self.below, out=self.weights, dtype=np.float64)

    def nll(self, token: int) -> float:
        """The negative logarithm of ``token``'s probability."""
        np.copyto(self._rounded, self.weights, casting="same_kind")
        return float(np.log(self._rounded.sum(dtype=np.float64)) - self.below[token])

    def divergence(self, other: _Softmax) -> float:
        """How far ``other`` lies from this row, in nats."""
        # sum p (log p - log p_other), with the constants of both logarithms taken out of the sum
        with np.errstate(invalid="ignore"):
            np.subtract(self.below, other.below, out=self._terms, dtype=np.float64)
            self._terms *= self.weights
        # a token that is ruled out here adds nothing, whatever the other thinks of it
        self._terms[self.weights == 0] = 0
        total, total_other = self.weights.sum(), other.weights.sum()
        return float(self._terms.sum() / total + (np.log(total_other) - np.log(total)))
