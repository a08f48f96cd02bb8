"""Guessing ahead: the same greedy words, the same distribution, fewer passes of the model."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ggufrun.engine.context import Context, ContextParams
from ggufrun.engine.draft import DraftModel, DraftParams, Lookup, Speculation, check_vocabularies
from ggufrun.engine.generate import GenerationStats, StopReason, generate
from ggufrun.engine.model import Model, ModelParams
from ggufrun.engine.sampling.sampler import Sampler, SamplingParams
from ggufrun.errors import UnsupportedError, UsageError

QUESTION = "[INST] 背一下静夜思 [/INST]"


@pytest.fixture
def untimed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Passes take what they are thought to take: what is guessed does not depend on the machine."""
    monkeypatch.setattr(Speculation, "timed", lambda *arguments: None)


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


@pytest.mark.usefixtures("untimed")
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
            # the first token needs no pass of its own, the prompt's gives it
            assert alone.steps == 149 and alone.tokens_per_step == 1.0 < stats.tokens_per_step
            assert stats.steps < alone.steps and 0 < stats.accepted <= stats.drafted
            # What is in the memory is the text, and perhaps guesses that were not looked at any more.
            assert list(wide.held[: len(ids) + 149]) == [*ids, *fast[:149]]
        drafter.close()


@pytest.mark.usefixtures("untimed")
def test_an_end_among_the_guesses(wide: Context, small_model: Model) -> None:
    with Context(small_model, ContextParams(n_ctx=512, threads=1)) as guesser:
        speculation = Speculation(wide, DraftModel(guesser), DraftParams())
        made, stats = write(wide, prompt(wide), SamplingParams(temp=0), -1, speculation)
        assert made[-1] == wide.model.vocab.eos and stats.reason is StopReason.END
        assert stats.tokens_per_step > 2
        speculation.drafter.close()


@pytest.mark.usefixtures("untimed")
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


class Stub:
    """A drafter that guesses nothing."""

    free = False

    def begin(self) -> None:
        pass

    def propose(self, ids: Sequence[int], count: int) -> list[int]:
        return []

    def close(self) -> None:
        pass


class Wrong(Stub):
    """Guesses badly, and always as many as it may."""

    def propose(self, ids: Sequence[int], count: int) -> list[int]:
        return [5 + (ids[-1] + n) % 2000 for n in range(count)]


@pytest.mark.usefixtures("untimed")
def test_wrong_guesses_change_nothing_and_become_fewer(wide: Context, demo_context: Context) -> None:
    params = SamplingParams(temp=0)
    speculation = Speculation(wide, Wrong(), DraftParams(most=16))
    plain, _ = write(demo_context, prompt(wide), params, -1)
    slow, stats = write(wide, prompt(wide), params, -1, speculation)
    assert slow == plain and stats.acceptance < 0.1
    assert stats.drafted < 2 * stats.steps


@pytest.mark.usefixtures("untimed")
def test_the_distribution_stays(wide: Context, demo_context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens drawn often, with guesses that are often right and often wrong, against plain drawing with other seeds."""
    monkeypatch.setattr("ggufrun.engine.draft.PLAIN_PASSES", 0)
    monkeypatch.setattr("ggufrun.engine.draft.PAUSE", 0)
    ids = prompt(wide, "[INST]")
    free: dict[str, Any] = {"temp": 1.5, "top_k": 8, "top_p": 1.0, "min_p": 0.0, "ignore_eos": True}
    first = Counter(write(demo_context, ids, SamplingParams(**free, seed=seed), 2)[0][1] for seed in range(200))
    likely = [token for token, _ in first.most_common(2)]

    class Half(Stub):
        def propose(self, ids: Sequence[int], count: int) -> list[int]:
            return [likely[ids[-1] % 2]] * min(count, 2)

    draws, places = 700, 3
    counts: list[list[Counter[int]]] = []
    drafted = accepted = 0
    for context, offset, guess in ((demo_context, 1000, False), (wide, 5000, True)):
        drawn: list[Counter[int]] = [Counter() for _ in range(places)]
        speculation = Speculation(wide, Half(), DraftParams()) if guess else None
        for seed in range(offset, offset + draws):
            made, stats = write(context, ids, SamplingParams(**free, seed=seed), places + 1, speculation)
            drafted, accepted = drafted + stats.drafted, accepted + stats.accepted
            for place, counter in enumerate(drawn, 1):
                counter[made[place]] += 1
        counts.append(drawn)
    # Both happen often, or this shows nothing.
    assert accepted > 50 and drafted - accepted > 50
    for one, other in zip(*counts, strict=True):
        statistic, cells = homogeneity(one, other)
        # Beyond the mean of a chi-square by six deviations: less than 1 in 10,000 for so many cells.
        assert statistic < (cells - 1) + 6 * math.sqrt(2 * (cells - 1))
    # The test is able to fail: another temperature is told apart.
    cold: list[Counter[int]] = [Counter() for _ in range(places)]
    for seed in range(9000, 9000 + draws):
        made, _ = write(demo_context, ids, SamplingParams(**{**free, "temp": 1.0}, seed=seed), places + 1)
        for place, counter in enumerate(cold, 1):
            counter[made[place]] += 1
    found = [homogeneity(one, other) for one, other in zip(counts[0], cold, strict=True)]
    assert any(statistic > (cells - 1) + 6 * math.sqrt(2 * (cells - 1)) for statistic, cells in found)


def homogeneity(one: Counter[int], other: Counter[int]) -> tuple[float, int]:
    """Pearson's statistic for two samples of the same size, over the frequent tokens and all the others together."""
    frequent = [token for token, count in (one + other).items() if count >= 20]
    rows = [[drawn[token] for token in frequent] for drawn in (one, other)]
    for row, drawn in zip(rows, (one, other), strict=True):
        row.append(drawn.total() - sum(row))
    pairs = [(a, b) for a, b in zip(*rows, strict=True) if a + b]
    return sum((a - b) ** 2 / (a + b) for a, b in pairs), len(pairs)


def test_the_length_follows_what_comes_true(wide: Context) -> None:
    """With passes that take what they are thought to take at first."""
    speculation = Speculation(wide, Lookup(), DraftParams(most=16))
    lengths = [speculation.length]
    for _ in range(12):
        speculation.learn(max(1, speculation.length), max(1, speculation.length))
        lengths.append(speculation.length)
    assert lengths == sorted(lengths) and 2 <= lengths[0] < 16 and lengths[-1] == 16
    for _ in range(8):
        speculation.learn(16, 1)
        lengths.append(speculation.length)
    assert 0 < lengths[-1] <= 4
    for _ in range(30):
        speculation.learn(1, 0)
    assert speculation.length == 0
    # One guess after each pause; the first are the passes that everything is compared with.
    text = [1, 2, 3, 4, 1, 2, 3]
    guesses = [len(speculation.guess(text, 9)) for _ in range(3 + 1 + 32 + 1)]
    assert guesses == [0] * 3 + [1] + [0] * 32 + [1]


class Hiccup:
    """The first pass of each length takes long."""

    def __init__(self) -> None:
        self.seen: set[int] = set()

    def __call__(self, tokens: int) -> float:
        first = tokens not in self.seen
        self.seen.add(tokens)
        return 100.0 if first else 1 + 0.01 * tokens


@pytest.mark.parametrize(
    ("cost", "rate", "wanted"),
    [
        # As a GPU has it: tokens more cost next to nothing.
        (lambda tokens: 1 + 0.01 * tokens, 0.9, 15),
        # As a processor without memory to wait for: each token costs a pass.
        (lambda tokens: tokens, 0.9, 0),
        # Large batches use other kernels, so that only long guesses pay.
        (lambda tokens: tokens if tokens < 9 else 4 + 0.3 * tokens, 0.97, 15),
        (lambda tokens: tokens if tokens < 9 else 4 + 0.3 * tokens, 0.6, 0),
        # A processor, as measured: 16 tokens at once are computed in fewer steps than 12.
        (lambda tokens: {1: 1, 2: 2.1, 4: 3.2, 8: 6.5, 16: 7.3}.get(tokens, 9), 0.97, 15),
        # One slow pass, the first of its length, says nothing.
        (Hiccup(), 0.97, 15),
    ],
)
def test_the_length_follows_the_times(wide: Context, cost: Callable[[int], float], rate: float, wanted: int) -> None:
    speculation = Speculation(wide, Lookup(), DraftParams(most=16))
    for _ in range(60):
        speculation._rate = rate
        speculation.timed(speculation.length + 1, cost(speculation.length + 1))
        speculation.timed(1, cost(1))
    # 16, the most here, is as good as 15
    assert min(speculation.length, 15) == wanted


def test_a_loop_is_guessed_on(wide: Context) -> None:
    """What comes round again and again is guessed for as long as is asked, not only up to the end of what is there."""
    lookup = Lookup()
    assert lookup.propose([9, 1, 2, 3, 1, 2, 3], 7) == [1, 2, 3, 1, 2, 3, 1]
    assert lookup.propose([9, 1, 2, 3, 1, 2, 3, 8], 7) == []


def test_a_text_that_begins_to_repeat_itself(wide: Context) -> None:
    """Guesses that do not pay are watched on without a pass for them, so that it is seen when they would."""
    speculation = Speculation(wide, Lookup(), DraftParams())
    chance = np.random.default_rng(3)
    wild = chance.integers(5, 2000, 400).tolist()
    verse = chance.integers(5, 2000, 60).tolist()
    text = [*verse, *wild, *verse]
    costs = {1: 1.0, 2: 2.1, 4: 3.2, 8: 6.5, 16: 7.3}
    speculation._rate = 0.2
    passes = []
    place = len(verse)
    while place < len(text) - 16:
        guessed = speculation.guess(text[:place], 16)
        right = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(guessed, text[place:], strict=False)))
        speculation.timed(len(guessed) + 1, costs.get(len(guessed) + 1, 9.0))
        if guessed:
            speculation.learn(len(guessed), right)
        passes.append((place, len(guessed)))
        place += right + 1
    assert all(count <= 1 for start, count in passes if start < len(verse) + len(wild))
    assert sum(count == 15 for start, count in passes if start > len(verse) + len(wild)) >= 1


def test_the_gain_is_measured(wide: Context) -> None:
    """Against the passes without guesses at the beginning, which take as long as passes do."""
    params = SamplingParams(temp=0, ignore_eos=True, repeat_penalty=1.0)
    speculation = Speculation(wide, Lookup(), DraftParams())
    assert speculation.plain_pass == 0.0
    ids = prompt(wide, (QUESTION + " 床前明月光，疑是地上霜。\n举头望明月，低头思故乡。</s>") * 3 + QUESTION)
    _, stats = write(wide, ids, params, 60, speculation)
    assert 0 < speculation.plain_pass == stats.plain_pass < 1
    assert stats.speed_up == pytest.approx(stats.tokens * stats.plain_pass / stats.time)


def test_a_draft_model_that_is_not_sure(wide: Context, small_model: Model) -> None:
    """It stops where it gives its own guess less than it is asked for; a hair under 1, that is almost everywhere."""
    ids = prompt(wide, "[INST] 月")
    with Context(small_model, ContextParams(n_ctx=512, threads=1)) as guesser:
        bold, shy = DraftModel(guesser), DraftModel(guesser, sure=0.999999)
        assert len(bold.propose(ids, 8)) == 8 and len(shy.propose(ids, 8)) < 8
        likely = DraftModel(guesser, sure=0.3).propose(ids, 8)
        assert bold.propose(ids, 8)[: len(likely)] == likely
        for drafter in (bold, shy):
            drafter.close()


def test_tokens_that_only_one_vocabulary_has(wide: Context, small_model: Model) -> None:
    """Vocabularies of one family differ by a few tokens at the end: those are not guessed, nor guessed after."""
    size = wide.model.vocab.size

    class Foreign(Stub):
        def propose(self, ids: Sequence[int], count: int) -> list[int]:
            return [5, size, 6][:count]

    params = SamplingParams(temp=0, ignore_eos=True)
    speculation = Speculation(wide, Foreign(), DraftParams(least=1))
    ids = prompt(wide, QUESTION)
    guessed, stats = write(wide, ids, params, 60, speculation)
    assert guessed == write(wide, ids, params, 60)[0] and stats.drafted > 0
    with Context(small_model, ContextParams(n_ctx=512, threads=1)) as guesser:
        drafter = DraftModel(guesser)
        assert drafter.propose([*ids, small_model.vocab.size, *ids * 4], 4) == []
        drafter.begin()
        assert len(drafter.propose(ids, 4)) == 4
        drafter.close()


class Watched(list[int]):
    """Counts the tokens that are looked at."""

    looked_at = 0

    def __getitem__(self, place: Any) -> Any:
        found = super().__getitem__(place)
        self.looked_at += len(found) if isinstance(found, list) else 1
        return found

    def __iter__(self) -> Iterator[int]:
        self.looked_at += len(self)
        return super().__iter__()


def test_a_guess_looks_at_what_is_new(small_model: Model, demo_context: Context) -> None:
    """However long the text, and told that its beginning has changed, at all of it."""
    text = Watched(prompt(demo_context, QUESTION) * 20)
    assert len(text) > 200
    with Context(small_model, ContextParams(n_ctx=512, threads=1)) as guesser:
        for drafter in (DraftModel(guesser), Lookup()):
            drafter.propose(text, 8)
            for _ in range(5):
                text.append(7)
                text.looked_at = 0
                drafter.propose(text, 8)
                assert 0 < text.looked_at < 30
            drafter.begin()
            text[5] = 9
            text.looked_at = 0
            guessed = drafter.propose(text, 8)
            assert text.looked_at >= len(text)
            fresh: DraftModel | Lookup = Lookup()
            if isinstance(drafter, DraftModel):
                assert list(guesser.held[: len(text)]) == list(text)
                fresh = DraftModel(guesser)
            assert fresh.propose(list(text), 8) == guessed
            drafter.close()
            fresh.close()


def test_looking_up() -> None:
    lookup = Lookup()
    assert lookup.propose([1, 2, 3], 4) == []
    assert lookup.propose([1, 2, 3, 9, 8, 1, 2, 3], 4) == [9, 8, 1, 2]
    # The longer match counts, then the more recent one.
    assert lookup.propose([1, 2, 3, 9, 8, 1, 2, 3, 7, 2, 3], 1) == [7]
    lookup.begin()
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
