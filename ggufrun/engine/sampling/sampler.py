"""Which token comes next: llama.cpp's sampler chain, described by one frozen record.

The order and the defaults are those of llama.cpp's ``common_params_sampling``.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from ctypes import c_char_p, c_float
from typing import Any

import numpy as np

from ggufrun.engine.context import Context
from ggufrun.engine.model import Model
from ggufrun.engine.sampling.grammar import Grammar
from ggufrun.engine.sampling.params import RANDOM_SEED, SamplingParams
from ggufrun.engine.sampling.thinking import Thinking
from ggufrun.errors import EngineError, UsageError
from ggufrun.native.library import llama, sampling
from ggufrun.native.signatures import Llama

__all__ = ["RANDOM_SEED", "Sampler", "SamplingParams"]

WORTHWHILE = 128
"""A vocabulary this many times the window of the penalties makes `_Penalties` the quicker way (measured)."""


NONE_LEFT = -2
"""What ``ggufrun_sample`` (``tools/sampling``) returns when a chain has chosen no token."""


class Sampler:
    """A sampler chain. It remembers the tokens it has seen, for the penalties, and its random state. A grammar begins
    after the ``thinking`` that an answer may begin with.
    """

    def __init__(self, model: Model, params: SamplingParams, n_ctx: int, thinking: Thinking | None = None) -> None:
        api = llama()
        self.params = params
        self._chain: Any = None
        self._grammar: Grammar | None = None
        for token, _ in params.logit_bias:
            if not 0 <= token < model.vocab.size:
                raise UsageError(
                    f"token {token} of a logit bias is not in the vocabulary of {model.vocab.size} tokens",
                    "/tokens and --show-tokens print ids",
                )
        self._window = _window(params.repeat_last_n, n_ctx)
        self._looks_back = max(
            self._window if params.penalizes else 0, _window(params.dry_penalty_last_n, n_ctx) if params.dry else 0
        )
        self._penalties: _Penalties | None = None
        # Ours come before all else in the chain, so nothing else may be wanted there.
        first = params.samplers[:1] == ("penalties",) and params.samplers.count("penalties") == 1
        first = first and not params.logit_bias
        if params.penalizes and first and model.vocab.size > self._window * WORTHWHILE:
            self._penalties = _Penalties(params, self._window)
        self._chain = api.llama_sampler_chain_init(api.llama_sampler_chain_default_params())
        links = []
        for name, link in _links(api, model, params, n_ctx, native_penalties=self._penalties is None):
            if not link:
                self.close()
                raise EngineError("llama.cpp could not make the sampler")
            api.llama_sampler_chain_add(self._chain, link)
            links.append(name)
        # Taking the largest of some numbers needs no chain, and numpy is twice as quick at it.
        self._greedy = links == ["greedy"] and _penalties_first(params)
        self._size = model.vocab.size
        barred = len(model.vocab.suppressed) + len(model.vocab.ends)
        ours = sampling()
        # spares a chain that begins with top-k the listing of the whole vocabulary
        self._among_largest = None if ours is None else ours.ggufrun_sample
        self._enough = 0 if ours is None else _enough(links, params, barred)
        self._checked = False
        self._sample = api.llama_sampler_sample
        self._logits = api.llama_get_logits_ith
        if params.grammar:
            try:
                self._grammar = Grammar(model.vocab, params.grammar, thinking)
            except BaseException:
                self.close()
                raise

    def accept(self, ids: Sequence[int]) -> None:
        """Let the penalties see ``ids``: a prompt, as llama.cpp's own programs do. Only the last ones can matter."""
        if not self._looks_back:
            return
        accept = llama().llama_sampler_accept
        for token in ids[-self._looks_back :]:
            accept(self._chain, token)
            if self._penalties is not None:
                self._penalties.see(token)

    def sample(self, context: Context, index: int = -1) -> int:
        """The next token after what ``context`` holds. It is accepted, but not yet in the context.

        ``index`` is the place in the last batch whose logits count, where that is not the last one. Raises EngineError
        for logits that are no numbers.
        """
        if not context.ready:
            raise EngineError("there are no logits to sample from")
        if self._checked and self._penalties is None and self._grammar is None and not self._greedy:
            return self._choose(context.pointer, index)
        logits = self._logits(context.pointer, index)
        if not self._checked:
            # Damaged weights show at once, and llama.cpp's samplers may end the process over them.
            self._checked = True
            if np.isnan(np.ctypeslib.as_array(logits, (self._size,))).any():
                raise EngineError(
                    "the model computes values that are not numbers", "its file may be damaged: ggufrun verify FILE"
                )
        before = self._penalties.apply(logits) if self._penalties is not None else []
        try:
            if self._grammar is not None:
                token = self._grammar.sample(self._chain, logits)
            elif self._greedy:
                token = int(np.ctypeslib.as_array(logits, (self._size,)).argmax())
            else:
                token = self._choose(context.pointer, index)
        finally:
            for changed, score in before:
                logits[changed] = score
        # The logits belong to the context: whoever samples again from them finds them as they were.
        if self._penalties is not None:
            self._penalties.see(token)
        return token

    def _choose(self, context: Any, index: int) -> int:
        if self._among_largest is not None and self._enough:
            token = int(self._among_largest(self._chain, context, index, self._enough))
            if token >= 0:
                return token
            if token == NONE_LEFT:
                raise EngineError("the samplers left no token", "loosen the sampling settings")
        return int(self._sample(self._chain, context, index))

    def reset(self) -> None:
        """Forget the tokens seen, and start the random numbers again from the seed."""
        llama().llama_sampler_reset(self._chain)
        if self._grammar is not None:
            self._grammar.reset()
        if self._penalties is not None:
            self._penalties = _Penalties(self.params, self._window)

    def close(self) -> None:
        """Free the chain. Closing twice is fine."""
        if self._chain:
            llama().llama_sampler_free(self._chain)
            self._chain = None
        if self._grammar is not None:
            self._grammar.close()


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


def _links(
    api: Llama, model: Model, params: SamplingParams, n_ctx: int, *, native_penalties: bool
) -> Iterator[tuple[str, Any]]:
    """The chain in the order of ``params.samplers``, without the links that would change nothing, by name."""
    vocab, seed = model.vocab, params.seed & RANDOM_SEED
    barred = vocab.suppressed + (vocab.ends if params.ignore_eos else ())
    biases = [*params.logit_bias, *((token, -math.inf) for token in barred)]
    if biases:
        array = (api.llama_logit_bias * len(biases))(*biases)
        yield "logit_bias", api.llama_sampler_init_logit_bias(vocab.size, len(biases), array)
    if params.greedy and params.mirostat:
        yield "greedy", api.llama_sampler_init_greedy()
        return
    if params.mirostat:
        yield "temperature", api.llama_sampler_init_temp(params.temp)
        if params.mirostat == 1:
            first = api.llama_sampler_init_mirostat(vocab.size, seed, params.mirostat_ent, params.mirostat_lr, 100)
            yield "mirostat", first
        else:
            yield "mirostat", api.llama_sampler_init_mirostat_v2(seed, params.mirostat_ent, params.mirostat_lr)
        return
    greedy = params.greedy and _penalties_first(params)
    for name in params.samplers:
        if name == "penalties" and params.penalizes and native_penalties:
            window = _window(params.repeat_last_n, n_ctx)
            penalties = (params.repeat_penalty, params.frequency_penalty, params.presence_penalty)
            yield name, api.llama_sampler_init_penalties(vocab.size, window, *penalties)
        elif name == "dry" and params.dry:
            breakers = [text.encode("utf-8", "surrogateescape") for text in params.dry_breakers]
            strength = (params.dry_multiplier, params.dry_base, params.dry_allowed_length)
            window, array = _window(params.dry_penalty_last_n, n_ctx), (c_char_p * len(breakers))(*breakers)
            yield name, api.llama_sampler_init_dry(vocab.pointer, *strength, window, array, len(breakers))
        elif greedy:
            # No filter takes the most probable token away.
            continue
        elif name == "top_n_sigma" and params.top_n_sigma > 0:
            yield name, api.llama_sampler_init_top_n_sigma(params.top_n_sigma)
        elif name == "top_k" and params.top_k > 0:
            yield name, api.llama_sampler_init_top_k(params.top_k)
        elif name == "typ_p" and params.typical < 1.0:
            yield name, api.llama_sampler_init_typical(params.typical, 0)
        elif name == "top_p" and params.top_p < 1.0:
            yield name, api.llama_sampler_init_top_p(params.top_p, 0)
        elif name == "min_p" and params.min_p > 0.0:
            yield name, api.llama_sampler_init_min_p(params.min_p, 0)
        elif name == "xtc" and params.xtc:
            yield name, api.llama_sampler_init_xtc(params.xtc_probability, params.xtc_threshold, 0, seed)
        elif name == "temperature":
            dynamic = (params.dynatemp_range, params.dynatemp_exp)
            yield name, api.llama_sampler_init_temp_ext(max(params.temp, 0.0), *dynamic)
    if greedy:
        yield "greedy", api.llama_sampler_init_greedy()
    elif "adaptive_p" in params.samplers:
        yield "adaptive_p", api.llama_sampler_init_adaptive_p(params.adaptive_target, params.adaptive_decay, seed)
    else:
        yield "dist", api.llama_sampler_init_dist(seed)


def _enough(links: Sequence[str], params: SamplingParams, barred: int) -> int:
    """How many of the largest logits are all that a chain can choose from; 0 when that is not known.

    The ``barred`` tokens, and those with a bias, may be among the largest before the chain lowers them.
    """
    biased = links[0] == "logit_bias"
    raised = any(bias > 0 for _, bias in params.logit_bias)
    first = links[1] if biased else links[0]
    if first != "top_k" or raised:
        return 0
    return params.top_k + (barred + len(params.logit_bias) if biased else 0)


def _penalties_first(params: SamplingParams) -> bool:
    """Does nothing filter tokens before all penalties have been applied?"""
    marks = [name in ("penalties", "dry") for name in params.samplers]
    return not (params.penalizes or params.dry) or marks == sorted(marks, reverse=True)


def _window(count: int, n_ctx: int) -> int:
    return n_ctx if count < 0 else count
