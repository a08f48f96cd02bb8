"""Conversations with the embedded model: what is fed, what is kept, what is shown."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ggufrun.chat.formats import styles
from ggufrun.chat.formats.choose_format import FormatOptions, choose
from ggufrun.chat.formats.prompt import AffixPrompt, StylePrompt
from ggufrun.chat.formats.template import ChatTemplate
from ggufrun.chat.formats.template_prompt import TemplatePrompt
from ggufrun.chat.reply import Text
from ggufrun.chat.session import Done, Event, Session, Start
from ggufrun.engine.context import Context
from ggufrun.engine.decoder import Interrupted
from ggufrun.engine.generate import StopReason
from ggufrun.engine.sampling.sampler import SamplingParams
from ggufrun.engine.sequence import ContextFull
from ggufrun.errors import EngineError, FormatError, NotFoundError, UsageError
from tests.conftest import Oracle
from tests.oracles import chat_oracle
from tests.support.poems import POEMS

GREEDY = SamplingParams(temp=0)


def listen(events: Iterator[Event]) -> tuple[str, Done]:
    """The answer, and how it ended."""
    start, *middle, done = list(events)
    assert isinstance(start, Start) and isinstance(done, Done)
    assert all(isinstance(event, Text) and event.text for event in middle)
    return "".join(event.text for event in middle if isinstance(event, Text)), done


@pytest.fixture
def session(demo_context: Context) -> Session:
    """In the format of the model's own template."""
    return Session(demo_context, choose(demo_context.model, FormatOptions()).format, GREEDY)


def style_session(context: Context, name: str = "alpaca-2", **options: object) -> Session:
    style = styles.STYLES[name]
    return Session(context, StylePrompt(context.model.vocab, style), GREEDY, system=style.system, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["template", "alpaca-2"])
def test_a_conversation(demo_context: Context, session: Session, kind: str) -> None:
    if kind != "template":
        session = style_session(demo_context, kind)
    vocab = demo_context.model.vocab
    answer, first = listen(session.ask("背一下静夜思"))
    assert answer == POEMS["静夜思"]
    assert first.reason is StopReason.END
    assert first.stats.decoded_prompt_tokens == len(first.new_ids) == first.stats.prompt_tokens
    answer, second = listen(session.ask("这首诗是谁写的？"))
    assert "李白" in answer
    # The model's own end of text is fed with the new turn; all else is in the memory already.
    assert second.stats.decoded_prompt_tokens == len(second.new_ids) + 1
    assert session.ids == [*first.new_ids, *first.generated, *second.new_ids, *second.generated]
    assert session.ids.count(vocab.bos) == 2 and session.ids[-1] == vocab.eos
    assert second.used == len(session.ids)


def test_chat_sh_answers_are_llama_cpps(demo_context: Context) -> None:
    """The whole recorded conversation, sampled with the script's settings and the recorded seed."""
    golden = chat_oracle.read("chat_sh.json")
    affixes = AffixPrompt(demo_context.model.vocab, prefix=" [INST] ", suffix=" [/INST]", prefix_bos=True)
    sampling = SamplingParams(temp=0.5, top_k=40, top_p=0.9, repeat_penalty=1.1, seed=42)
    session = Session(demo_context, affixes, sampling)
    answer, done = listen(session.open(chat_oracle.CHAT_SH[chat_oracle.CHAT_SH.index("-p") + 1]))
    assert (list(done.new_ids), answer) == (golden["prompt"], golden["answers"][0])
    for user, ids, wanted in zip(chat_oracle.LATER, golden["turns"], golden["answers"][1:], strict=True):
        answer, done = listen(session.ask(user))
        assert (list(done.new_ids), answer) == (ids, wanted)


def test_template_token_for_token(session: Session) -> None:
    fed = [list(listen(session.ask(question))[1].new_ids) for question in chat_oracle.QUESTIONS]
    assert fed == chat_oracle.read("chat_template_ids.json")


def test_template_ids_today(oracle: Oracle, demo_gguf: Callable[[str], Path]) -> None:
    fresh = chat_oracle.record_template(oracle.binaries / "llama-completion", demo_gguf("q8_0"))
    assert fresh == chat_oracle.read("chat_template_ids.json")


def test_a_template_feeds_only_what_is_new(demo_context: Context, session: Session) -> None:
    """A second turn begins with the very ids of the first, its answer included."""
    listen(session.ask("背一下静夜思"))
    before = list(session.ids)
    _, done = listen(session.ask("作者是谁？"))
    assert session.ids[: len(before)] == before
    vocab = demo_context.model.vocab
    assert list(done.new_ids) == vocab.tokenize("<s>[INST] 作者是谁？ [/INST]", special=True)


def test_a_template_closes_an_answer_cut_short(demo_context: Context, session: Session) -> None:
    session.limit = 4
    _, first = listen(session.ask("背一下静夜思"))
    assert first.reason is StopReason.LENGTH and len(first.generated) == 4
    session.limit = -1
    _, done = listen(session.ask("背一下春晓"))
    assert done.new_ids[:2] == (demo_context.model.vocab.eos, demo_context.model.vocab.bos)


def test_a_template_that_rewrites_history_is_rendered_anew(demo_context: Context) -> None:
    source = "{% for m in messages %}{{ m.role }}{{ loop.length }}: {{ m.content }}\n{% endfor %}"
    vocab = demo_context.model.vocab
    session = Session(demo_context, TemplatePrompt(vocab, ChatTemplate(source)), GREEDY, limit=3)
    listen(session.ask("a"))
    _, done = listen(session.ask("b"))
    answer = session.past[0].answer
    text = f"user3: a\nassistant3: {answer}\nuser3: b\n"
    assert list(done.new_ids) == vocab.tokenize(text, special=True, bos=True)


def test_what_templates_want_of_messages(demo_context: Context) -> None:
    """A system prompt that the template leaves out goes before the question; parts and lists are given where wanted."""
    vocab = demo_context.model.vocab
    for source, text in (
        ("{% for m in messages if m.role == 'user' %}[{{ m.content }}]{% endfor %}", "[Be kind.\n\nhi]"),
        ("{% for m in messages %}[{% for p in m.content %}{{ p.text }}{% endfor %}]{% endfor %}", "[Be kind.][hi]"),
        ("{% for t in tools %}{% endfor %}{% for m in messages %}[{{ m.content }}]{% endfor %}", "[Be kind.][hi]"),
        ("{{ messages | tojson }}", '[{"role": "system", "content": "Be kind."}, {"role": "user", "content": "hi"}]'),
    ):
        assert TemplatePrompt(vocab, ChatTemplate(source)).turn([], [], "Be kind.", "hi").rendered == text
    variables = {"documents": [{"text": "d"}]}
    source = "{% for d in documents %}{{ d.text }}{% endfor %}{{ messages[0].content }}"
    assert TemplatePrompt(vocab, ChatTemplate(source), (), variables).turn([], [], "", "hi").rendered == "dhi"


def test_bos_is_fed_once(demo_context: Context) -> None:
    vocab = demo_context.model.vocab
    for source in ("{{ bos_token }}{{ messages[0].content }}", "{{ messages[0].content }}"):
        prompt = TemplatePrompt(vocab, ChatTemplate(source)).turn([], [], "", "hi")
        assert prompt.ids == vocab.tokenize("hi", special=False, bos=True)


def test_a_template_without_a_system_role(demo_context: Context) -> None:
    source = (
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        "{{ m.content }}{% endfor %}"
    )
    prompt = TemplatePrompt(demo_context.model.vocab, ChatTemplate(source)).turn([], [], "Be kind.", "hi")
    assert prompt.rendered == "Be kind.\n\nhi"


def test_an_empty_prompt(demo_context: Context) -> None:
    with pytest.raises(FormatError, match="empty prompt"):
        TemplatePrompt(demo_context.model.vocab, ChatTemplate(" ")).turn([], [], "", "hi")


def test_undo_and_regenerate(session: Session) -> None:
    listen(session.ask("背一下静夜思"))
    ids = list(session.ids)
    second, _ = listen(session.ask("背一下春晓"))
    again, done = listen(session.again())
    assert again == second == POEMS["春晓"]
    # The question is in the memory; only its last token is decoded again, for its logits.
    assert done.stats.decoded_prompt_tokens == 1
    assert session.undo() is not None and session.ids == ids and len(session.past) == 1
    assert session.undo() is not None and session.ids == [] and session.undo() is None
    assert list(session.again()) == []


def test_another_attempt_takes_another_seed(session: Session) -> None:
    session.sampling = replace(GREEDY, temp=5.0, top_k=0, top_p=1.0, min_p=0.0, seed=9)
    session.limit = 12
    answers = [listen(session.ask("背一下静夜思"))[0], listen(session.again())[0], listen(session.again())[0]]
    assert len(set(answers)) == 3
    session.undo()
    assert listen(session.ask("背一下静夜思"))[0] == answers[0]


def test_regenerating_an_opening(demo_context: Context) -> None:
    session = Session(demo_context, AffixPrompt(demo_context.model.vocab), GREEDY)
    first, _ = listen(session.open("[INST] 背一下春晓 [/INST]"))
    assert listen(session.again())[0] == first == POEMS["春晓"]
    with pytest.raises(EngineError):
        list(style_session(demo_context).open("text"))


def test_an_interrupted_answer_is_kept(session: Session, demo_context: Context) -> None:
    shown = ""
    done = None
    for event in session.ask("背一下静夜思"):
        if isinstance(event, Text):
            shown += event.text
            if len(shown) >= 4:
                demo_context.interrupt()
        done = event
    assert isinstance(done, Done) and done.reason is StopReason.INTERRUPTED
    assert 4 <= len(shown) < 10 and POEMS["静夜思"].startswith(shown)
    assert session.past[-1].answer == shown
    # And the conversation goes on.
    assert listen(session.ask("背一下春晓"))[0] == POEMS["春晓"]


def test_a_listener_that_leaves_keeps_what_was_said(session: Session) -> None:
    events = session.ask("背一下静夜思")
    while not isinstance(next(events), Text):
        pass
    events.close()  # type: ignore[attr-defined]
    assert len(session.past) == 1 and POEMS["静夜思"].startswith(session.past[0].answer)
    assert listen(session.ask("背一下春晓"))[0] == POEMS["春晓"]


def test_a_question_without_an_answer_is_not_kept(
    session: Session, demo_context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(ids: object) -> int:
        raise Interrupted

    with monkeypatch.context() as patch:
        patch.setattr(demo_context, "feed", interrupted)
        answer, done = listen(session.ask("背一下静夜思"))
    assert (answer, done.reason) == ("", StopReason.INTERRUPTED)
    assert session.past == [] and session.ids == []


def test_penalties_see_the_question(session: Session) -> None:
    session.sampling = replace(GREEDY, presence_penalty=99.0)
    session.limit = 12
    _, done = listen(session.ask("背一下静夜思"))
    assert not set(done.new_ids) & set(done.generated)


def test_once(demo_context: Context) -> None:
    session = style_session(demo_context, once=True)
    first, _ = listen(session.ask("背一下静夜思"))
    again, _ = listen(session.ask("背一下静夜思"))
    assert first == again and len(session.past) == 1


def test_a_question_longer_than_the_context_changes_nothing(session: Session) -> None:
    listen(session.ask("背一下静夜思"))
    ids = list(session.ids)
    with pytest.raises(ContextFull, match="the context has 512"):
        list(session.ask("春" * 600))
    assert session.ids == ids and len(session.past) == 1
    assert listen(session.ask("背一下春晓"))[0] == POEMS["春晓"]


def test_a_stop_text_leaves_the_context(demo_context: Context) -> None:
    vocab = demo_context.model.vocab
    session = style_session(demo_context)
    session.format = StylePrompt(vocab, styles.STYLES["alpaca-2"], ["疑是"])
    answer, done = listen(session.ask("背一下静夜思"))
    assert answer == "床前明月光，" and done.reason is StopReason.TEXT
    kept = session.ids[len(done.new_ids) :]
    assert b"".join(map(vocab.piece, kept)).decode() == " 床前明月光，"


def test_a_reverse_prompt_stays_in_the_context(demo_context: Context) -> None:
    session = Session(demo_context, AffixPrompt(demo_context.model.vocab, reverse=["疑是"]), GREEDY)
    answer, done = listen(session.open("[INST] 背一下静夜思 [/INST]"))
    assert answer == "床前明月光，" and done.reason is StopReason.TEXT
    assert session.ids == [*done.new_ids, *done.generated]


def test_an_opening_that_ends_with_a_reverse_prompt(demo_context: Context) -> None:
    session = Session(demo_context, AffixPrompt(demo_context.model.vocab, reverse=["User:"]), GREEDY)
    assert session.waits_after("A talk.\nUser:") and not session.waits_after("A talk.")
    session.place("A talk.\nUser:")
    assert session.ids == demo_context.model.vocab.tokenize("A talk.\nUser:", special=True, bos=True)


def test_which_format(demo_context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    model = demo_context.model
    assert choose(model, FormatOptions()).format.name == "template"
    assert choose(model, FormatOptions(style="chatml")).format.name == "chatml"
    assert choose(model, FormatOptions(template="llama2")).format.name == "llama-2"
    assert choose(model, FormatOptions(template="{{ messages }}")).format.name == "template"
    assert choose(model, FormatOptions(prefix="")).format.name == "affixes"
    assert choose(model, FormatOptions(raw=True)).format.name == "affixes"
    with pytest.raises(UsageError, match="--style"):
        choose(model, FormatOptions(style="chatml", prefix="x"))
    with pytest.raises(NotFoundError):
        choose(model, FormatOptions(template="no-such-file"))
    monkeypatch.setitem(model.__dict__, "chat_template", None)
    choice = choose(model, FormatOptions())
    assert choice.format.name == "none" and "base model" in choice.warnings[0]
    monkeypatch.setitem(model.__dict__, "name", "Chinese-Alpaca-2-1.3B")
    choice = choose(model, FormatOptions())
    assert choice.format.name == "alpaca-2" and choice.sampling["temp"] == 0.5
    assert choice.system == styles.ALPACA_2_SYSTEM
    monkeypatch.setitem(model.__dict__, "chat_template", "{% if %}")
    with pytest.raises(FormatError):
        choose(model, FormatOptions())
