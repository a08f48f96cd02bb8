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

import numpy as np
import numpy.typing as npt

from ggufrun.engine.chunks import ChunkContext, ChunkParams, Floats, Tokens
from ggufrun.engine.model import Model
from ggufrun.errors import EngineError, UsageError
from ggufrun.evaluate.text import Text

ROWS = 8
"""Rows of logits that one thread handles at once: a few megabytes."""

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


def score(model: Model, params: ChunkParams, text: Text) -> Generator[Scores, None, None]:
    """The scores of every chunk of ``text``, without a reference. Raises EngineError or KeyboardInterrupt."""
    for scores in score_all(None, [model], params, text):
        yield scores[0]


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
    reference: Model | None, models: Sequence[Model], params: ChunkParams, text: Text
) -> Generator[list[Scores], None, None]:
    """The loop behind `score` and `score_against`."""
    first = text.length // 2
    with ExitStack() as stack:
        opened = ([reference] if reference else []) + list(models)
        contexts = [stack.enter_context(ChunkContext(model, params, text.length - first)) for model in opened]
        pool = stack.enter_context(ThreadPoolExecutor(contexts[0].threads))
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
                    for index, logits in enumerate(rows[1:] if reference else rows):
                        found[number][index].append(_score_rows(pool, logits, base, wanted))
            for parts in found:
                scores = [Scores.join(part) for part in parts]
                for model, one in zip(models, scores, strict=True):
                    if np.isnan(one.nll).any() or np.isnan(one.kld).any():
                        raise EngineError(f"{model.path.name} or its reference predicts NaN", "convert it again")
                yield scores


def _score_rows(pool: ThreadPoolExecutor, logits: Floats, base: Floats | None, targets: Tokens) -> Scores:
    starts = range(0, len(targets), ROWS)
    return Scores.join(
        list(
            pool.map(
                lambda i: score_rows(
                    logits[i : i + ROWS], None if base is None else base[i : i + ROWS], targets[i : i + ROWS]
                ),
                starts,
            )
        )
    )


def score_rows(logits: Floats, base: Floats | None, targets: Tokens) -> Scores:
    """Score rows of logits, float32 of shape (tokens, vocabulary), against the tokens that came."""
    picked = np.arange(len(targets)), targets
    below, weights = _softmax(logits)
    nll = _log_sum(weights.astype(np.float32)) - below[picked]
    if base is None:
        nothing = np.zeros(len(targets))
        return Scores(nll, nothing, nothing, np.zeros(len(targets), np.bool_))
    below_base, weights_base = _softmax(base)
    nll_base = _log_sum(weights_base.astype(np.float32)) - below_base[picked]
    log_sum, log_sum_base = _log_sum(weights), _log_sum(weights_base)
    # sum p_b (log p_b - log p), with the constants of both logarithms taken out of the sum
    with np.errstate(invalid="ignore"):
        terms = np.subtract(below_base, below, out=weights)
        terms *= weights_base
    # a token that the reference rules out adds nothing, whatever the model thinks of it
    terms[weights_base == 0] = 0
    kld = terms.sum(axis=1) / np.exp(log_sum_base) + (log_sum - log_sum_base)
    return Scores(nll, nll_base, kld, logits.argmax(axis=1) == base.argmax(axis=1))


def _softmax(logits: Floats) -> tuple[Doubles, Doubles]:
    """Logits below their maximum, and their exponentials.

    The difference is rounded to float32 as llama.cpp has it. So are its exponentials, which matters in the tenth digit
    of a perplexity; numpy's float32 exp would be off by more than one unit, so it is the float64 one that is rounded.
    """
    below = (logits - logits.max(axis=1, keepdims=True)).astype(np.float64)
    return below, np.exp(below)


def _log_sum(weights: Floats | Doubles) -> Doubles:
    found: Doubles = np.log(weights.sum(axis=1, dtype=np.float64))
    return found
