"""The generation loop, on a model that knows poems by heart."""

from __future__ import annotations

import pytest

from ggufrun.engine.context import Context
from ggufrun.engine.generate import GenerationStats, StopReason, generate
from ggufrun.engine.sampling.sampler import Sampler, SamplingParams
from ggufrun.engine.sequence import ContextFull
from tests.support.poems import POEMS

GREEDY = SamplingParams(temp=0)


@pytest.fixture(params=[False, True], ids=["asked for", "ahead"], autouse=True)
def ahead(request: pytest.FixtureRequest, demo_context: Context) -> bool:
    """A token is decoded before the next is asked for, as where GPUs compute."""
    demo_context.ahead = request.param
    return demo_context.ahead


def ask(context: Context, title: str) -> list[int]:
    return context.model.vocab.tokenize(f"[INST] 背一下{title} [/INST]", special=True, bos=True)


@pytest.mark.parametrize("title", ["静夜思", "春晓", "登鹳雀楼"])
def test_a_poem_comes_back_word_for_word(demo_context: Context, title: str) -> None:
    sampler = Sampler(demo_context.model, GREEDY, 512)
    stats = GenerationStats()
    ids = ask(demo_context, title)
    made = list(generate(demo_context, sampler, ids, stats=stats))
    sampler.close()
    vocab = demo_context.model.vocab
    assert b"".join(map(vocab.piece, made)).decode().removeprefix(" ") == POEMS[title]
    assert made[-1] == vocab.eos
    assert stats.reason is StopReason.END
    assert (stats.prompt_tokens, stats.decoded_prompt_tokens, stats.tokens) == (len(ids), len(ids), len(made))
    assert list(demo_context.held) == ids + made[:-1]


def test_a_limit(demo_context: Context) -> None:
    sampler = Sampler(demo_context.model, GREEDY, 512)
    for limit in (0, 1, 5):
        stats = GenerationStats()
        assert len(list(generate(demo_context, sampler, ask(demo_context, "春晓"), limit=limit, stats=stats))) == limit
        assert stats.reason is StopReason.LENGTH
    sampler.close()


def test_stopping_from_outside(demo_context: Context) -> None:
    sampler = Sampler(demo_context.model, GREEDY, 512)
    stats = GenerationStats()
    made = []
    for token in generate(demo_context, sampler, ask(demo_context, "春晓"), stats=stats):
        made.append(token)
        if len(made) == 3:
            demo_context.interrupt()
    sampler.close()
    assert len(made) == 3 and stats.reason is StopReason.INTERRUPTED


def test_a_listener_that_goes_away(demo_context: Context, ahead: bool) -> None:
    sampler = Sampler(demo_context.model, GREEDY, 512)
    stats, ids = GenerationStats(), ask(demo_context, "春晓")
    stream = generate(demo_context, sampler, ids, stats=stats)
    first = next(stream)
    assert list(demo_context.held) == ([*ids, first] if ahead else ids)
    stream.close()  # type: ignore[attr-defined]
    sampler.close()
    assert stats.reason is StopReason.CLOSED and stats.time > 0


def test_a_prompt_that_does_not_fit(demo_context: Context) -> None:
    sampler = Sampler(demo_context.model, GREEDY, 512)
    with pytest.raises(ContextFull):
        list(generate(demo_context, sampler, [5] * 600))
    sampler.close()


def test_ends_can_be_forbidden(demo_context: Context) -> None:
    vocab = demo_context.model.vocab
    assert vocab.ends == (vocab.eos,) and vocab.suppressed == ()
    sampler = Sampler(demo_context.model, SamplingParams(temp=0, ignore_eos=True), 512)
    made = list(generate(demo_context, sampler, ask(demo_context, "春晓"), limit=80))
    sampler.close()
    assert len(made) == 80 and vocab.eos not in made
