"""Speeds of a conversation as `ggufrun chat` has it, drawing aside: one line of JSON.

usage: python -m tools.bench.generate MODEL.gguf tg|pp|turn [TOKENS] [THREADS]

``tg``: an answer of ``TOKENS`` tokens with the default samplers, from an almost empty context, through the session that
turns tokens into text; an end of text does not end it. ``pp``: a prompt of ``TOKENS`` tokens is read. ``turn``: how
many tokens the second question of a conversation costs beside its own, and the seconds until its first piece of text.
Loading is not counted, and as in llama-bench something is decoded before the clock starts.
"""

from __future__ import annotations

import json
import random
import sys
import time
from pathlib import Path

from ggufrun.chat.formats.prompt import StylePrompt
from ggufrun.chat.formats.styles import STYLES
from ggufrun.chat.session import Done, Session, Start
from ggufrun.engine.context import Context, ContextParams
from ggufrun.engine.model import Model, ModelParams
from ggufrun.engine.sampling.sampler import SamplingParams


def main(path: str, what: str, tokens: int = 64, threads: int = 2) -> None:
    """Measure and print."""
    params = ContextParams(n_ctx=tokens + 256, threads=threads)
    with Model(ModelParams(Path(path))) as model, Context(model, params) as context:
        session = Session(
            context,
            StylePrompt(model.vocab, STYLES["none" if what == "tg" else "alpaca-2"]),
            SamplingParams(seed=1, ignore_eos=True),
            limit=tokens,
        )
        found = {"tg": _generation, "pp": _prompt, "turn": _turn}[what](session, tokens)
    print(json.dumps({**found, "tokens": tokens, "threads": threads}))


def _generation(session: Session, tokens: int) -> dict[str, float]:
    session.limit = 1
    for _ in session.ask("A"):
        pass
    session.clear()
    session.limit = tokens
    begun = time.perf_counter()
    for event in session.ask("A"):
        if isinstance(event, Start):
            continue
    seconds = time.perf_counter() - begun
    return {"tokens_per_second": tokens / seconds}


def _prompt(session: Session, tokens: int) -> dict[str, float]:
    context = session.context
    chance = random.Random(1)
    ids = [chance.randrange(3, context.model.vocab.size) for _ in range(tokens)]
    context.feed(ids)
    context.clear()
    begun = time.perf_counter()
    context.feed(ids)
    seconds = time.perf_counter() - begun
    return {"tokens_per_second": tokens / seconds}


def _turn(session: Session, tokens: int) -> dict[str, float]:
    for _ in session.ask("A " * (tokens // 2)):
        pass
    begun, first, own, done = time.perf_counter(), 0.0, 0, None
    for event in session.ask("B"):
        if isinstance(event, Start):
            own = len(event.new_ids)
        elif not first:
            first = time.perf_counter() - begun
        done = event if isinstance(event, Done) else done
    assert done is not None
    return {
        "first_text": first,
        "prompt_time": done.stats.prompt_time,
        "new": own,
        "decoded": done.stats.decoded_prompt_tokens,
    }


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:5]))
