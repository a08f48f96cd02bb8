"""The context's memory: what is kept, what is decoded, and that the result is the same either way."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest

from ggufrun.engine.context import Context, ContextParams
from ggufrun.engine.decoder import Decoder, Interrupted
from ggufrun.engine.generate import GenerationStats, StopReason, generate
from ggufrun.engine.model import Model
from ggufrun.engine.sampling.sampler import Sampler, SamplingParams
from ggufrun.engine.sequence import ContextFull, common_prefix
from ggufrun.errors import EngineError, UsageError
from ggufrun.native.library import llama
from ggufrun.native.log import ERROR, write

POEM = "[INST] 背一下静夜思 [/INST]"


def greedy(context: Context, ids: list[int], count: int = 12) -> list[int]:
    sampler = Sampler(context.model, SamplingParams(temp=0), context.n_ctx)
    try:
        return list(generate(context, sampler, ids, limit=count))
    finally:
        sampler.close()


@pytest.fixture
def fresh(demo_model: Model) -> Iterator[Context]:
    with Context(demo_model, ContextParams(n_ctx=512, threads=1)) as context:
        yield context


def test_common_prefix() -> None:
    chance = random.Random(1)
    for _ in range(200):
        first = [chance.randrange(3) for _ in range(chance.randrange(12))]
        second = [chance.randrange(3) for _ in range(chance.randrange(12))]
        length = common_prefix(first, second)
        assert first[:length] == second[:length]
        assert length == min(len(first), len(second)) or first[length] != second[length]


def test_only_what_is_new_is_decoded(demo_model: Model, demo_context: Context, fresh: Context) -> None:
    ids = demo_model.vocab.tokenize(POEM, special=True, bos=True)
    assert demo_context.feed(ids[:4]) == 4
    assert demo_context.feed(ids) == len(ids) - 4
    assert demo_context.feed(ids) == 0
    assert greedy(demo_context, ids) == greedy(fresh, ids)
    # Back to the prompt: its last token is decoded again, because only the last one has logits.
    assert demo_context.feed(ids) == 1
    assert greedy(demo_context, ids) == greedy(fresh, ids)


def test_a_changed_middle_is_decoded_again(demo_model: Model, demo_context: Context, fresh: Context) -> None:
    tokenize = demo_model.vocab.tokenize
    other = tokenize("[INST] 背一下春晓 [/INST]", special=True, bos=True)
    ids = tokenize(POEM, special=True, bos=True)
    demo_context.feed(ids)
    greedy(demo_context, ids)
    kept = common_prefix(ids, other)
    assert 0 < kept < len(other)
    assert demo_context.feed(other) == len(other) - kept
    assert list(demo_context.held) == other
    assert greedy(demo_context, other) == greedy(fresh, other)


def test_what_is_written_down_is_what_counts(demo_model: Model, demo_context: Context, fresh: Context) -> None:
    """Ctrl+C may come when a token is in the memory and not yet written down, and a state be saved like that."""
    ids = demo_model.vocab.tokenize(POEM, special=True, bos=True)
    wanted = greedy(fresh, ids)
    demo_context.feed(ids)
    demo_context._held.pop()
    assert demo_context.feed(ids) == 1 and greedy(demo_context, ids) == wanted
    demo_context.feed(ids[:5])
    demo_context._held.extend(ids[5:9])
    assert demo_context.feed(ids) == len(ids) and greedy(demo_context, ids) == wanted
    demo_context.feed(ids[:5])
    demo_context.adopt([])
    assert demo_context.feed(ids) == len(ids) and greedy(demo_context, ids) == wanted


def test_small_batches_give_the_same(demo_model: Model, fresh: Context) -> None:
    ids = demo_model.vocab.tokenize(POEM, special=True, bos=True)
    with Context(demo_model, ContextParams(n_ctx=512, n_batch=5, n_ubatch=2, threads=1)) as small:
        assert greedy(small, ids) == greedy(fresh, ids)


def test_an_interrupted_prompt_can_be_finished(
    demo_model: Model, fresh: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    countdown = 300

    def impatient(decoder: Decoder, data: Any) -> bool:
        """Asks to stop after some operations."""
        nonlocal countdown
        countdown -= 1
        return countdown < 0

    monkeypatch.setattr(Decoder, "_asked_to_stop", impatient)
    ids = demo_model.vocab.tokenize(POEM * 6, special=True, bos=True)
    context = Context(demo_model, ContextParams(n_ctx=512, n_batch=64, n_ubatch=8, threads=1))
    with context:
        with pytest.raises(Interrupted):
            context.feed(ids)
        assert 0 < len(context.held) < len(ids)
        assert list(context.held) == ids[: len(context.held)]
        countdown = 10**9
        assert greedy(context, ids) == greedy(fresh, ids)


def test_an_interrupt_asked_for_before(demo_context: Context) -> None:
    demo_context.interrupt()
    with pytest.raises(Interrupted):
        demo_context.feed([1, 5, 6])
    demo_context.resume()
    assert demo_context.feed([1, 5, 6]) == 3


def test_too_long(demo_context: Context) -> None:
    with pytest.raises(ContextFull, match="513 tokens do not fit into a context of 512"):
        demo_context.feed([5] * 513)
    assert demo_context.feed([5] * 512) == 512
    with pytest.raises(ContextFull):
        demo_context.push(5)


@pytest.mark.parametrize("ids", [[-1], [1, 2048], [1, 2**31 - 1]])
def test_ids_that_do_not_exist(demo_context: Context, ids: list[int]) -> None:
    with pytest.raises(EngineError, match="not in the vocabulary"):
        demo_context.feed(ids)


def test_nothing_to_decode(demo_context: Context) -> None:
    with pytest.raises(EngineError, match="nothing to decode"):
        demo_context.feed([])


def test_a_generation_ends_when_the_context_is_full(demo_model: Model) -> None:
    with Context(demo_model, ContextParams(n_ctx=256, threads=1)) as context:
        ids = demo_model.vocab.tokenize("床" * 200, special=False, bos=True)
        sampler = Sampler(demo_model, SamplingParams(temp=2.0, top_k=0, top_p=1, min_p=0, seed=3), context.n_ctx)
        stats = GenerationStats()
        made: list[int] = []
        while stats.reason is not StopReason.FULL:
            made += generate(context, sampler, ids + made, stats=(stats := GenerationStats()))
        sampler.close()
        assert len(ids) + len(made) == context.n_ctx == 256


def test_a_cache_of_another_type(demo_model: Model) -> None:
    params = ContextParams(n_ctx=256, threads=1, type_k="q8_0", type_v="q8_0")
    with Context(demo_model, params) as context:
        ids = demo_model.vocab.tokenize(POEM, special=True, bos=True)
        assert greedy(context, ids, 1) == greedy(context, ids, 1)


@pytest.mark.parametrize(
    "wrong",
    [
        {"n_ctx": -1},
        {"n_ctx": 1 << 30},
        {"n_batch": 0},
        {"n_ubatch": 0},
        {"threads": 100_000},
        {"type_k": "q9_0"},
        {"flash_attention": "perhaps"},
        {"type_v": "q8_0", "flash_attention": "off"},
    ],
)
def test_settings_that_would_abort(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        ContextParams(**wrong)


def test_a_context_larger_than_the_memory(demo_model: Model) -> None:
    with pytest.raises(EngineError, match="GiB"):
        Context(demo_model, ContextParams(n_ctx=1 << 27))


def test_the_engines_reason_for_no_context(demo_model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        write(ERROR, "llama_init_from_model: the moon is in the way\n")

    monkeypatch.setattr(llama(), "llama_init_from_model", refuse)
    with pytest.raises(EngineError, match="no context of 256 tokens: the moon is in the way"):
        Context(demo_model, ContextParams(n_ctx=256))


@pytest.mark.parametrize(
    ("function", "result"),
    [
        # A recurrent model cannot forget only the end; a sliding window may have lost what came before it.
        ("llama_memory_seq_rm", False),
        ("llama_memory_seq_pos_min", 3),
    ],
)
def test_a_memory_that_cannot_be_cut_is_filled_again(
    demo_context: Context, fresh: Context, monkeypatch: pytest.MonkeyPatch, function: str, result: object
) -> None:
    tokenize = demo_context.model.vocab.tokenize
    demo_context.feed(tokenize(POEM, special=True, bos=True))
    other = tokenize("[INST] 背一下春晓 [/INST]", special=True, bos=True)
    with monkeypatch.context() as patch:
        patch.setattr(llama(), function, lambda *arguments: result)
        assert demo_context.feed(other) == len(other)
    assert greedy(demo_context, other) == greedy(fresh, other)
