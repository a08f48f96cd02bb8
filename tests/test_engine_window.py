"""A full context: what goes, what stays, and that the memory's positions stay exact."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ggufrun.chat.formats import styles
from ggufrun.chat.formats.prompt import StylePrompt
from ggufrun.chat.formats.template import ChatTemplate
from ggufrun.chat.formats.template_prompt import TemplatePrompt
from ggufrun.chat.session import Done, Session
from ggufrun.engine.context import Context, ContextParams
from ggufrun.engine.context_shift import Shift, fill, next_shift
from ggufrun.engine.generate import GenerationStats, StopReason, generate
from ggufrun.engine.model import Model
from ggufrun.engine.sampling.sampler import Sampler, SamplingParams
from ggufrun.engine.sequence import ContextFull
from ggufrun.native.library import llama

ENDLESS = SamplingParams(temp=0, ignore_eos=True, repeat_penalty=1.2)


@pytest.fixture
def small(demo_model: Model) -> Iterator[Context]:
    with Context(demo_model, ContextParams(n_ctx=256, threads=1)) as context:
        yield context


def positions(context: Context) -> tuple[int, int]:
    memory = llama().llama_get_memory(context.pointer)
    return llama().llama_memory_seq_pos_min(memory, 0), llama().llama_memory_seq_pos_max(memory, 0)


def test_half_goes_and_the_beginning_stays() -> None:
    assert next_shift(255, 0) == Shift(0, 127)
    assert next_shift(255, 53) == Shift(53, 101)
    assert next_shift(10, 8) == Shift(8, 1)
    for held, keep in ((10, 9), (10, 10), (10, 11)):
        with pytest.raises(ContextFull):
            next_shift(held, keep)
    ids = list(range(10))
    next_shift(10, 2).apply(ids)
    assert ids == [0, 1, 6, 7, 8, 9]


@pytest.mark.parametrize("movable", [True, False])
def test_many_shifts(small: Context, demo_model: Model, monkeypatch: pytest.MonkeyPatch, movable: bool) -> None:
    if not movable:
        # As with a sliding window, or an architecture whose positions cannot be moved: what is left is decoded anew.
        monkeypatch.setattr(llama(), "llama_memory_can_shift", lambda memory: False)
    ids = demo_model.vocab.tokenize("[INST] 背一下静夜思 [/INST]", special=True, bos=True)
    sampler = Sampler(demo_model, ENDLESS, small.n_ctx)
    stats = GenerationStats()
    made = list(generate(small, sampler, ids, limit=1000, stats=stats, keep=7))
    sampler.close()
    assert len(made) == 1000 and stats.reason is StopReason.LENGTH and len(stats.shifts) >= 7
    everything = [*ids, *made[:-1]]
    for shift in stats.shifts:
        shift.apply(everything)
    # the last token is not decoded: no other may follow
    assert list(small.held) == everything
    assert list(small.held[:7]) == ids[:7]
    assert positions(small) == (0, len(small.held) - 1)


def test_after_a_shift_the_memory_goes_on(small: Context, demo_model: Model) -> None:
    ids = demo_model.vocab.tokenize("春" * 150 + "[INST] 背一下静夜思", special=False, bos=True)
    small.feed(ids)
    small.discard(1, 100)
    assert list(small.held) == [ids[0], *ids[101:]] and not small.ready
    assert small.feed([*small.held, 5, 6]) == 2
    assert positions(small) == (0, len(ids) - 100 + 1)


def test_too_much_at_once(small: Context) -> None:
    small.feed([5] * 200)
    with pytest.raises(ContextFull):
        fill(small, [5] * 200 + [6] * 250, seen=200, keep=10)
    with pytest.raises(ContextFull):
        fill(small, [5] * 256, seen=0, keep=0)
    with pytest.raises(ContextFull):
        fill(small, [5] * 255 + [6] * 2, seen=255, keep=255)
    # However much is kept, what fits fits.
    _, shifts = fill(small, [5] * 200 + [6] * 100, seen=200, keep=150)
    assert shifts and len(small.held) < 256 and list(small.held[-100:]) == [6] * 100


def listen(session: Session, question: str) -> Done:
    *_, done = session.ask(question)
    assert isinstance(done, Done)
    return done


def test_the_system_prompt_is_pinned(small: Context) -> None:
    vocab = small.model.vocab
    style = styles.STYLES["alpaca-2"]
    session = Session(small, StylePrompt(vocab, style), ENDLESS, system=style.system, limit=60, shift=True)
    listen(session, "背一下静夜思")
    head = vocab.tokenize(f"[INST] <<SYS>>\n{style.system}\n<</SYS>>\n\n", special=True, bos=True)
    shifted = 0
    for _ in range(12):
        done = listen(session, "背一下春晓")
        shifted += len(done.stats.shifts)
        assert session.ids[: len(head)] == head
        assert done.used == len(session.ids) < small.n_ctx
        assert list(small.held) == session.ids[: len(small.held)] and len(session.ids) - len(small.held) <= 1
    assert shifted >= 3
    # The whole of what is left can be taken back and asked again.
    assert session.undo() is not None
    assert listen(session, "背一下春晓").stats.tokens == 60


def test_without_a_shift_a_full_context_is_the_end(small: Context) -> None:
    session = Session(small, StylePrompt(small.model.vocab, styles.STYLES["none"]), ENDLESS)
    assert listen(session, "春").reason is StopReason.FULL
    with pytest.raises(ContextFull):
        listen(session, "春")


def test_a_template_that_rewrites_history_leaves_out_the_oldest(small: Context) -> None:
    source = "{% for m in messages %}{{ m.role }}{{ loop.length }}: {{ m.content }}\n{% endfor %}"
    template = TemplatePrompt(small.model.vocab, ChatTemplate(source))
    session = Session(small, template, ENDLESS, system="Be kind.", limit=40, shift=True)
    for number in range(10):
        done = listen(session, f"question {number}")
    text = b"".join(small.model.vocab.piece(token, special=True) for token in session.ids).decode(errors="replace")
    assert "Be kind." in text and "question 9" in text and "question 0" not in text
    assert done.used < small.n_ctx


def test_nothing_left_to_forget(small: Context) -> None:
    sampler = Sampler(small.model, ENDLESS, small.n_ctx)
    stats = GenerationStats()
    list(generate(small, sampler, [1] + [5] * 200, stats=stats, limit=100, keep=254))
    sampler.close()
    assert stats.reason is StopReason.FULL and stats.tokens > 50
