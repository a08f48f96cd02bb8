"""Guessing ahead: the same greedy words, the same distribution, fewer passes of the model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ggufrun.engine.context import Context, ContextParams
from ggufrun.engine.draft import DraftModel, DraftParams, Lookup, Speculation, check_vocabularies
from ggufrun.engine.generate import GenerationStats, StopReason, generate
from ggufrun.engine.model import Model, ModelParams
from ggufrun.engine.sampler import Sampler, SamplingParams
from ggufrun.errors import UnsupportedError, UsageError

QUESTION = "[INST] 背一下静夜思 [/INST]"


@pytest.fixture
def wide(demo_model: Model) -> Iterator[Context]:
    with Context(demo_model, ContextParams(n_ctx=512, threads=1, outputs=17)) as context:
        yield context


@pytest.fixture(scope="module")
def small_model(demo_gguf: Callable[[str], Path]) -> Iterator[Model]:
    """A draft: the same model, more coarsely quantized."""
    with Model(ModelParams(demo_gguf("q4_k_m"))) as model:
        yield model


def write(
    context: Context,
    ids: list[int],
    params: SamplingParams,
    count: int,
    speculation: Speculation | None = None,
    keep: int | None = None,
) -> tuple[list[int], GenerationStats]:
    sampler = Sampler(context.model, params, context.n_ctx)
    stats = GenerationStats()
    made = list(generate(context, sampler, ids, limit=count, stats=stats, speculation=speculation, keep=keep))
    sampler.close()
    return made, stats


def prompt(context: Context, text: str = QUESTION) -> list[int]:
    return context.model.vocab.tokenize(text, special=True, bos=True)


@pytest.mark.parametrize("kind", ["lookup", "draft"])
@pytest.mark.parametrize("temp", [0.0, 0.8])
def test_the_same_words(wide: Context, demo_context: Context, small_model: Model, kind: str, temp: float) -> None:
    """With the same seed even sampled answers are the same: every token is drawn from the same logits."""
    params = SamplingParams(temp=temp, seed=4, ignore_eos=True, repeat_penalty=1.1)
    with Context(small_model, ContextParams(n_ctx=512, threads=1)) as guesser:
        drafter = Lookup() if kind == "lookup" else DraftModel(guesser)
        speculation = Speculation(wide, drafter, DraftParams())
        for text in (QUESTION, QUESTION + " 床前明月光，疑是地上霜。\n举头望明月，低头思故乡。</s>" + QUESTION):
            ids = prompt(wide, text)
            plain, alone = write(demo_context, ids, params, 150)
            fast, stats = write(wide, ids, params, 150, speculation)
            assert fast == plain and stats.reason is StopReason.LENGTH
            assert alone.steps == 150 and alone.tokens_per_step == 1.0 < stats.tokens_per_step
            assert stats.steps < alone.steps and 0 < stats.accepted <= stats.drafted
            # What is in the memory is the text, and perhaps guesses that were not looked at any more.
            assert list(wide.held[: len(ids) + 149]) == [*ids, *fast[:149]]
        drafter.close()


def test_an_end_among_the_guesses(wide: Context, small_model: Model) -> None:
    with Context(small_model, ContextParams(n_ctx=512, threads=1)) as guesser:
        speculation = Speculation(wide, DraftModel(guesser), DraftParams())
        made, stats = write(wide, prompt(wide), SamplingParams(temp=0), -1, speculation)
        assert made[-1] == wide.model.vocab.eos and stats.reason is StopReason.END
        assert stats.tokens_per_step > 2
        speculation.drafter.close()


def test_with_a_context_that_shifts(demo_model: Model, small_model: Model) -> None:
    params = SamplingParams(temp=0, ignore_eos=True, repeat_penalty=1.2)
    with (
        Context(demo_model, ContextParams(n_ctx=256, threads=1)) as plain,
        Context(demo_model, ContextParams(n_ctx=256, threads=1, outputs=17)) as wide,
    ):
        speculation = Speculation(wide, Lookup(), DraftParams())
        one, _ = write(plain, prompt(plain), params, 700, keep=7)
        other, stats = write(wide, prompt(wide), params, 700, speculation, keep=7)
        assert one == other and stats.shifts and stats.accepted


class Wrong:
    """Guesses badly, and always as many as it may."""

    def propose(self, ids: list[int], count: int) -> list[int]:
        return [5 + (ids[-1] + n) % 2000 for n in range(count)]

    def close(self) -> None:
        pass


def test_wrong_guesses_change_nothing_and_become_fewer(wide: Context, demo_context: Context) -> None:
    params = SamplingParams(temp=0)
    speculation = Speculation(wide, Wrong(), DraftParams(most=16))  # type: ignore[arg-type]
    plain, _ = write(demo_context, prompt(wide), params, -1)
    slow, stats = write(wide, prompt(wide), params, -1, speculation)
    assert slow == plain and stats.acceptance < 0.1
    assert stats.drafted < 2 * stats.steps


def test_the_distribution_stays(wide: Context, demo_context: Context) -> None:
    """Two tokens drawn often, with guesses that are often right and often wrong, against plain drawing."""
    ids = prompt(wide, "[INST]")
    free = {"temp": 1.5, "top_k": 8, "top_p": 1.0, "min_p": 0.0}

    class Half:
        def propose(self, ids: list[int], count: int) -> list[int]:
            return [likely[ids[-1] % 2]] * min(count, 2)

        def close(self) -> None:
            pass

    counts = []
    first = Counter(write(demo_context, ids, SamplingParams(**free, seed=seed), 2)[0][1] for seed in range(200))  # type: ignore[arg-type]
    likely = [token for token, _ in first.most_common(2)]
    accepted = 0
    for context, offset, guess in ((demo_context, 1000, False), (wide, 5000, True)):
        drawn: Counter[int] = Counter()
        for seed in range(offset, offset + 400):
            speculation = Speculation(wide, Half(), DraftParams()) if guess else None  # type: ignore[arg-type]
            made, stats = write(context, ids, SamplingParams(**free, seed=seed), 4, speculation)  # type: ignore[arg-type]
            accepted += stats.accepted
            drawn[made[1]] += 1
        counts.append(drawn)
    assert accepted > 5
    # Pearson's test of homogeneity over the frequent tokens and the rest; 30 is beyond 1 in 10,000 for 8 cells.
    frequent = [token for token, _ in (counts[0] + counts[1]).most_common(7)]
    cells = [[drawn[token] for token in frequent] for drawn in counts]
    for row, drawn in zip(cells, counts, strict=True):
        row.append(drawn.total() - sum(row))
    statistic = sum((one - other) ** 2 / (one + other) for one, other in zip(*cells, strict=True) if one + other)
    assert statistic < 30


def test_looking_up() -> None:
    lookup = Lookup()
    assert lookup.propose([1, 2, 3], 4) == []
    assert lookup.propose([1, 2, 3, 9, 8, 1, 2, 3], 4) == [9, 8, 1, 2]
    # The longer match counts, then the more recent one.
    assert lookup.propose([1, 2, 3, 9, 8, 1, 2, 3, 7, 2, 3], 1) == [7]
    assert lookup.propose([4, 5], 4) == []


def test_vocabularies_that_do_not_match(demo_model: Model, small_model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    check_vocabularies(demo_model, small_model)
    for name, value in (("size", 99_999), ("kind", 2), ("eos", 77)):
        with monkeypatch.context() as patch:
            patch.setattr(small_model.vocab, name, value)
            with pytest.raises(UnsupportedError, match="do not match"):
                check_vocabularies(demo_model, small_model)
    with monkeypatch.context() as patch:
        patch.setitem(small_model.vocab._pieces, (300, True), b"else")
        with pytest.raises(UnsupportedError, match="token 300"):
            check_vocabularies(demo_model, small_model)


def test_settings() -> None:
    for wrong in ({"most": 0}, {"most": 1000}, {"most": 2, "least": 3}):
        with pytest.raises(UsageError):
            DraftParams(**wrong)


def test_a_memory_that_takes_nothing_back(wide: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(wide.model.__dict__, "recurrent", True)
    with pytest.raises(UnsupportedError, match="cannot take back"):
        Speculation(wide, Lookup(), DraftParams())
