"""Which token comes next: llama.cpp's sampler chain, described by one frozen record.

The order and the defaults are those of llama.cpp's ``common_params_sampling``.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from ctypes import c_float
from dataclasses import dataclass
from typing import Any

from ggufrun.engine.context import Context
from ggufrun.engine.model import Model
from ggufrun.engine.native import llama
from ggufrun.errors import EngineError, UsageError

RANDOM_SEED = 0xFFFFFFFF
"""``LLAMA_DEFAULT_SEED``: take a new seed every time."""


WORTHWHILE = 128
"""A vocabulary this many times the window of the penalties makes `_Penalties` the quicker way (measured)."""


@dataclass(frozen=True)
class SamplingParams:
    """How a token is chosen. A temperature of 0 takes the most probable one.

    ``repeat_last_n`` -1 looks back over the whole context; ``ignore_eos`` never ends a text. Raises UsageError for what
    llama.cpp would misread.
    """

    temp: float = 0.8
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    typical: float = 1.0
    repeat_penalty: float = 1.0
    repeat_last_n: int = 64
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int = RANDOM_SEED
    ignore_eos: bool = False

    def __post_init__(self) -> None:
        checks: tuple[tuple[str, float, Callable[[float], bool], str], ...] = (
            ("temp", self.temp, lambda v: math.isfinite(v), "a finite number"),
            ("top_k", self.top_k, lambda v: -(2**31) <= v < 2**31, "a 32-bit integer"),
            ("top_p", self.top_p, lambda v: 0 <= v <= 1, "a number from 0 to 1"),
            ("min_p", self.min_p, lambda v: 0 <= v <= 1, "a number from 0 to 1"),
            ("typical", self.typical, lambda v: 0 <= v <= 1, "a number from 0 to 1"),
            ("repeat_penalty", self.repeat_penalty, lambda v: 1e-30 < v < 1e30, "a number greater than 0"),
            ("repeat_last_n", self.repeat_last_n, lambda v: -1 <= v < 2**24, "-1 or a count of tokens"),
            ("presence_penalty", self.presence_penalty, lambda v: abs(v) < 1e30, "a finite number"),
            ("frequency_penalty", self.frequency_penalty, lambda v: abs(v) < 1e30, "a finite number"),
            ("seed", self.seed, lambda v: -1 <= v < 2**32, "-1 or a 32-bit number"),
        )
        for name, value, fine, wanted in checks:
            if not fine(value):
                raise UsageError(f"{name} is {value}", f"give {wanted}")

    @property
    def penalizes(self) -> bool:
        """Do earlier tokens change the choice?"""
        changes = self.repeat_penalty != 1.0 or self.presence_penalty != 0.0 or self.frequency_penalty != 0.0
        return changes and self.repeat_last_n != 0

    @property
    def greedy(self) -> bool:
        """Is the most probable token always taken?"""
        return self.temp <= 0


class Sampler:
    """A sampler chain. It remembers the tokens it has seen, for the penalties, and its random state."""

    def __init__(self, model: Model, params: SamplingParams, n_ctx: int) -> None:
        api = llama()
        self.params = params
        self._window = n_ctx if params.repeat_last_n < 0 else params.repeat_last_n
        self._penalties: _Penalties | None = None
        if params.penalizes and model.vocab.size > self._window * WORTHWHILE:
            self._penalties = _Penalties(params, self._window)
        self._chain = api.llama_sampler_chain_init(api.llama_sampler_chain_default_params())
        for link in _links(api, model, params, self._window, native_penalties=self._penalties is None):
            if not link:
                self.close()
                raise EngineError("llama.cpp could not make the sampler")
            api.llama_sampler_chain_add(self._chain, link)
        self._sample = api.llama_sampler_sample
        self._logits = api.llama_get_logits_ith

    def accept(self, ids: Sequence[int]) -> None:
        """Let the penalties see ``ids``: a prompt, as llama.cpp's own programs do. Only the last ones can matter."""
        if not self.params.penalizes:
            return
        accept = llama().llama_sampler_accept
        for token in ids[-self._window :]:
            if self._penalties is not None:
                self._penalties.see(token)
            else:
                accept(self._chain, token)

    def sample(self, context: Context, index: int = -1) -> int:
        """The next token after what ``context`` holds. It is accepted, but not yet in the context.

        ``index`` is the place in the last batch whose logits count, where that is not the last one.
        """
        if not context.ready:
            raise EngineError("there are no logits to sample from")
        if self._penalties is None:
            return int(self._sample(self._chain, context.pointer, index))
        logits = self._logits(context.pointer, index)
        before = self._penalties.apply(logits)
        token = int(self._sample(self._chain, context.pointer, index))
        # The logits belong to the context: whoever samples again from them finds them as they were.
        for changed, score in before:
            logits[changed] = score
        self._penalties.see(token)
        return token

    def reset(self) -> None:
        """Forget the tokens seen, and start the random numbers again from the seed."""
        llama().llama_sampler_reset(self._chain)
        if self._penalties is not None:
            self._penalties = _Penalties(self.params, self._window)

    def close(self) -> None:
        """Free the chain. Closing twice is fine."""
        if self._chain:
            llama().llama_sampler_free(self._chain)
            self._chain = None


class _Penalties:
    """The penalties of ``llama_sampler_init_penalties``, written into the logits of the few tokens that they concern.

    llama.cpp looks every token of the vocabulary up in a table to find them, which with 55,296 tokens takes longer than
    all other links together. The arithmetic is single precision, as there.
    """

    def __init__(self, params: SamplingParams, window: int) -> None:
        self._repeat = c_float(params.repeat_penalty).value
        self._presence = c_float(params.presence_penalty).value
        self._frequency = c_float(params.frequency_penalty).value
        self._adds = bool(self._presence or self._frequency)
        self._window = window
        self._recent: deque[int] = deque()
        self._counts: dict[int, int] = {}

    def see(self, token: int) -> None:
        """Take one more token into the window, and the oldest out of it."""
        counts = self._counts
        counts[token] = counts.get(token, 0) + 1
        self._recent.append(token)
        if len(self._recent) > self._window:
            oldest = self._recent.popleft()
            counts[oldest] -= 1
            if not counts[oldest]:
                del counts[oldest]

    def apply(self, logits: Any) -> list[tuple[int, float]]:
        """Change the logits (a ``float *``); returns the tokens changed with their old values."""
        repeat = self._repeat
        before = [(token, logits[token]) for token in self._counts]
        for token, score in before:
            logits[token] = score * repeat if score <= 0 else score / repeat
        if self._adds:
            for token, count in self._counts.items():
                logits[token] -= c_float(c_float(count * self._frequency).value + self._presence).value
        return before


def _links(api: Any, model: Model, params: SamplingParams, window: int, *, native_penalties: bool) -> Iterable[Any]:
    """The chain in llama.cpp's order, without the links that would change nothing."""
    barred = model.vocab.suppressed + (model.vocab.ends if params.ignore_eos else ())
    if barred:
        biases = (api.llama_logit_bias * len(barred))(*((token, -math.inf) for token in barred))
        yield api.llama_sampler_init_logit_bias(model.vocab.size, len(barred), biases)
    if params.penalizes and native_penalties:
        yield api.llama_sampler_init_penalties(
            model.vocab.size, window, params.repeat_penalty, params.frequency_penalty, params.presence_penalty
        )
    if params.greedy:
        yield api.llama_sampler_init_greedy()
        return
    if params.top_k > 0:
        yield api.llama_sampler_init_top_k(params.top_k)
    if params.typical < 1.0:
        yield api.llama_sampler_init_typical(params.typical, 1)
    if params.top_p < 1.0:
        yield api.llama_sampler_init_top_p(params.top_p, 1)
    if params.min_p > 0.0:
        yield api.llama_sampler_init_min_p(params.min_p, 1)
    yield api.llama_sampler_init_temp(params.temp)
    yield api.llama_sampler_init_dist(params.seed & 0xFFFFFFFF)
