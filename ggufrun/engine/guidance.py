"""Classifier-free guidance: a token is drawn from what the model says, and away from what it would say otherwise.

A second sequence of the same context holds the same text after another beginning, the negative prompt. With c and u the
logarithms of the probabilities that the model gives after the one and after the other, the sampler is handed
u + scale·(c − u). Scale 1 changes nothing. The formula is that of transformers' `guidance_scale`, which is
llama.cpp's former ``--cfg-scale``; the paper is Sanchez and others, arXiv:2306.17806.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggufrun.engine.context import Context
from ggufrun.engine.context_shift import Shift, fill, next_shift
from ggufrun.engine.decoder import OK
from ggufrun.engine.sequence import ADVICE, ContextFull
from ggufrun.errors import UsageError
from ggufrun.native.library import llama

NUMBER = 1
"""The sequence that holds the negative prompt."""

MOST = 1000.0
"""A larger scale leaves nothing of the model."""


def check_scale(scale: float) -> None:
    """Raises UsageError for what is no scale."""
    if not math.isfinite(scale) or abs(scale) > MOST:
        raise UsageError(f"--cfg-scale is {scale}", "give a number, such as 1.5; 1 is no guidance")


class Guidance:
    """The other side of a conversation in ``context``, which is made for two separate sequences and two outputs.

    Before a generation `prompt` says what its negative side begins with.
    """

    def __init__(self, context: Context, scale: float) -> None:
        check_scale(scale)
        self.scale = scale
        self.shifts: list[Shift] = []
        self._context = context
        self._other = context.sequence(NUMBER)
        self._size = context.model.vocab.size
        self._prompt: list[int] = []
        self._seen = 0
        self._keep: int | None = None
        self._row: NDArray[np.float32] | None = None

    def prompt(self, ids: Sequence[int], *, seen: int = 0, keep: int | None = None) -> None:
        """What the next generation is led away from; ``seen`` and ``keep`` as in `generate`."""
        self._prompt, self._seen, self._keep = list(ids), seen, keep

    def begin(self) -> None:
        """Decode the negative prompt. The context's own comes next, then `mix`. Raises as `fill` does."""
        _, self.shifts = fill(self._other, self._prompt, seen=self._seen, keep=self._keep)
        self._row = np.array(self._logits(-1))

    @property
    def n_ctx(self) -> int:
        """Tokens that this side may take."""
        return self._other.n_ctx

    @property
    def room(self) -> int:
        """Tokens that still fit on this side."""
        return self._other.n_ctx - len(self._other.held)

    def mix(self) -> None:
        """Put what both sides say together into the logits of the context's last token."""
        assert self._row is not None
        self._guide(self._logits(-1), self._row)

    def push(self, token: int) -> None:
        """Append one token to both sides, in one pass; the mixed logits are those of place 0.

        Raises ContextFull, Interrupted, or EngineError.
        """
        context, other, decoder = self._context, self._other, self._context.decoder
        if len(other.held) + 1 >= other.n_ctx and self._keep is not None:
            shift = next_shift(len(other.held), self._keep)
            self.shifts.append(shift)
            other.discard(shift.start, shift.count)
        if max(len(context.held), len(other.held)) >= context.n_ctx:
            raise ContextFull(f"the context of {context.n_ctx} tokens is full", "start a new conversation, or give -c")
        stop = 0
        for sequence in (context, other):
            stop = decoder.batch.put(stop, [token], len(sequence.held), sequence.number)
            decoder.batch.outputs[stop - 1] = 1
        status = decoder.decode(stop)
        if status != OK:
            raise decoder.failure(status, ADVICE)
        for sequence in (context, other):
            sequence.append(token)
        context.ready = True
        self._guide(self._logits(0), self._logits(1))

    def _logits(self, place: int) -> Any:
        pointer = llama().llama_get_logits_ith(self._context.pointer, place)
        return np.ctypeslib.as_array(pointer, (self._size,))

    def _guide(self, row: NDArray[np.float32], other: NDArray[np.float32]) -> None:
        towards, away = log_softmax(row), log_softmax(other)
        row[:] = away + np.float32(self.scale) * (towards - away)


def log_softmax(row: NDArray[np.float32]) -> NDArray[np.float32]:
    """Logarithms of the probabilities that logits stand for."""
    shifted = row - row.max()
    result: NDArray[np.float32] = shifted - np.log(np.exp(shifted).sum())
    return result
