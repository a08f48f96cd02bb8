"""Generation speed of ggufrun's engine as llama-bench's tg row measures it: one line of JSON.

usage: python tools/bench_generate.py MODEL.gguf [TOKENS] [THREADS]

From an empty context, ``TOKENS`` tokens are sampled with the default samplers and decoded one by one; an end of text
does not end it. Loading is not counted, and as in llama-bench one token is decoded before the clock starts.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from ggufrun.engine.context import Context, ContextParams
from ggufrun.engine.model import Model, ModelParams
from ggufrun.engine.sampler import Sampler, SamplingParams


def main(path: str, tokens: int = 64, threads: int = 2) -> None:
    """Measure and print."""
    with (
        Model(ModelParams(Path(path))) as model,
        Context(model, ContextParams(n_ctx=tokens + 16, threads=threads)) as context,
    ):
        start = model.vocab.bos if model.vocab.bos is not None else 1
        sampler = Sampler(model, SamplingParams(seed=1), context.n_ctx)
        context.feed([start])
        sampler.sample(context)
        begun = time.perf_counter()
        for _ in range(tokens):
            context.push(sampler.sample(context))
        seconds = time.perf_counter() - begun
        sampler.close()
    print(json.dumps({"tokens_per_second": tokens / seconds, "tokens": tokens, "threads": threads}))


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:4]))
