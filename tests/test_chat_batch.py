"""What a list of questions may look like, and answers by a batch against a session's."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ggufrun.chat.formats import styles
from ggufrun.chat.formats.prompt import StylePrompt
from ggufrun.chat.question_list import Item, answer_all, read_items, sizes
from ggufrun.chat.replay import replay
from ggufrun.chat.reply import Text
from ggufrun.chat.session import Session
from ggufrun.engine.context import Context, ContextParams
from ggufrun.engine.model import Model
from ggufrun.engine.sampling.sampler import SamplingParams
from ggufrun.errors import FormatError
from tests.support.poems import POEMS

GREEDY = SamplingParams(temp=0)


def test_one_item_a_line() -> None:
    text = 'one\n\n  two \r\n{"instruction": "a", "input": "b"}\n{"prompt": "p", "system": "s"}\n{ not json\n{"x": 1}\n'
    items = read_items(text)
    assert [item.user for item in items] == ["one", "  two ", "a\nb", "p", "{ not json", ""]
    assert [item.index for item in items] == list(range(6))
    assert items[3].system == "s" and items[0].system is None
    assert items[5].error and not any(item.error for item in items[:5])
    assert items[2].given == {"instruction": "a", "input": "b"}


def test_a_document() -> None:
    assert [item.user for item in read_items('["a", {"question": "b"}]', document=True)] == ["a", "b"]
    for text in ("{}", "[", "[" * 100000):
        with pytest.raises(FormatError):
            read_items(text, document=True)
    assert read_items("[1, null]", document=True)[0].error


def said(*pairs: tuple[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content} for role, content in pairs]}


def test_messages() -> None:
    fine = said(("system", "s"), ("user", "a"), ("assistant", "b"), ("user", "c"))
    (item,) = read_items(json.dumps(fine))
    assert (item.system, item.turns, item.user) == ("s", (("a", "b"),), "c")
    for wrong in (
        said(),
        said(("system", "s")),
        said(("user", "a"), ("assistant", "b")),
        said(("user", "a"), ("user", "b")),
        said(("assistant", "a"), ("user", "b")),
        said(("user", ["a"])),
        said(("user", None)),
        {"messages": "a"},
        {"messages": ["a"]},
    ):
        (item,) = read_items(json.dumps(wrong))
        assert item.error, wrong


def test_answers_are_those_of_a_session(demo_model: Model, demo_context: Context) -> None:
    style = styles.STYLES["alpaca-2"]
    format = StylePrompt(demo_model.vocab, style)
    questions = [f"背一下{title}" for title in list(POEMS)[:6]]
    session = Session(demo_context, format, GREEDY, system=style.system, once=True)
    wanted = ["".join(event.text for event in session.ask(text) if isinstance(event, Text)) for text in questions]
    assert wanted[0] == POEMS[next(iter(POEMS))]
    later = Item(6, "", "这首诗是谁写的？", (("背一下静夜思", POEMS["静夜思"]),))
    items = [*(Item(i, text, text) for i, text in enumerate(questions)), later, Item(7, "", "春" * 600)]
    params = ContextParams(n_ctx=1024, threads=1, outputs=3, sequences=3)
    with Context(demo_model, params) as context:
        results = list(answer_all(context, format, GREEDY, items, system=style.system, longest=256))
    results.sort(key=lambda result: result.item.index)
    assert [result.answer for result in results[:6]] == wanted
    assert "李白" in results[6].answer
    assert "takes" in results[7].error and not results[7].answer


def test_replayed_words_become_the_ids_of_a_conversation(demo_context: Context) -> None:
    vocab = demo_context.model.vocab
    format = StylePrompt(vocab, styles.STYLES["alpaca-2"])
    session = Session(demo_context, format, GREEDY, system="s")
    list(session.ask("背一下静夜思"))
    past, ids = replay(format, vocab, "s", [("背一下静夜思", POEMS["静夜思"])])
    assert ids == session.ids and past[0].step.taken_back(ids) == []


def test_what_a_list_takes(demo_model: Model) -> None:
    """The beginning that most questions have in common, a system prompt for one, and the longest question's tokens."""
    vocab = demo_model.vocab
    format = StylePrompt(vocab, styles.STYLES["llama-2"])
    texts = ["背一下静夜思", "背一下春晓" * 9, "作者是谁？"]
    items = read_items("\n".join([*texts, json.dumps({"instruction": "x", "system": "其他"}), "[1]"]))
    system = "You are a helpful assistant."
    common, longest = sizes(items, format, vocab, system)
    head = vocab.tokenize(f"[INST] <<SYS>>\n{system}\n<</SYS>>\n\n", special=False, bos=True)
    ids = [format.turn([], [], system, text).ids for text in texts]
    assert longest == max(map(len, ids))
    assert 0 <= common - len(head) < 4 and all(one[: len(head)] == head for one in ids)
    assert sizes([], format, vocab, system) == (0, 0)
