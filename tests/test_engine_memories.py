"""Models with a sliding window or a recurrent state: what of their past can be cut out, and what they say after it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from ggufrun.chat.formats import styles
from ggufrun.chat.formats.plain import PlainPrompt
from ggufrun.chat.formats.prompt import StylePrompt
from ggufrun.chat.session import Done, Session
from ggufrun.engine.batch import Batch, Task
from ggufrun.engine.context import Context, ContextParams
from ggufrun.engine.draft import DraftParams, Lookup, Speculation
from ggufrun.engine.generate import GenerationStats, generate
from ggufrun.engine.guidance import Guidance
from ggufrun.engine.model import Model, ModelParams
from ggufrun.engine.sampling.sampler import Sampler, SamplingParams
from ggufrun.errors import UnsupportedError
from ggufrun.native.library import llama
from tests.conftest import Oracle
from tests.oracles import chat_oracle
from tests.support import memories

ENDLESS = SamplingParams(temp=0, ignore_eos=True)
SMALL: dict[str, Any] = {"n_ctx": 1024, "n_batch": 32, "n_ubatch": 32, "threads": 1}


@pytest.fixture(scope="module", params=memories.MODELS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = memories.write(tmp_path_factory.mktemp("memories"), request.param)
    with Model(ModelParams(path)) as opened:
        yield opened


@pytest.fixture
def make(model: Model) -> Any:
    made: list[Context] = []

    def context(**more: Any) -> Context:
        made.append(Context(model, ContextParams(**{**SMALL, **more})))
        return made[-1]

    yield context
    for one in made:
        one.close()


def logits(context: Context) -> Any:
    pointer = llama().llama_get_logits_ith(context.pointer, -1)
    return np.array(np.ctypeslib.as_array(pointer, (context.model.vocab.size,)))


def write(context: Context, ids: list[int], count: int, **more: Any) -> tuple[list[int], GenerationStats]:
    sampler, stats = Sampler(context.model, ENDLESS, context.n_ctx), GenerationStats()
    made = list(generate(context, sampler, ids, limit=count, stats=stats, **more))
    sampler.close()
    return made, stats


def same(context: Context, fresh: Context) -> None:
    """Both hold the same, and say the same."""
    assert list(context.held) == list(fresh.held)
    assert np.allclose(logits(context), logits(fresh), atol=1e-3)


def test_as_llama_completion_wrote(model: Model, make: Callable[..., Context]) -> None:
    session = Session(make(), PlainPrompt(model.vocab), ENDLESS, limit=48)
    *_, done = session.open(memories.PROMPT)
    assert isinstance(done, Done)
    golden = chat_oracle.read("memories.json")[model.architecture]["text"]
    assert session.past[-1].answer == golden.removesuffix("\n\n") or session.past[-1].answer.strip() == golden.strip()
    assert len(set(done.generated)) > 12


def test_as_llama_completion_writes_today(model: Model, oracle: Oracle) -> None:
    golden = chat_oracle.read("memories.json")[model.architecture]
    assert memories.record(oracle.binaries / "llama-completion", model.path) == golden


def test_what_follows_needs_no_replay(model: Model, make: Callable[..., Context]) -> None:
    """The usual turn: what was held stays, and only what is new is decoded."""
    ids = model.vocab.tokenize(memories.PROMPT, special=False, bos=True)
    context = make()
    made, stats = write(context, ids, 20)
    assert stats.decoded_prompt_tokens == len(ids)
    more = [*ids, *made, *model.vocab.tokenize("月", special=False)]
    # the last of the 20 is decoded only now
    assert context.feed(more) == len(more) - len(ids) - 19
    fresh = make()
    fresh.feed(more)
    same(context, fresh)


@pytest.mark.parametrize("keep", [0, 5, 100, 300, 310])
def test_taking_back(model: Model, make: Callable[..., Context], keep: int) -> None:
    ids = model.vocab.tokenize(memories.PROMPT * 2, special=False, bos=True)[:330]
    other = [*ids[:keep], *model.vocab.tokenize("春眠不觉晓", special=False, bos=not keep)]
    context, fresh = make(), make()
    write(context, ids, 10)
    decoded = context.feed(other)
    fresh.feed(other)
    same(context, fresh)
    if model.recurrent:
        assert decoded == len(other)
    assert write(context, other, 20)[0] == write(fresh, other, 20)[0]


@pytest.mark.parametrize("model", ["gemma2"], indirect=True)
def test_a_window_that_is_still_there_is_used(model: Model, make: Callable[..., Context]) -> None:
    ids = model.vocab.tokenize(memories.PROMPT * 2, special=False, bos=True)[:400]
    context = make()
    context.feed(ids)
    oldest = llama().llama_memory_seq_pos_min(context.memory, 0)
    # Old positions are gone, or this test shows nothing.
    assert oldest > model.window
    assert context.feed([*ids[:390], 7]) == 1
    fresh = make()
    fresh.feed([*ids[:390], 7])
    same(context, fresh)
    # With all of the past kept, any cut will do.
    full = make(swa_full=True)
    full.feed(ids)
    assert full.feed([*ids[:50], 7]) == 1


def test_shifts(model: Model, make: Callable[..., Context]) -> None:
    """What is left after each shift is what a context knows that never held anything else."""
    ids = model.vocab.tokenize(memories.PROMPT * 3, special=False, bos=True)[:450]
    context, fresh = make(n_ctx=512), make(n_ctx=512)
    made, stats = write(context, ids, 600, keep=9)
    assert len(made) == 600 and len(stats.shifts) >= 2
    held = list(context.held)
    assert held[:9] == ids[:9]
    left = [*ids, *made]
    for shift in stats.shifts:
        shift.apply(left)
    assert held == left[: len(held)]
    # The last shift decoded anew what it left, so all that is held was computed from itself alone.
    context.feed([*held, 7])
    fresh.feed([*held, 7])
    same(context, fresh)


def test_a_conversation(model: Model, make: Callable[..., Context]) -> None:
    """/undo, /regen, /edit and a shift, each answered as a context does that sees the ids for the first time."""
    context = make(n_ctx=512)
    style = StylePrompt(model.vocab, styles.STYLES["llama-2"])
    session = Session(context, style, ENDLESS, system="Be kind. " * 8, limit=30, shift=True)

    def check(done: Done) -> None:
        if done.stats.shifts:
            return
        fresh = make(n_ctx=512)
        ids = session.ids[: len(session.ids) - len(done.generated)]
        assert write(fresh, ids, 30)[0] == list(done.generated)

    def listen(question: str) -> Done:
        *_, done = session.ask(question)
        assert isinstance(done, Done)
        check(done)
        return done

    listen("背一下静夜思 " * 6)
    listen("作者是谁？")
    *_, done = session.again()
    assert isinstance(done, Done)
    check(done)
    session.undo()
    listen("背一下春晓")
    session.undo()
    session.undo()
    listen("你好")
    shifted = sum(len(listen("背一下登鹳雀楼 " * 8).stats.shifts) for _ in range(6))
    assert shifted


def test_several_at_once(model: Model, make: Callable[..., Context]) -> None:
    prompts = [model.vocab.tokenize(text, special=False, bos=True) for text in ("春眠", memories.PROMPT, "床前明月光")]
    context = make(n_ctx=2048, sequences=3, outputs=3)
    tasks = [Task(number, ids, ENDLESS, lambda _: False, 24, 1024) for number, ids in enumerate(prompts)]
    assert len(list(Batch(context).run(tasks))) == 3
    for task in tasks:
        # Random weights say many things with almost the same force, and a batch rounds otherwise.
        alone = make()
        for count, token in enumerate(task.generated):
            alone.feed([*task.ids, *task.generated[:count]])
            row = logits(alone)
            row[list(model.vocab.ends)] = -np.inf
            assert row[token] > row.max() - 0.02


def test_no_guesses(model: Model, make: Callable[..., Context]) -> None:
    with pytest.raises(UnsupportedError, match="take back"):
        Speculation(make(outputs=17), Lookup(), DraftParams())


def test_guidance(model: Model, make: Callable[..., Context]) -> None:
    """Both sides of classifier-free guidance in one memory, against two contexts that are fed all of it each time."""
    ids = model.vocab.tokenize(memories.PROMPT, special=False, bos=True)
    negative = model.vocab.tokenize("春眠不觉晓", special=False, bos=True)
    context = make(sequences=2, separate=True, outputs=2)
    guidance = Guidance(context, 1.5)
    guidance.prompt(negative)
    made, _ = write(context, ids, 12, guidance=guidance)
    one, other = make(), make()
    for count, token in enumerate(made):
        rows = []
        for alone, start in ((one, ids), (other, negative)):
            alone.feed([*start, *made[:count]])
            row = logits(alone).astype(np.float64)
            rows.append(row - row.max() - np.log(np.exp(row - row.max()).sum()))
        mixed = rows[1] + 1.5 * (rows[0] - rows[1])
        mixed[list(model.vocab.ends)] = -np.inf
        assert mixed[token] > mixed.max() - 0.05
