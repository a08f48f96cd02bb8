"""What a conversation keeps of its turns: taken back exactly, known again, and no more than each turn brought."""

from __future__ import annotations

import json
from array import array
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ggufrun.chat import store
from ggufrun.chat.formats.choose_format import FormatOptions, choose
from ggufrun.chat.formats.history import Exchange, Step, Trace, window
from ggufrun.chat.formats.prompt import StylePrompt
from ggufrun.chat.formats.styles import STYLES
from ggufrun.chat.formats.template import ChatTemplate
from ggufrun.chat.formats.template_prompt import TemplatePrompt
from ggufrun.chat.session import Done, Session
from ggufrun.engine.context import Context, ContextParams
from ggufrun.engine.model import Model
from ggufrun.engine.sampling.params import SamplingParams
from ggufrun.engine.state import identity
from ggufrun.errors import FormatError

GREEDY = SamplingParams(temp=0)
QUESTIONS = ("背一下静夜思", "这首诗是谁写的？", "背一下春晓", "再背一首", "作者是谁？")


def ask(session: Session, text: str) -> Done:
    *_, done = list(session.ask(text))
    assert isinstance(done, Done)
    return done


@pytest.mark.parametrize(
    ("before", "after", "kept", "lost"),
    [
        ([], [1, 2], 0, []),
        ([1, 2], [1, 2, 3], 2, []),
        ([1, 2, 3, 4], [1, 2, 9], 2, [3, 4]),
        ([1, 2, 3], [1, 2, 3], 3, []),
        ([5], [6], 0, [5]),
    ],
)
def test_a_step_is_taken_back(before: list[int], after: list[int], kept: int, lost: list[int]) -> None:
    step = Step.between(before, after)
    assert step == Step(kept, array("i", lost))
    assert step.taken_back(after) == step.taken_back([*after, 7, 8]) == before


def test_a_trace_knows_what_it_is_of() -> None:
    text, ids = Trace.of_text("床前明月光\ud800"), Trace.of_ids([1, 2, 3])
    assert text.begins("床前明月光\ud800") and text.begins("床前明月光\ud800，")
    assert not text.begins("床前明月光") and not text.begins("床前明月亮\ud800")
    assert ids.is_of((1, 2, 3)) and not ids.is_of([1, 2]) and not ids.is_of([1, 2, 4])
    assert Trace.of_text("").begins("x")


def test_the_window_moves_on_in_large_steps() -> None:
    past = [Exchange("", "", Step(), size=10) for _ in range(100)]
    assert window(past[:40], 0, 100) == 0
    assert window(past[:41], 0, 100) == 21
    assert window(past[:60], 21, 100) == 21
    assert window(past, 0, 100) == 80
    assert window([Exchange("", "", Step(), size=10**6)], 0, 100) == 0


@pytest.mark.parametrize("kind", ["template", "style"])
@pytest.mark.parametrize("n_ctx", [256, 512])
def test_everything_can_be_taken_back(demo_model: Model, kind: str, n_ctx: int) -> None:
    """Also past what the context has forgotten."""
    with Context(demo_model, ContextParams(n_ctx=n_ctx, threads=1)) as context:
        session = Session(context, format_of(demo_model, kind), GREEDY, limit=50, shift=True)
        seen = []
        for question in QUESTIONS * 2:
            seen.append(list(session.ids))
            ask(session, question)
        shifted = any(exchange.step.lost for exchange in session.past)
        assert shifted == (n_ctx == 256)
        while seen:
            assert session.undo() is not None
            assert session.ids == seen.pop()


def format_of(model: Model, kind: str) -> Any:
    if kind == "style":
        return StylePrompt(model.vocab, STYLES["alpaca-2"])
    if kind == "numbered":
        # every turn makes another text of the first ones
        source = "{% for m in messages %}{{ m.role }}{{ loop.length }}: {{ m.content }}\n{% endfor %}"
        return TemplatePrompt(model.vocab, ChatTemplate(source))
    return choose(model, FormatOptions()).format


def test_what_is_looked_at_is_bounded(demo_model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long conversation in a small context: the texts that the template makes, the turns that it is shown, and what
    each turn keeps have a bound, and the answers are those of a conversation whose past is rendered as a whole.
    """
    rendered: list[int] = []
    render = ChatTemplate.render

    def note(self: ChatTemplate, messages: Any, **options: Any) -> str:
        text = render(self, messages, **options)
        rendered.append(len(text))
        return text

    monkeypatch.setattr(ChatTemplate, "render", note)
    found = []
    for whole in (False, True):
        if whole:
            monkeypatch.setattr("ggufrun.chat.formats.template_prompt.window", lambda past, first, room: first)
        with Context(demo_model, ContextParams(n_ctx=256, threads=1)) as context:
            session = Session(context, format_of(demo_model, "template"), GREEDY, limit=8, shift=True)
            rendered.clear()
            for number in range(150):
                ask(session, QUESTIONS[number % 5])
            found.append(([turn.answer for turn in session.past], session.ids, max(rendered)))
            kept = [len(turn.step.lost) for turn in session.past]
            assert 0 < max(kept) < 256
    (answers, ids, longest), (same_answers, same_ids, whole_length) = found
    assert answers == same_answers and ids == same_ids
    assert longest < whole_length / 2


def test_a_template_that_rewrites_history_is_asked_seldom(demo_model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which turns still fit is found by halving, not by trying one after another."""
    calls = [0]
    render = ChatTemplate.render

    def count(self: ChatTemplate, messages: Any, **options: Any) -> str:
        calls[0] += 1
        return render(self, messages, **options)

    monkeypatch.setattr(ChatTemplate, "render", count)
    with Context(demo_model, ContextParams(n_ctx=256, threads=1)) as context:
        session = Session(context, format_of(demo_model, "numbered"), GREEDY, limit=4, shift=True)
        for number in range(40):
            calls[0] = 0
            done = ask(session, f"question {number}")
            assert calls[0] <= 12 and done.used < 256
            # as many as fit: one turn more would not
            first = session.past[-1].rendered
            assert first is not None
            if first.first:
                more = session.format.turn(session.past[first.first - 1 : -1], [], "", f"question {number}")
                assert len(more.ids) >= 256


def first_form(session: Session, turns: list[tuple[list[int], list[int], str]]) -> dict[str, Any]:
    """What the first version of the program wrote of a conversation."""
    value: dict[str, Any] = {
        "ggufrun session": 1,
        "model": session.context.model.name,
        "identity": identity(session.context),
        "format": session.format.key,
        "prompt": session.format.described,
        "system": session.system,
        "turns": [],
        "placed": [],
        "ids": session.ids,
    }
    for exchange, (before, after, rendered) in zip(session.past, turns, strict=True):
        shorter = [len(part) if session.ids[: len(part)] == part else part for part in (before, after)]
        turn = {"user": exchange.user, "answer": exchange.answer, "before": shorter[0], "after": shorter[1]}
        value["turns"].append({**turn, "rendered": rendered, "opened": exchange.opened})
    return value


@pytest.mark.parametrize("kind", ["template", "style", "numbered"])
@pytest.mark.parametrize("n_ctx", [256, 512])
def test_sessions_of_the_first_form_are_read(demo_model: Model, tmp_path: Path, kind: str, n_ctx: int) -> None:
    """They continue as the conversation itself does, and are taken back as it is."""
    path, params = tmp_path / "talk.json", ContextParams(n_ctx=n_ctx, threads=1)
    with Context(demo_model, params) as context, Context(demo_model, params) as other:
        session = Session(context, format_of(demo_model, kind), GREEDY, limit=20, shift=True)
        turns = []
        for question in QUESTIONS:
            before, prompt = list(session.ids), session._turn(question)
            ask(session, question)
            turns.append((before, list(session.ids), prompt.rendered))
        path.write_text(json.dumps(first_form(session, turns)))
        again = Session(other, format_of(demo_model, kind), GREEDY, limit=20, shift=True)
        assert store.load(again, path).turns == len(QUESTIONS)
        # a template of old has one window only
        plain = [replace(turn, size=0, rendered=None) for turn in session.past]
        assert [replace(turn, size=0, rendered=None) for turn in again.past] == plain
        assert again.ids == session.ids
        for _ in range(2):
            assert again._turn("背一下春晓") == session._turn("背一下春晓")
            assert again.undo() is not None and session.undo() is not None
        # what is written now is the newer form, and is the same conversation
        store.save(again, path)
        assert json.loads(path.read_bytes())["ggufrun session"] == 2
        third = Session(other, format_of(demo_model, kind), GREEDY, limit=20, shift=True)
        store.load(third, path)
        assert third.past == again.past and third.ids == again.ids


def test_a_file_of_a_newer_program_says_so(demo_model: Model, tmp_path: Path, demo_context: Context) -> None:
    session = Session(demo_context, format_of(demo_model, "style"), GREEDY)
    store.save(session, tmp_path / "talk.json")
    value = json.loads((tmp_path / "talk.json").read_bytes())
    (tmp_path / "talk.json").write_text(json.dumps({**value, "ggufrun session": 3}))
    with pytest.raises(FormatError, match="was written by a newer ggufrun; update this one"):
        store.load(session, tmp_path / "talk.json")
