"""How fast a model reads a prompt (pp) and generates (tg): the tests of llama.cpp's ``llama-bench``.

Each test has a context of its own size, one warm-up and some repetitions from an empty memory. The tokens are random,
as there; only the model's work is timed, no sampling.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace

from ggufrun.engine.context import Context, ContextParams
from ggufrun.engine.model import Model
from ggufrun.native.library import llama


@dataclass(frozen=True)
class Test:
    """A prompt of ``prompt`` tokens, then ``generate`` tokens; either may be 0."""

    prompt: int = 0
    generate: int = 0

    @property
    def name(self) -> str:
        """``pp512``, ``tg128`` or ``pp512+tg128``."""
        parts = (("pp", self.prompt), ("tg", self.generate))
        return "+".join(f"{kind}{count}" for kind, count in parts if count)


@dataclass(frozen=True)
class Result:
    """``samples`` are seconds, one a repetition."""

    test: Test
    threads: int
    samples: tuple[float, ...]

    @property
    def speeds(self) -> tuple[float, ...]:
        """Tokens a second."""
        return tuple((self.test.prompt + self.test.generate) / seconds for seconds in self.samples)

    @property
    def mean(self) -> float:
        """Mean tokens a second."""
        return statistics.fmean(self.speeds)

    @property
    def deviation(self) -> float:
        """Standard deviation of a sample, 0 of a single one."""
        return deviation(self.speeds)


def deviation(values: Sequence[float]) -> float:
    """Standard deviation of a sample, 0 of a single value."""
    return statistics.stdev(values) if len(values) > 1 else 0.0


def run(
    model: Model,
    tests: Sequence[Test],
    params: ContextParams,
    repetitions: int = 5,
    warm_up: bool = True,
    on_run: Callable[[Test, int], None] = lambda test, number: None,
) -> Generator[Result, None, None]:
    """The result of each test as soon as it is there. ``on_run`` hears of every repetition, 0 being the warm-up.

    Raises EngineError, ContextFull, or KeyboardInterrupt.
    """
    for test in tests:
        size = test.prompt + test.generate
        model.check_length(size, "-p and -n")
        with Context(model, replace(params, n_ctx=size)) as context:
            if warm_up:
                on_run(test, 0)
                _once(context, Test(test.prompt, min(1, test.generate)))
            samples = []
            for number in range(repetitions):
                on_run(test, number + 1)
                context.clear()
                begun = time.perf_counter()
                _once(context, test)
                samples.append(time.perf_counter() - begun)
            yield Result(test, context.threads, tuple(samples))


def _once(context: Context, test: Test) -> None:
    vocab = context.model.vocab
    start = vocab.bos if vocab.add_bos else random.randrange(vocab.size)
    context.clear()
    if test.prompt:
        prompt = [start, *(random.randrange(vocab.size) for _ in range(test.prompt - 1))]
        context.feed(prompt)
    wait = llama().llama_synchronize
    pointer = context.pointer
    wait(pointer)
    token = start
    for _ in range(test.generate):
        context.push(token)
        wait(pointer)
        token = random.randrange(vocab.size)
