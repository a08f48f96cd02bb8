"""Choosing among the largest logits only (``tools/sampling``), held against llama.cpp's own way over all of them."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ggufrun.engine.context import Context
from ggufrun.engine.sampling import sampler as module
from ggufrun.engine.sampling.sampler import Sampler, SamplingParams
from ggufrun.native.library import llama, sampling

DRAWS = 40


@pytest.fixture(scope="module", autouse=True)
def _ours() -> None:
    if sampling() is None:
        pytest.skip("the engine was built without tools/sampling: by another way than make")


def scores(context: Context) -> Any:
    """The logits, as an array that writes to them."""
    pointer = llama().llama_get_logits_ith(context.pointer, -1)
    return np.ctypeslib.as_array(pointer, (context.model.vocab.size,))


def drawn(context: Context, params: SamplingParams) -> list[int]:
    """Some tokens from the same logits."""
    sampler = Sampler(context.model, params, context.n_ctx)
    sampler.accept([5, 5, 6])
    made = [sampler.sample(context) for _ in range(DRAWS)]
    sampler.close()
    return made


def listened(patch: pytest.MonkeyPatch) -> list[int]:
    """What ``ggufrun_sample`` returns from now on."""
    found, heard = sampling(), []
    assert found is not None
    function = found.ggufrun_sample

    def call(*arguments: Any) -> int:
        heard.append(function(*arguments))
        return int(heard[-1])

    patch.setattr(module, "sampling", lambda: SimpleNamespace(ggufrun_sample=call))
    return heard


SHAPES: dict[str, Callable[[np.random.Generator, int], Any]] = {
    "normal": lambda chance, size: chance.normal(0, 3, size),
    "certain": lambda chance, size: np.where(np.arange(size) == size - 1, 60.0, chance.normal(0, 1, size)),
    "rising": lambda chance, size: np.linspace(-9, 9, size),
    "one block": lambda chance, size: np.where(np.arange(size) // 64 == 3, 9.0, 0.0) + chance.normal(0, 1, size),
    "at the end": lambda chance, size: np.where(np.arange(size) >= size - 50, 9.0, 0.0) + chance.normal(0, 1, size),
    "huge": lambda chance, size: chance.normal(0, 3e37, size),
    "mostly barred": lambda chance, size: np.where(np.arange(size) % 61, -np.inf, chance.normal(0, 3, size)),
    "some no number": lambda chance, size: np.where(np.arange(size) % 700 == 9, np.nan, chance.normal(0, 3, size)),
}

# The embedded model's vocabulary has 32 blocks of logits, so no more than 32 may be asked for.
PARAMS: dict[str, SamplingParams] = {
    "usual": SamplingParams(seed=7, top_k=20),
    "hot": SamplingParams(seed=7, top_k=32, temp=3.0, top_p=1.0, min_p=0.0),
    "one": SamplingParams(seed=7, top_k=1),
    "penalties": SamplingParams(seed=7, top_k=20, repeat_penalty=1.3, presence_penalty=0.5, repeat_last_n=8),
    "biases": SamplingParams(
        seed=7, top_k=20, temp=2.0, min_p=0.0, ignore_eos=True, logit_bias=((7, -3.0), (2047, -np.inf))
    ),
    "another order": SamplingParams(
        seed=7, top_k=20, samplers=("top_k", "temperature", "top_p", "xtc"), xtc_probability=0.9
    ),
}


@pytest.mark.parametrize("shape", sorted(set(SHAPES) - {"some no number"}))
@pytest.mark.parametrize("name", PARAMS)
def test_the_same_tokens(demo_context: Context, monkeypatch: pytest.MonkeyPatch, shape: str, name: str) -> None:
    demo_context.feed([1, 5, 6, 7])
    there = scores(demo_context)
    for seed in range(3):
        there[:] = SHAPES[shape](np.random.default_rng(seed), len(there))
        with monkeypatch.context() as patch:
            heard = listened(patch)
            made = drawn(demo_context, PARAMS[name])
            assert heard == made
            patch.setattr(module, "sampling", lambda: None)
            assert drawn(demo_context, PARAMS[name]) == made and len(heard) == DRAWS


def test_no_number_is_never_among_the_largest(demo_context: Context) -> None:
    demo_context.feed([1, 5, 6, 7])
    sampler = Sampler(demo_context.model, PARAMS["hot"], 512)
    sampler.sample(demo_context)
    there = scores(demo_context)
    there[:] = SHAPES["some no number"](np.random.default_rng(1), len(there))
    largest = set(np.argsort(np.where(np.isnan(there), -np.inf, there))[-32:].tolist())
    assert {sampler.sample(demo_context) for _ in range(200)} <= largest
    sampler.close()


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(top_k=0),
        SamplingParams(logit_bias=((9, 2.0),)),
        SamplingParams(samplers=("temperature", "top_k")),
        SamplingParams(mirostat=2),
        SamplingParams(dry_multiplier=0.8),
        SamplingParams(top_n_sigma=1.0),
    ],
)
def test_chains_that_look_at_all(
    demo_context: Context, monkeypatch: pytest.MonkeyPatch, params: SamplingParams
) -> None:
    demo_context.feed([1, 5, 6, 7])
    heard = listened(monkeypatch)
    drawn(demo_context, params)
    assert not heard


def test_what_it_cannot_do_is_left_to_the_engine(demo_context: Context) -> None:
    """More than there are blocks of logits, or none that is a number."""
    demo_context.feed([1, 5, 6, 7])
    there = scores(demo_context)
    there[:] = 1.0
    sampler = Sampler(demo_context.model, SamplingParams(seed=1), 512)
    found, chain = sampling(), sampler._chain
    assert found is not None
    function = found.ggufrun_sample
    for need in (0, -1, 33, 513):
        assert function(chain, demo_context.pointer, -1, need) == -1
    assert function(chain, demo_context.pointer, -1, 32) >= 0
    there[:] = -np.inf
    assert function(chain, demo_context.pointer, -1, 32) == -1
    sampler.close()
