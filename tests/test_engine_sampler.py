"""The sampler chain, held against the same rules written out in numpy over the model's logits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ggufrun.engine.context import Context
from ggufrun.engine.generate import generate
from ggufrun.engine.sampling.params import logit_bias, sampler_letters, sampler_names
from ggufrun.engine.sampling.sampler import RANDOM_SEED, Sampler, SamplingParams
from ggufrun.errors import EngineError, UsageError
from ggufrun.native.library import llama

PROMPT = "[INST] 背一下静夜思 [/INST] 床前明月光"


def logits(context: Context) -> Any:
    pointer = llama().llama_get_logits_ith(context.pointer, -1)
    return np.ctypeslib.as_array(pointer, (context.model.vocab.size,)).astype(np.float64)


def prompt(context: Context) -> list[int]:
    ids = context.model.vocab.tokenize(PROMPT, special=True, bos=True)
    context.feed(ids)
    return ids


def draw(context: Context, params: SamplingParams, seen: list[int] | None = None) -> int:
    sampler = Sampler(context.model, params, context.n_ctx)
    sampler.accept(seen or [])
    token = sampler.sample(context)
    sampler.close()
    return token


def test_zero_temperature_takes_the_most_probable(demo_context: Context) -> None:
    prompt(demo_context)
    assert draw(demo_context, SamplingParams(temp=0)) == int(logits(demo_context).argmax())


def test_penalties_see_the_prompt(demo_context: Context) -> None:
    ids = prompt(demo_context)
    scores = logits(demo_context)
    best = int(scores.argmax())
    seen = [*ids, best, best]
    for penalty, presence, frequency in ((1.0, 60.0, 0.0), (1.0, 0.0, 30.0), (5.0, 0.0, 0.0), (3.0, 20.0, 5.0)):
        expected = scores.copy()
        for token in set(seen):
            score = expected[token]
            score = score * penalty if score <= 0 else score / penalty
            expected[token] = score - seen.count(token) * frequency - presence
        params = SamplingParams(
            temp=0, repeat_penalty=penalty, presence_penalty=presence, frequency_penalty=frequency, repeat_last_n=-1
        )
        assert draw(demo_context, params, seen) == int(expected.argmax())
        # Every other score is negative here, so dividing alone cannot dethrone the best.
        assert (int(expected.argmax()) != best) == (presence + frequency > 0)


def test_penalties_look_back_so_far_and_no_farther(demo_context: Context) -> None:
    prompt(demo_context)
    best = int(logits(demo_context).argmax())
    params = SamplingParams(temp=0, presence_penalty=60.0, repeat_last_n=4)
    assert draw(demo_context, params, [best, 5, 5, 5]) != best
    assert draw(demo_context, params, [best, 5, 5, 5, 5]) == best


def test_filters_leave_only_what_they_should(demo_context: Context) -> None:
    demo_context.feed(demo_context.model.vocab.tokenize("[INST]", special=True, bos=True))
    scores = logits(demo_context)
    order = np.argsort(-scores)
    chances = np.exp(scores - scores.max())
    chances /= chances.sum()
    nucleus = int(np.searchsorted(np.cumsum(chances[order]), 0.6)) + 1
    likely = int((chances >= 0.2 * chances.max()).sum())
    free = {"top_k": 0, "top_p": 1.0, "min_p": 0.0, "temp": 1.0}
    for changed, allowed in (
        ({"top_k": 3}, 3),
        ({"top_p": 0.6}, nucleus),
        ({"min_p": 0.2}, likely),
        ({"top_k": 1}, 1),
    ):
        drawn = {draw(demo_context, SamplingParams(**{**free, **changed}, seed=seed)) for seed in range(60)}  # type: ignore[arg-type]
        assert drawn <= set(order[:allowed].tolist())


def test_a_seed_repeats_itself(demo_context: Context) -> None:
    ids = prompt(demo_context)

    def run(seed: int) -> list[int]:
        sampler = Sampler(demo_context.model, SamplingParams(temp=3.0, top_k=0, top_p=1, min_p=0, seed=seed), 512)
        made = list(generate(demo_context, sampler, ids, limit=16))
        sampler.close()
        return made

    assert run(7) == run(7)
    assert run(7) != run(8)
    assert run(RANDOM_SEED) != run(-1)


def test_no_logits_yet(demo_context: Context) -> None:
    with pytest.raises(EngineError, match="no logits"):
        draw(demo_context, SamplingParams())


@pytest.mark.parametrize(
    "wrong",
    [
        {"temp": float("nan")},
        {"temp": float("inf")},
        {"top_p": 1.5},
        {"min_p": -0.1},
        {"typical": 2.0},
        {"repeat_penalty": 0.0},
        {"repeat_penalty": float("inf")},
        {"presence_penalty": float("nan")},
        {"repeat_last_n": -2},
        {"top_k": 2**40},
        {"seed": 2**32},
        {"seed": -2},
        {"mirostat": 3},
        {"dry_base": 0.5},
        {"dry_penalty_last_n": 1 << 30},
        {"xtc_probability": 1.1},
        {"samplers": ("top_k", "nothing")},
        {"logit_bias": ((1, float("inf")),)},
    ],
)
def test_settings_that_make_no_sense(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        SamplingParams(**wrong)


def test_penalties_by_either_way_are_the_same(demo_context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those written into a few logits, and llama.cpp's own over the whole vocabulary: the same tokens are drawn."""
    ids = prompt(demo_context)
    params = SamplingParams(
        temp=2.5,
        top_p=1,
        min_p=0,
        repeat_penalty=1.3,
        presence_penalty=0.4,
        frequency_penalty=0.3,
        seed=5,
        ignore_eos=True,
    )

    def run(worthwhile: int) -> list[int]:
        monkeypatch.setattr("ggufrun.engine.sampling.sampler.WORTHWHILE", worthwhile)
        sampler = Sampler(demo_context.model, params, 512)
        sampler.accept(ids)
        made = list(generate(demo_context, sampler, ids, limit=200))
        sampler.close()
        return made

    ours, native = run(0), run(10**9)
    assert ours == native and len(ours) == 200


def test_sampling_leaves_the_logits_as_they_were(demo_context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ggufrun.engine.sampling.sampler.WORTHWHILE", 0)
    ids = prompt(demo_context)
    before = logits(demo_context)
    draw(demo_context, SamplingParams(repeat_penalty=2.0, presence_penalty=3.0), ids)
    assert (logits(demo_context) == before).all()


def test_orders_of_samplers() -> None:
    assert sampler_names("Top-K;nucleus; TEMP ;topnsigma") == ("top_k", "top_p", "temperature", "top_n_sigma")
    assert sampler_letters("edskypmxt") == SamplingParams().samplers
    with pytest.raises(UsageError, match="no sampler 'infill'"):
        sampler_names("top_k;infill")
    with pytest.raises(UsageError, match="no sampler 'q'"):
        sampler_letters("kq")


def test_logit_biases(demo_context: Context) -> None:
    assert [logit_bias(text) for text in ("15+1.5", "3-2", "7-inf")] == [(15, 1.5), (3, -2.0), (7, -np.inf)]
    for text in ("15", "+1", "a+1", "1+x"):
        with pytest.raises(UsageError):
            logit_bias(text)
    with pytest.raises(UsageError, match="not in the vocabulary"):
        draw(demo_context, SamplingParams(logit_bias=((99_999, 1.0),)))


@pytest.mark.parametrize("temp", [0.0, 0.8])
def test_logits_that_are_no_numbers(demo_context: Context, temp: float) -> None:
    """As damaged weights make them; some of llama.cpp's samplers would end the process."""
    prompt(demo_context)
    row = np.ctypeslib.as_array(llama().llama_get_logits_ith(demo_context.pointer, -1), (2048,))
    row[7] = np.nan
    with pytest.raises(EngineError, match="not numbers"):
        draw(demo_context, SamplingParams(temp=temp))
