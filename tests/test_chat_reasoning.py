"""Models that think first: what is shown as what, and what later turns see of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ggufrun.chat import store
from ggufrun.chat.export import as_json, as_markdown
from ggufrun.chat.formats import styles
from ggufrun.chat.formats.prompt import Format, StylePrompt
from ggufrun.chat.formats.reasoning import MARKS, THINK, Marks, Splitter, control_names, marks_of, opened_by
from ggufrun.chat.formats.template import ChatTemplate
from ggufrun.chat.formats.template_prompt import TemplatePrompt
from ggufrun.chat.question_list import answer_all, read_items
from ggufrun.chat.reply import Text, Thought
from ggufrun.chat.session import Done, Session
from ggufrun.engine.context import Context
from ggufrun.engine.sampling.sampler import SamplingParams
from ggufrun.errors import FormatError
from tests.conftest import Oracle


def split(text: str, size: int, opened: Marks | None = None, marks: tuple[Marks, ...] = MARKS) -> tuple[str, str]:
    """Reasoning and answer of a text that comes in pieces of ``size`` characters."""
    splitter = Splitter(marks, opened)
    pieces = [piece for at in range(0, len(text), size) for piece in splitter.feed(text[at : at + size])]
    pieces += splitter.flush()
    assert all(part for part, _ in pieces)
    if splitter.answer_at is not None:
        answer = "".join(part for part, thought in pieces if not thought)
        assert text[splitter.answer_at :].startswith(answer)
    reasoning, answer = ("".join(part for part, thought in pieces if thought is wanted) for wanted in (True, False))
    return reasoning, answer


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize(
    ("text", "reasoning", "answer"),
    [
        ("<think>\n想一想\n\nso\n</think>\n\nHello\n", "想一想\n\nso", "Hello\n"),
        ("<think>\n\n</think>\n\nHello", "", "Hello"),
        ("<think>never ends \n", "never ends", ""),
        ("<think>a</think>\n<think>b</think>c", "a\n\nb", "c"),
        ("<think>a</think>\n\n", "a", ""),
        ("<think>a</think>\n<thin", "a", "\n<thin"),
        ("Hello <think>x</think>", "", "Hello <think>x</think>"),
        ("  \n two", "", "  \n two"),
        ("<thin", "", "<thin"),
        ("a < b", "", "a < b"),
        ("<response>x</response>", "", "<response>x</response>"),
        ("<think>a</think><response>x y</response>\n", "a", "x y"),
        ("<think>a</think>x </response> y", "a", "x </response> y"),
        ("<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>Hi", "hm", "Hi"),
        ("<|channel|>final<|message|>Hi", "", "Hi"),
        ("<|START_THINKING|>hm<|END_THINKING|><|START_RESPONSE|>Hi<|END_RESPONSE|>", "hm", "Hi"),
        (
            "<|begin_of_thought|>\n\nhm\n\n<|end_of_thought|>\n\n<|begin_of_solution|>\n\nHi\n\n<|end_of_solution|>",
            "hm",
            "Hi",
        ),
        ("[THINK]hm[/THINK]Hi [THINK]", "hm", "Hi [THINK]"),
        ("", "", ""),
    ],
)
def test_reasoning_and_answer(text: str, reasoning: str, answer: str, size: int) -> None:
    assert split(text, size) == (reasoning, answer)


@pytest.mark.parametrize("size", [1, 4, 1000])
def test_a_prompt_that_has_begun_to_think(size: int) -> None:
    assert split("hm\n</think>\n\nHi", size, THINK) == ("hm", "Hi")
    assert split("hm", size, THINK) == ("hm", "")
    assert opened_by("<|im_start|>assistant\n<think>\n", MARKS) is THINK
    assert opened_by("<think>\n\n</think>\n\n", MARKS) is None


class Words:
    """A vocabulary of which only its control tokens are known."""

    def __init__(self, *controls: str) -> None:
        self.controls = {text: token for token, text in enumerate(controls, 7)}

    def control(self, text: str) -> int | None:
        return self.controls.get(text)

    def tokenize(self, text: str, *, special: bool) -> list[int]:
        return [self.controls[text]]

    def piece(self, token: int, special: bool = False) -> bytes:
        return next(text for text, number in self.controls.items() if number == token).encode() if special else b""


def test_marks_are_known_by_the_vocabulary_or_the_template() -> None:
    vocab: Any = Words("[THINK]", "[/THINK]", "<end>")
    (mistral,) = set(marks_of(vocab)) - {THINK}
    assert (mistral.opening, mistral.closing) == ("[THINK]", "[/THINK]")
    assert {mark.opening for mark in marks_of(vocab, "{{ '<seed:think>' }}")} == {"<think>", "[THINK]", "<seed:think>"}
    # what is no control token is no sign of anything in a vocabulary
    assert marks_of(Words("Here are my reasoning steps:")) == (THINK,)  # type: ignore[arg-type]
    names = control_names(vocab, [mistral], ["<end>"])
    assert dict(names) == {7: b"[THINK]", 8: b"[/THINK]", 9: b"<end>"}


def test_no_marks_no_reasoning() -> None:
    assert split("<think>a</think>b", 3, marks=()) == ("", "<think>a</think>b")


@pytest.mark.parametrize("size", [1, 5, 1000])
def test_published_templates(oracle: Oracle, demo_context: Context, size: int) -> None:
    """What a template writes of an answer that was thought about, a model writes too: it is told apart again."""
    folder = oracle.convert.parent / "models" / "templates"
    question = {"role": "user", "content": "QQQ"}
    answer = {"role": "assistant", "content": "the answer", "reasoning_content": "some thoughts"}
    variables = {"enable_thinking": True, "thinking": True, "reasoning_effort": "high"}
    told, wrong = [], {}
    for path in sorted(folder.glob("*.jinja")):
        source = path.read_text("utf-8")
        template = ChatTemplate(source)
        marks = marks_of(demo_context.model.vocab, source)
        try:
            prompt, whole = (
                template.render(messages, prompt=prompt, variables=variables)
                for messages, prompt in (([question], True), ([question, answer], False))
            )
        except FormatError:
            continue
        if "some thoughts" not in whole[whole.rindex("QQQ") :]:
            continue
        # what stands behind the generation prompt, up to the end of the answer
        start = next(at for at in range(len(prompt), 0, -1) if whole.startswith(prompt[:at]))
        said = whole[start : whole.rindex("the answer") + len("the answer")]
        told.append(path.stem)
        opened = opened_by(prompt, marks) if "<think>" not in said else None
        if split(said, size, opened, marks) != ("some thoughts", "the answer"):
            wrong[path.stem] = (prompt[start - 30 :], said)
    assert len(told) > 20 and not wrong


QWEN = (
    "{% for m in messages %}<{{ m.role }}>{% if m.role == 'assistant' and m.reasoning_content and loop.last %}"
    "<think>\n{{ m.reasoning_content }}\n</think>\n\n{% endif %}{{ m.content }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% if enable_thinking is defined and not enable_thinking %}"
    "<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
"""Earlier reasoning is left out, as by Qwen 3; it can be switched off."""

DEEPSEEK = QWEN.replace("<assistant>{% if enable", "<assistant><think>\n{% if enable").replace(
    "<{{ m.role }}>{% if", "<{{ m.role }}>{% if"
)
"""The prompt opens the reasoning, as by DeepSeek R1."""

KEEPS = QWEN.replace(" and loop.last", "")
"""Earlier reasoning stays."""

SAID = "<think>\nhm, 诗\n</think>\n\n你好！"


def literal(text: str) -> SamplingParams:
    """Settings with which a model can say nothing but ``text``."""
    return SamplingParams(temp=0, grammar=f"root ::= {json.dumps(text, ensure_ascii=False)}")


def ask(session: Session, question: str, said: str) -> tuple[str, str, Done]:
    session.sampling = literal(said)
    events = list(session.ask(question))
    done = events[-1]
    assert isinstance(done, Done)
    thought = "".join(event.text for event in events if isinstance(event, Thought))
    return thought, "".join(event.text for event in events if isinstance(event, Text)), done


def shown(context: Context, ids: list[int]) -> str:
    vocab = context.model.vocab
    return b"".join(vocab.piece(token, special=True) for token in ids).decode()


@pytest.mark.parametrize(
    ("source", "said", "second"),
    [
        (QWEN, SAID, "<user>a</s><assistant>你好！</s><user>b</s><assistant>"),
        (DEEPSEEK, SAID.removeprefix("<think>\n"), "<user>a</s><assistant>你好！</s><user>b</s><assistant><think>\n"),
        (KEEPS, SAID, f"<user>a</s><assistant>{SAID}</s><user>b</s><assistant>"),
    ],
    ids=["Qwen", "DeepSeek", "keeps"],
)
def test_later_turns_see_what_the_template_keeps(demo_context: Context, source: str, said: str, second: str) -> None:
    vocab = demo_context.model.vocab
    session = Session(demo_context, TemplatePrompt(vocab, ChatTemplate(source)), SamplingParams())
    thought, answer, first = ask(session, "a", said)
    assert (thought, answer) == ("hm, 诗", "你好！")
    assert (session.past[0].reasoning, session.past[0].answer) == (thought, answer)
    before = list(session.ids)
    _, _, done = ask(session, "b", said)
    fed = session.ids[: len(session.ids) - len(done.generated)]
    assert shown(demo_context, fed).replace(" ", "") == "<s>" + second.replace(" ", "")
    # What is in the memory is what was fed, and only what is new in it was computed.
    assert list(demo_context.held) == session.ids[:-1]
    common = next(at for at, (one, other) in enumerate(zip([*before, -1], [*fed, -2], strict=False)) if one != other)
    assert done.stats.decoded_prompt_tokens == len(fed) - min(common, len(before) - 1)
    if source != DEEPSEEK:
        # the question's own tokens are not computed again
        new = vocab.tokenize("<user>b</s><assistant>", special=True)
        assert done.stats.decoded_prompt_tokens <= len(first.generated) + len(new)
    session.undo()
    assert session.ids == before


def test_styles_drop_reasoning(demo_context: Context) -> None:
    session = Session(demo_context, StylePrompt(demo_context.model.vocab, styles.STYLES["alpaca-2"]), SamplingParams())
    ask(session, "a", SAID)
    ask(session, "b", "c")
    assert "think" not in shown(demo_context, session.ids) and "你好" in shown(demo_context, session.ids)


def test_thinking_can_be_switched(demo_context: Context) -> None:
    prompt = TemplatePrompt(demo_context.model.vocab, ChatTemplate(QWEN))
    assert prompt.think(False) and prompt.turn([], [], "", "a").rendered.endswith("<think>\n\n</think>\n\n")
    assert prompt.think(True) and prompt.turn([], [], "", "a").rendered.endswith("<assistant>")
    assert not TemplatePrompt(demo_context.model.vocab, ChatTemplate("{{ messages }}")).think(False)


@pytest.mark.parametrize("kind", ["Qwen", "style"])
def test_sessions_and_exports_keep_it_apart(demo_context: Context, tmp_path: Path, kind: str) -> None:
    vocab = demo_context.model.vocab
    format: Format = TemplatePrompt(vocab, ChatTemplate(QWEN))
    if kind == "style":
        format = StylePrompt(vocab, styles.STYLES["chatml"])
    session = Session(demo_context, format, SamplingParams())
    ask(session, "a", SAID)
    path = tmp_path / "talk.json"
    store.save(session, path)
    again = Session(demo_context, format, SamplingParams())
    store.load(again, path)
    assert again.past == session.past and again.past[0].thought is not None
    message = json.loads(as_json(again))["messages"][1]
    assert message == {"role": "assistant", "content": "你好！", "reasoning_content": "hm, 诗"}
    assert "<details><summary>Reasoning</summary>\n\nhm, 诗\n\n</details>\n\n你好！" in as_markdown(again)
    # With another format the words are read again, and what was thought is still known.
    other = Session(demo_context, StylePrompt(vocab, styles.STYLES["alpaca-2"]), SamplingParams())
    store.load(other, path, adopt=False)
    assert [turn.reasoning for turn in other.past] == ["hm, 诗"]
    value = json.loads(path.read_bytes())
    value["turns"][0]["thought"] = [5, 10**9]
    path.write_text(json.dumps(value))
    with pytest.raises(FormatError, match="damaged"):
        store.load(again, path)


def test_a_schema_waits_for_the_thoughts(demo_context: Context) -> None:
    """The prompt opens the thoughts: what comes before their end is the model's own, in conversations and in lists."""
    format = TemplatePrompt(demo_context.model.vocab, ChatTemplate(DEEPSEEK))
    object_only = SamplingParams(temp=0, grammar='root ::= "{" [a-z]* "}"')
    session = Session(demo_context, format, object_only, limit=12)
    events = list(session.ask("背一下静夜思"))
    free = Session(demo_context, format, SamplingParams(temp=0), limit=12)
    assert events[:-1] == list(free.ask("背一下静夜思"))[:-1]
    assert session.past[-1].reasoning == free.past[-1].reasoning != "" and session.past[-1].answer == ""
    demo_context.clear()
    [result] = answer_all(demo_context, format, object_only, read_items("背一下静夜思"), limit=12, longest=256)
    assert (result.reasoning, result.answer) == (session.past[-1].reasoning, "")
