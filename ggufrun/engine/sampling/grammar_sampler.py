"""llama.cpp's sampler of a grammar, each call of which comes back in seconds.

llama.cpp follows every way in which a grammar can continue, in one call that nothing interrupts. A few letters that
may each be left out have more ways than could ever be followed: such a grammar is given up.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import numpy.typing as npt

from ggufrun.engine.vocabulary import Vocab
from ggufrun.errors import EndlessError
from ggufrun.native.library import llama
from ggufrun.native.limited import LimitedThread, TooLong
from ggufrun.native.log import forget_log, reason

SECONDS = 2.0
"""Of computing, for one call."""

SECONDS_IN_ALL = 6.0
"""The same for the whole vocabulary, which is looked at in pieces: with ten thousand words to choose from, and a large
vocabulary, that is three."""

PIECE = 4096
"""Tokens of a piece."""

TOO_MANY = (
    "the grammar can continue in too many ways for llama.cpp to follow them all here",
    "let its alternatives differ sooner, and leave no long rows of optional parts",
)

TOKEN_DATA = np.dtype([("id", "<i4"), ("logit", "<f4"), ("p", "<f4")])
"""``llama_token_data``."""

Candidates = npt.NDArray[np.void]


class GrammarSampler:
    """How far an answer has come in a grammar.

    Every method raises EndlessError where llama.cpp takes too long. What it still works on then is never freed.
    """

    def __init__(self, vocab: Vocab, text: str) -> None:
        """``failure`` is why llama.cpp does not read ``text``, None if it does."""
        self._thread = LimitedThread()
        self._sampler: Any = None
        self._kept: list[object] = []
        source = text.encode("utf-8", "surrogateescape")

        def make() -> tuple[Any, str | None]:
            # llama.cpp's log belongs to the thread
            forget_log()
            made = llama().llama_sampler_init_grammar(vocab.pointer, source, b"root")
            return made, None if made else reason("llama.cpp gave no reason")

        try:
            self._sampler, self.failure = self._call(make)
        except BaseException:
            self.close()
            raise

    def apply(self, data: Candidates) -> None:
        """Set the logits of the tokens in ``data`` (of `TOKEN_DATA`) that do not fit to minus infinity."""
        left = SECONDS_IN_ALL
        for start in range(0, len(data), PIECE):
            piece = data[start : start + PIECE]
            array = candidates(piece)
            sampler = self._sampler

            def look(array: Any = array, sampler: Any = sampler) -> None:
                llama().llama_sampler_apply(sampler, ctypes.byref(array))

            self._kept = [data, array]
            before = self._thread.computed()
            self._call(look, min(SECONDS, left))
            left -= self._thread.computed() - before
            if left < 0:
                raise EndlessError(*TOO_MANY)

    def fits(self, token: int) -> bool:
        """May ``token`` be next?"""
        one = np.array([(token, 1.0, 0.0)], TOKEN_DATA)
        self.apply(one)
        return bool(one["logit"][0] != -np.inf)

    def accept(self, token: int) -> None:
        """Take a token that fits."""
        sampler = self._sampler
        self._call(lambda: llama().llama_sampler_accept(sampler, token))

    def reset(self) -> None:
        """Back to the beginning."""
        sampler = self._sampler
        self._call(lambda: llama().llama_sampler_reset(sampler))

    def _call(self, function: Any, seconds: float | None = None) -> Any:
        try:
            return self._thread.call(function, SECONDS if seconds is None else seconds)
        except TooLong:
            # it still uses them
            _abandoned.append(self._kept)
            raise EndlessError(*TOO_MANY) from None

    def close(self) -> None:
        """Free it, unless it is in use for good. Closing twice is fine."""
        if self._sampler and not self._thread.stuck:
            llama().llama_sampler_free(self._sampler)
        self._sampler = None
        self._thread.close()


_abandoned: list[object] = []


def candidates(data: Candidates) -> Any:
    """A ``llama_token_data_array`` of ``data``, which must outlive it."""
    api = llama()
    pointer = data.ctypes.data_as(ctypes.POINTER(api.llama_token_data))
    return api.llama_token_data_array(pointer, len(data), -1, False)
